"""What a stage costs is estimated from the config alone, and is near what is counted on the model itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForImageTextToText, AutoProcessor

from counted import computed_batch
from twoway.data.config import MaskingConfig
from twoway.data.patches import PatchGeometry
from twoway.methods.config import AdapterConfig
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.memory import count_parameters
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.method import prepare
from twoway.models.loading import load_config
from twoway.recipes.dry_run import PreparedProcessor, bytes_needed, module_of, operations
from twoway.recipes.stages import Amount

AMOUNT = Amount(steps=1, rows=1, tokens=40, image_tokens=0, padded=40, batch=40)
WORDS = PretrainConfig(mask=MaskingConfig(words=1.0), mae_weight=0.0)


def reader(folder):
    config, processor = load_config(folder), AutoProcessor.from_pretrained(folder)
    return PreparedProcessor(processor, PatchGeometry.of(config, processor), 512, config)


@pytest.fixture(scope="module")
def qwen(tiny_model):
    return reader(tiny_model("qwen2_vl"))


def needed(config, qwen, amount=AMOUNT):
    module = module_of(config, qwen)
    return operations(module, config, qwen, amount), bytes_needed(module, config, qwen, amount)


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_parameters_are_counted_without_weights(tiny_model, family):
    folder = tiny_model(family)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert count_parameters(load_config(folder)) == sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_operations_are_near_what_torch_counts(tiny_model, family):
    folder = tiny_model(family)
    module = prepare(folder, dataclasses.replace(WORDS, shift=False)).module.train()
    ids = torch.full((1, AMOUNT.padded), 7)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | {key: torch.zeros_like(ids) for key in module._extra_keys()}
    batch = {"inputs": inputs, "labels": ids, "patch_mask": torch.zeros_like(ids, dtype=torch.bool), "patch_targets": torch.zeros(0, 1)}
    read = reader(folder)
    counted = computed_batch(module, batch)
    assert operations(module_of(WORDS, read), WORDS, read, AMOUNT) == pytest.approx(counted, rel=0.1)


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
def test_a_batch_keeps_what_autograd_saves_within_half_and_twice(tiny_model, qwen, dtype):
    folder = tiny_model("qwen2_vl")
    model, processor = AutoModelForImageTextToText.from_pretrained(folder).base_model.train(), AutoProcessor.from_pretrained(folder)
    picture = Image.effect_noise((168, 168), 60).convert("RGB")
    inputs = processor(text=[(processor.image_token + "a") * 5], images=[[picture] * 5], return_tensors="pt")
    tokens = inputs["input_ids"].numel()
    amount = dataclasses.replace(AMOUNT, batch=tokens, batch_images=int((inputs["input_ids"] == qwen.geometry.image_token).sum()))
    assert 2 * amount.batch_images > tokens
    config = FinetuneConfig(dtype=dtype)
    module = module_of(config, qwen)
    kept = bytes_needed(module, config, qwen, amount) - bytes_needed(
        module, config, qwen, dataclasses.replace(amount, batch=0, batch_images=0)
    )
    found = saved(model, inputs, dtype)
    assert 0.5 * found < kept < 2 * found


def test_what_costs_more_is_said_to(qwen):
    large = dataclasses.replace(AMOUNT, batch=10**6)
    plain, room = needed(WORDS, qwen, large)
    again, less = needed(dataclasses.replace(WORDS, gradient_checkpointing=True), qwen, large)
    assert again == pytest.approx(plain * 4 / 3, rel=0.01)
    assert less < room
    adapted, least = needed(dataclasses.replace(WORDS, lora=AdapterConfig(r=2)), qwen)
    assert adapted < 0.8 * plain
    assert least < needed(WORDS, qwen)[1]
    pictures = dataclasses.replace(AMOUNT, image_tokens=20)
    with_patches = needed(PretrainConfig(mask=MaskingConfig(words=1.0), mae_weight=0.5), qwen, pictures)[0]
    assert with_patches > needed(WORDS, qwen, pictures)[0] > needed(WORDS, qwen, dataclasses.replace(AMOUNT, tokens=20))[0]
