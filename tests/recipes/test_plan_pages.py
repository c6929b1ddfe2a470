"""The plan for many pages: every number follows from those that go in, and operations are those that torch counts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from twoway.errors import UsageError
from twoway.recipes.plan import FORMS, Pages, Prices, forward_operations, plan_pages

MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"


def test_operations_are_those_that_torch_counts(tiny_model):
    folder = tiny_model("qwen2_vl")
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    config = model.config
    tokens, side = 30, 4
    patch = config.vision_config.patch_size * config.vision_config.spatial_merge_size
    values = config.vision_config.in_channels * config.vision_config.temporal_patch_size * config.vision_config.patch_size**2
    grid = torch.tensor([[1, side * config.vision_config.spatial_merge_size, side * config.vision_config.spatial_merge_size]])
    ids = torch.full((1, tokens + side * side), 5)
    ids[0, : side * side] = config.image_token_id
    assert patch
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        kinds = (ids == config.image_token_id).int()
        pixels = torch.randn(int(grid.prod()), values)
        model.model(input_ids=ids, pixel_values=pixels, image_grid_thw=grid, attention_mask=torch.ones_like(ids), mm_token_type_ids=kinds)
    assert forward_operations(folder, Pages(text=tokens, image=side * side)) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_plan_follows_its_formulas():
    pages, prices = Pages(count=1e6, core_seconds=0.2), Prices(core_hour=0.05)
    plan = plan_pages(MODEL, "h100x8", pages=pages, dim=512, utilisation=0.5, padding=0.1, prices=prices, price=2.0)
    assert plan.rate == pytest.approx(989e12 * 0.5 / (forward_operations(MODEL, pages) * 1.1))
    assert plan.accelerator_hours == pytest.approx(1e6 / plan.rate / 3600)
    assert plan.days * 24 * 8 == pytest.approx(plan.accelerator_hours)
    assert plan.dollars["embed"] == pytest.approx(plan.accelerator_hours * 2)
    assert plan.dollars["make pages ready"] == pytest.approx(1e6 * 0.2 / 3600 * 0.05)
    assert plan.cores == pytest.approx(plan.rate * 0.2)
    assert plan.moved == 1e6 * pages.bytes
    assert {form: size for form, (size, _, _) in plan.kept.items()} == {form: 1e6 * 512 * bits / 8 for form, bits in FORMS.items()}
    double = plan_pages(MODEL, "h100x8", pages=dataclasses.replace(pages, count=2e6), dim=512, utilisation=0.5, padding=0.1, price=2.0)
    assert double.accelerator_hours == pytest.approx(2 * plan.accelerator_hours)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"utilisation": 0}, "utilisation is a share"), ({"dim": 0}, "dim 1 or more"), ({"padding": -1}, "padding 0 or more")],
)
def test_wrong_numbers_are_refused(wrong, said):
    with pytest.raises(UsageError, match=said):
        plan_pages(MODEL, "h100", **wrong)
    with pytest.raises(UsageError, match="count of the pages is above 0"):
        Pages(count=0)
