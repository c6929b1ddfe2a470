"""Limits on a picture hold in the family's own processor, and a processor without a template gets a plain one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from tiny import IMAGE
from twoway.model import backbone, processor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE_TILE = IMAGE * IMAGE


def image_tokens(model: torch.nn.Module, parts: object, size: int) -> int:
    image = Image.new("RGB", (size, size))
    text = parts.apply_chat_template([{"role": "user", "content": [{"type": "image", "image": image}]}], tokenize=False)
    inputs = parts(images=[image], text=[text], return_tensors="pt")
    with torch.no_grad():
        model(**inputs)  # the model agrees on how many there are
    return int((inputs["input_ids"] == model.config.image_token_id).sum())


@pytest.mark.parametrize("family", ["qwen2_vl", "idefics3", "smolvlm", "llava_onevision", "internvl"])
def test_a_largest_picture_costs_fewer_tokens(family: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_model(family)
    model, parts = backbone.load_model(folder).model, AutoProcessor.from_pretrained(folder)
    free = image_tokens(model, parts, 200)
    processor.set_pixels(model, parts, least=None, most=ONE_TILE)
    parts.save_pretrained(tmp_path)
    bound = image_tokens(model, AutoProcessor.from_pretrained(tmp_path), 200)
    assert 0 < bound < free


def test_a_least_picture_costs_more_tokens(tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("qwen3_vl")
    model, parts = backbone.load_model(folder).model, AutoProcessor.from_pretrained(folder)
    free = image_tokens(model, parts, 8)
    processor.set_pixels(model, parts, least=64 * 64, most=None)
    assert image_tokens(model, parts, 8) > free


def test_a_processor_without_a_template_gets_a_plain_one(tiny_model: Callable[[str], Path]) -> None:
    parts = AutoProcessor.from_pretrained(tiny_model("paligemma"))
    assert processor.ensure_template(parts)
    content = [{"type": "image"}, {"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    shown = parts.apply_chat_template([{"role": "user", "content": content}, {"role": "user", "content": " c"}], tokenize=False)
    assert shown == f"{parts.image_token}a b c"
    assert not processor.ensure_template(parts)
