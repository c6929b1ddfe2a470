"""The tower over visible patches: what it gives is a function of them alone, and nothing else about the model changes."""

from __future__ import annotations

import pytest
import torch
from PIL import Image as PILImage

from tiny import FAMILIES
from twoway.data.patches import process_image, ramp
from twoway.errors import UsageError
from twoway.models import loading, processor
from twoway.models.vision import VisiblePatches

SEQUENCES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def opened(family, tiny_model):
    model = loading.load_model(tiny_model(family), dtype="float32").model
    return model, processor.load_processor(tiny_model(family))


def pixels_of(parts, *sizes):
    """Two pictures of noise as the processor cuts them up."""
    draw = torch.Generator().manual_seed(0)
    shown = [PILImage.fromarray(torch.randint(0, 255, (*size, 3), generator=draw).to(torch.uint8).numpy()) for size in sizes]
    out = parts(text=[parts.image_token * len(shown)], images=[shown], images_kwargs={"return_tensors": "pt"})
    return out["pixel_values"], out["image_grid_thw"]


def features(tower, pixels, grids, visible):
    return tower(pixels, grids, visible).pooler_output[0]


@pytest.mark.parametrize("family", SEQUENCES)
def test_with_nothing_masked_it_is_the_models_own_way(family, tiny_model):
    model, parts = opened(family, tiny_model)
    pixels, grids = pixels_of(parts, (64, 48), (32, 64))
    whole = torch.cat(model.base_model.get_image_features(pixels, grids, return_dict=True).pooler_output)
    ours = features(VisiblePatches(model), pixels, grids, torch.ones(len(whole), dtype=torch.bool))
    torch.testing.assert_close(ours, whole)


@pytest.mark.parametrize("family", SEQUENCES)
def test_masked_pixels_reach_nothing(family, tiny_model):
    model, parts = opened(family, tiny_model)
    pixels, grids = pixels_of(parts, (64, 48), (32, 64))
    tokens = len(pixels) // 4
    visible = torch.arange(tokens) % 3 != 1
    tower = VisiblePatches(model)
    before = features(tower, pixels, grids, visible)
    assert len(before) == int(visible.sum())
    other = pixels.clone()
    other[~visible.repeat_interleave(4)] = 5.0
    assert torch.equal(features(tower, other, grids, visible), before)
    other[int(visible.nonzero()[0]) * 4] = 5.0
    assert not torch.equal(features(tower, other, grids, visible), before)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_a_picture_whose_lower_half_is_masked_is_its_upper_half(family, tiny_model):
    # Places are counted from the upper left corner, so the upper half alone is a picture with the same places.
    model, parts = opened(family, tiny_model)
    pixels, grids = pixels_of(parts, (56, 56))
    assert grids.tolist() == [[1, 4, 4]]
    half = torch.tensor([[1, 2, 4]])
    rows = 2 * 4
    upper = torch.cat(model.base_model.get_image_features(pixels[:rows], half, return_dict=True).pooler_output)
    ours = features(VisiblePatches(model), pixels, grids, torch.tensor([True, True, False, False]))
    torch.testing.assert_close(ours, upper)


def test_pictures_do_not_see_each_other_and_may_be_gone(tiny_model):
    model, parts = opened("qwen2_vl", tiny_model)
    pixels, grids = pixels_of(parts, (56, 56), (56, 56))
    tower, first = VisiblePatches(model), torch.arange(8) < 4
    alone = features(tower, pixels[:16], grids[:1], torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(features(tower, pixels, grids, first), alone)
    assert tower(pixels, grids, torch.zeros(8, dtype=torch.bool)) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_cannot_are_refused_by_name(family, tiny_model):
    model, parts = opened(family, tiny_model)
    tower, looked = VisiblePatches(model), process_image(parts, ramp(112, 84))
    if family in SEQUENCES:
        tower.require(model, looked, "skip")
    else:
        with pytest.raises(UsageError, match=rf"masked_patches=skip: the tower of \w+ \({model.config.model_type}\).*masked_patches=noise"):
            tower.require(model, looked, "skip")
