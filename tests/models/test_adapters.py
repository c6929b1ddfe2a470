"""Adapters go where they are asked to, train what they say, touch something, and merge without loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tiny import FAMILIES
from twoway.errors import TwowayError, UsageError
from twoway.models import adapters, loading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def disturb(model: torch.nn.Module) -> None:
    """Give adapters an effect, as training would."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_magnitude" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "internvl", "idefics3"])
def test_merging_is_exact(family: str, dora: bool, tiny_model: Callable[[str], Path]) -> None:
    model = loading.load_model(tiny_model(family)).model
    ids = {"input_ids": torch.arange(20, 40).view(2, 10)}
    with torch.no_grad():
        before = model(**ids).logits
        adapted, _ = adapters.add_adapters(model, ("language", "tower", "projector"), r=4, lora_alpha=8, use_dora=dora)
        disturb(adapted)
        adapted.eval()
        with_adapter = adapted(**ids).logits
        merged = adapters.merge_adapter(adapted)
        after = merged(**ids).logits
    assert (with_adapter - before).abs().max() > 1e-2
    assert (after - with_adapter).abs().max() < 1e-5
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", ["language", "tower"])
def test_an_adapter_trains_its_part_and_nothing_else(family: str, part: str, tiny_model: Callable[[str], Path]) -> None:
    model = loading.load_model(tiny_model(family)).model
    total = model.num_parameters()
    found = loading.parts(model)
    prefix = {"language": found.language, "tower": found.tower}[part][0]
    adapted, counted = adapters.add_adapters(model, (part,), r=2)
    training = {name: parameter.numel() for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert counted.trainable == sum(training.values()) > 0
    assert counted.total == total + counted.trainable
    assert all("lora_" in name and f"{prefix}." in name for name in training)
    assert f"{counted.trainable:,} of {counted.total:,} parameters train" in str(counted)


def test_an_adapter_starts_from_gaussian_weights_and_on_named_layers(tiny_model: Callable[[str], Path]) -> None:
    model = loading.load_model(tiny_model("qwen2_vl")).model
    names = ["q_proj", "down_proj"]
    adapted, _ = adapters.add_adapters(model, target_modules=names, r=8, init_lora_weights="gaussian")
    first = {name: one for name, one in adapted.named_parameters() if "lora_A" in name}
    assert {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name in first} == set(names)
    drawn = torch.cat([one.flatten() for one in first.values()])
    assert drawn.std().item() == pytest.approx(1 / 8, rel=0.1)
    assert (drawn.abs() > 2 / 8).float().mean().item() == pytest.approx(0.0455, abs=0.02), "a normal distribution has such tails"


def test_an_adapter_trained_without_the_head_fits_too(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = loading.load_model(tiny_model("internvl")).model
    adapted, _ = adapters.add_adapters(loading.inner(model), ("language",), r=2)
    disturb(adapted)
    adapted.save_pretrained(tmp_path)
    expected = adapters.merge_adapter(adapted).state_dict()
    fresh = loading.load_model(tiny_model("internvl")).model
    merged = adapters.merge_folder(fresh, tmp_path)
    assert merged is fresh
    got = loading.inner(merged).state_dict()
    assert all(torch.allclose(got[name], expected[name], atol=1e-6) for name in expected)
    assert adapters.describe_adapter(tmp_path) == {"peft_type": "LORA", "r": 2, "lora_alpha": 64, "use_dora": False}


def test_layers_can_be_chosen_by_name(tiny_model: Callable[[str], Path]) -> None:
    model = loading.load_model(tiny_model("qwen3_vl")).model
    names = adapters.part_layers(model, "language", ("q_proj", "v_proj"))
    assert len(names) == 2 * len(loading.parts(model).layers)
    assert {name.rsplit(".", 1)[1] for name in names} == {"q_proj", "v_proj"}
    assert not set(adapters.part_layers(model, "tower")) & set(adapters.part_layers(model, "projector"))


def test_an_adapter_that_would_touch_nothing_is_an_error(tiny_model: Callable[[str], Path]) -> None:
    model = loading.load_model(tiny_model("qwen2_vl")).model
    with pytest.raises(UsageError, match="'q_prj'; did you mean q_proj"):
        adapters.part_layers(model, "language", ("q_proj", "q_prj"))
    with pytest.raises(UsageError, match="did you mean tower"):
        adapters.part_layers(model, "towers")
    model.get_encoder = lambda **_: None  # a model without a tower
    with pytest.raises(TwowayError, match="no linear layer in its tower"):
        adapters.add_adapters(model, ("tower",))
