"""What a stage costs is estimated from the config alone, and is near what is counted on the model itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from twoway.data.corrupt import CorruptConfig
from twoway.data.patches import PatchGeometry
from twoway.stages.amounts import Amount
from twoway.stages.pretrain_config import PretrainConfig
from twoway.stages.stage_config import AdapterConfig
from twoway.stages.workload import bytes_needed, operations, shape_of

GEOMETRY = PatchGeometry(image_token=0, token_keys=(), patches=4)
AMOUNT = Amount(steps=1, rows=1, tokens=40, image_tokens=0, padded=40, batch=40)
WORDS = PretrainConfig(mask=CorruptConfig(words=1.0), mae_weight=0.0)


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


def test_what_costs_more_is_said_to(tiny_model):
    shape = shape_of(tiny_model("qwen2_vl"), GEOMETRY)
    plain = operations(shape, WORDS, AMOUNT)
    again = dataclasses.replace(WORDS, gradient_checkpointing=True)
    assert operations(shape, again, AMOUNT) == pytest.approx(plain * 4 / 3)
    assert bytes_needed(shape, again, dataclasses.replace(AMOUNT, batch=10**6)) < bytes_needed(
        shape, WORDS, dataclasses.replace(AMOUNT, batch=10**6)
    )
    adapted = dataclasses.replace(WORDS, lora=AdapterConfig(rank=2))
    assert operations(shape, adapted, AMOUNT) == pytest.approx(plain * 2 / 3)
    assert bytes_needed(shape, adapted, AMOUNT) < bytes_needed(shape, WORDS, AMOUNT)
    pictures = dataclasses.replace(AMOUNT, image_tokens=20)
    assert operations(shape, dataclasses.replace(WORDS, mae_weight=0.5), AMOUNT) > plain
    assert operations(shape, WORDS, pictures) > operations(shape, WORDS, dataclasses.replace(AMOUNT, tokens=20))
