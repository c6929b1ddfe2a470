"""Bounds on a picture's area are set on what a family's processor exposes, kept by what it then makes of pictures, and saved with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2VLImageProcessor
from transformers.models.glm46v import Glm46VImageProcessor

from tiny import IMAGE
from twoway.errors import UsageError
from twoway.models import loading
from twoway.models.processor import require_image_room, see, set_pixels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE_TILE = IMAGE * IMAGE
SIZES = [(3, 5), (40, 40), (70, 30), (200, 200), (170, 220), (40, 300)]


def image_tokens(model: torch.nn.Module, parts: object, size: tuple[int, int]) -> int:
    image = Image.new("RGB", size)
    text = parts.apply_chat_template([{"role": "user", "content": [{"type": "image", "image": image}]}], tokenize=False)
    inputs = parts(images=[image], text=[text], return_tensors="pt")
    with torch.no_grad():
        model(**inputs)  # the model agrees on how many there are
    return int((inputs["input_ids"] == model.config.image_token_id).sum())


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "idefics3", "smolvlm", "llava_onevision", "internvl"])
def test_a_largest_picture_costs_fewer_tokens(family: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_model(family)
    model, parts = loading.load_model(folder).model, AutoProcessor.from_pretrained(folder)
    free = image_tokens(model, parts, (200, 200))
    set_pixels(model.config, parts, min_pixels=None, max_pixels=ONE_TILE)
    parts.save_pretrained(tmp_path)
    saved = AutoProcessor.from_pretrained(tmp_path)
    assert 0 < image_tokens(model, saved, (200, 200)) < free
    for size in SIZES[:-1]:
        assert see(saved, size).pixels <= ONE_TILE
        assert see(saved, size).tokens == image_tokens(model, saved, size)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_small_pictures_are_enlarged_and_large_ones_shrunk(family: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_model(family)
    model, parts = loading.load_model(folder).model, AutoProcessor.from_pretrained(folder)
    free = image_tokens(model, parts, (8, 8))
    set_pixels(model.config, parts, min_pixels=64 * 64, max_pixels=160 * 160)
    parts.save_pretrained(tmp_path)
    saved = AutoProcessor.from_pretrained(tmp_path)
    assert image_tokens(model, saved, (8, 8)) > free
    areas = [see(saved, size).pixels for size in SIZES]
    assert min(areas) >= 64 * 64
    assert max(areas) <= 160 * 160
    assert len(set(areas)) > 2, "what lies between the bounds keeps its size"


def test_an_area_that_counts_frames_is_bounded_by_what_comes_out(tiny_model: Callable[[str], Path]) -> None:
    """GLM's limit is over both frames that a still picture is repeated in, under Qwen's names."""
    folder = tiny_model("qwen2_vl")
    parts, config = AutoProcessor.from_pretrained(folder), loading.load_config(folder)
    parts.image_processor = Glm46VImageProcessor(patch_size=14)
    set_pixels(config, parts, min_pixels=64 * 64, max_pixels=160 * 160)
    areas = [see(parts, size).pixels for size in SIZES]
    assert min(areas) >= 64 * 64
    assert 160 * 160 * 0.8 < max(areas) <= 160 * 160


def test_one_bound_moves_the_other_where_they_would_cross(tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("qwen2_vl")
    config = loading.load_config(folder)
    low, high = (AutoProcessor.from_pretrained(folder) for _ in range(2))
    set_pixels(config, low, min_pixels=None, max_pixels=28 * 28)
    assert see(low, (8, 8)).pixels == see(low, (300, 300)).pixels == 28 * 28
    set_pixels(config, high, min_pixels=280 * 280, max_pixels=None)
    assert see(high, (8, 8)).pixels >= 280 * 280


def test_a_family_that_keeps_the_bounds_by_itself_needs_no_setting(tiny_model: Callable[[str], Path]) -> None:
    for family in ("gemma3", "paligemma", "internvl"):
        folder = tiny_model(family)
        parts, config = AutoProcessor.from_pretrained(folder), loading.load_config(folder)
        before = parts.image_processor.to_dict()
        set_pixels(config, parts, min_pixels=ONE_TILE, max_pixels=100 * ONE_TILE)
        assert parts.image_processor.to_dict() == before, family


@pytest.mark.parametrize(
    ("family", "bounds", "words"),
    [
        ("qwen2_vl", (900, 100), "min_pixels 900 is above max_pixels 100"),
        ("qwen2_vl", (0, None), "min_pixels is at least 1"),
        ("qwen2_vl", (None, 783), "max_pixels 783 is below the 784 pixels of one image token"),
        ("qwen2_vl", (2352, 2352), "too near each other"),
        ("gemma3", (None, 500), r"brings every picture to one size \(784 pixels\)"),
        ("paligemma", (1000, None), "has no least size to set"),
        ("internvl", (1000, None), "has no least size to set"),
        ("internvl", (None, 100), "max_pixels 100 is below the 784 pixels of one tile"),
        ("idefics3", (None, 100), "max_pixels 100 is below the 784 pixels of one tile"),
        ("llava_onevision", (None, 100), "max_pixels 100 is below the 784 pixels of one tile"),
    ],
)  # fmt: skip
def test_bounds_that_cannot_be_kept_are_refused(
    family: str, bounds: tuple[int | None, int | None], words: str, tiny_model: Callable[[str], Path]
) -> None:
    folder = tiny_model(family)
    parts = AutoProcessor.from_pretrained(folder)
    with pytest.raises(UsageError, match=words):
        set_pixels(loading.load_config(folder), parts, min_pixels=bounds[0], max_pixels=bounds[1])


def test_bounds_that_leave_a_row_no_room_are_refused(tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("qwen2_vl")
    parts = AutoProcessor.from_pretrained(folder)
    set_pixels(loading.load_config(folder), parts, min_pixels=16 * 784, max_pixels=None)
    require_image_room(parts, 20)
    with pytest.raises(UsageError, match=r"the smallest is 16 image tokens .* a row holds 16"):
        require_image_room(parts, 16)


def test_the_bounds_of_moca_under_the_real_settings_of_qwen2_5_vl(tiny_model: Callable[[str], Path]) -> None:
    """Checked against the authors' numbers: 256 to 1,024 merged tokens; without them a page of 1700 x 2200 is 4,819."""
    folder = tiny_model("qwen2_5_vl")
    parts, config = AutoProcessor.from_pretrained(folder), loading.load_config(folder)
    parts.image_processor = Qwen2VLImageProcessor(patch_size=14, size={"shortest_edge": 3136, "longest_edge": 12845056})
    assert see(parts, (1700, 2200)).tokens == 4819
    set_pixels(config, parts, min_pixels=200_704, max_pixels=802_816)
    assert see(parts, (1700, 2200)).tokens <= 1024
    assert see(parts, (30, 30)).tokens == 256
    assert parts.image_processor.size == {"shortest_edge": 200_704, "longest_edge": 802_816}
