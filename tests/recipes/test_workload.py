"""What a stage costs is estimated from the config alone, and is near what is counted on the model itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, AutoProcessor

from twoway.data.config import MaskingConfig
from twoway.data.patches import PatchGeometry
from twoway.methods.config import AdapterConfig
from twoway.methods.pretrain.config import PretrainConfig
from twoway.recipes.dry_run import bytes_needed, operations, shape_of
from twoway.recipes.stages import Amount

GEOMETRY = PatchGeometry(image_token=0, token_keys=(), patches=4)
AMOUNT = Amount(steps=1, rows=1, tokens=40, image_tokens=0, padded=40, batch=40)
WORDS = PretrainConfig(mask=MaskingConfig(words=1.0), mae_weight=0.0)


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_parameters_are_counted_without_weights(tiny_model, family):
    folder = tiny_model(family)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert shape_of(folder, GEOMETRY).total == sum(one.numel() for one in model.parameters())


def test_operations_are_near_what_torch_counts(tiny_model):
    folder = tiny_model("qwen2_vl")
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.full((1, AMOUNT.padded), 7))
    assert operations(shape_of(folder, GEOMETRY), WORDS, AMOUNT) == pytest.approx(3 * counter.get_total_flops(), rel=0.1)


def saved(model, inputs, dtype):
    """Bytes that a forward pass keeps for the way back, each storage once and no weight."""
    found, weights = {}, {one.untyped_storage().data_ptr() for one in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.shape not in {one.shape for one in model.parameters()}:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"), saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**inputs, use_cache=False)
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_batch_keeps_what_autograd_saves_within_half_and_twice(tiny_model, dtype):
    folder = tiny_model("qwen2_vl")
    model, processor = AutoModelForImageTextToText.from_pretrained(folder).base_model.train(), AutoProcessor.from_pretrained(folder)
    geometry = PatchGeometry.of(model.config, processor)
    picture = Image.effect_noise((168, 168), 60).convert("RGB")
    inputs = processor(text=[(processor.image_token + "a") * 5], images=[[picture] * 5], return_tensors="pt")
    tokens = inputs["input_ids"].numel()
    amount = dataclasses.replace(AMOUNT, batch=tokens, batch_images=int((inputs["input_ids"] == geometry.image_token).sum()))
    assert 2 * amount.batch_images > tokens
    shape, config = shape_of(folder, geometry), PretrainConfig(mask=MaskingConfig(words=0.0), dtype=dtype)
    kept = bytes_needed(shape, config, amount) - bytes_needed(shape, config, dataclasses.replace(amount, batch=0, batch_images=0))
    found = saved(model, inputs, dtype)
    assert 0.5 * found < kept < 2 * found


def test_what_costs_more_is_said_to(tiny_model):
    shape = shape_of(tiny_model("qwen2_vl"), GEOMETRY)
    plain = operations(shape, WORDS, AMOUNT)
    again = dataclasses.replace(WORDS, gradient_checkpointing=True)
    assert operations(shape, again, AMOUNT) == pytest.approx(plain * 4 / 3)
    assert bytes_needed(shape, again, dataclasses.replace(AMOUNT, batch=10**6)) < bytes_needed(
        shape, WORDS, dataclasses.replace(AMOUNT, batch=10**6)
    )
    adapted = dataclasses.replace(WORDS, lora=AdapterConfig(r=2))
    assert operations(shape, adapted, AMOUNT) == pytest.approx(plain * 2 / 3)
    assert bytes_needed(shape, adapted, AMOUNT) < bytes_needed(shape, WORDS, AMOUNT)
    pictures = dataclasses.replace(AMOUNT, image_tokens=20)
    assert operations(shape, dataclasses.replace(WORDS, mae_weight=0.5), AMOUNT) > plain
    assert operations(shape, WORDS, pictures) > operations(shape, WORDS, dataclasses.replace(AMOUNT, tokens=20))
