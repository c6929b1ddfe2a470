"""An image token costs what the tower makes it cost; counting it leaves no trace, and chunks are cut by it."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from twoway.data.collators import model_inputs
from twoway.data.config import PairSource
from twoway.data.processing import Encoder
from twoway.data.sampler import NO_EXTRA_COST
from twoway.methods.counting import image_token_cost
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.finetune.method import prepare


@pytest.fixture(scope="module")
def prepared(tiny_model):
    return prepare(tiny_model("qwen2_vl"), FinetuneConfig(data=(PairSource("rows.jsonl"),)))


def counted(prepared, task=None, max_length=None):
    encode = Encoder(prepared.processor, prepared.geometry, max_length=max_length or prepared.max_length)
    return image_token_cost(task or prepared.module, encode, partial(model_inputs, pad_token=prepared.pad_token, padding_side="right"))


def test_it_is_the_towers_share_and_counting_leaves_no_trace(prepared):
    prepared.module.train()
    torch.manual_seed(5)
    found = counted(prepared)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    assert prepared.module.training
    assert all(one.grad is None for one in prepared.module.parameters())
    assert found.image_token > 1
    assert found.image == 0
    assert counted(prepared) == found


def test_without_a_tower_an_image_token_is_a_word(prepared):
    class Words:
        """Reads tokens and does not look at pictures: as many products for each of them."""

        training = False

        def modules(self):
            return []

        def eval(self):
            return self

        def states(self, inputs):
            return torch.ones(inputs["input_ids"].numel(), 8) @ torch.ones(8, 8)

    assert counted(prepared, Words()).image_token == 1


def test_a_row_too_short_for_a_picture_counts_as_words(prepared):
    assert counted(prepared, max_length=8) == NO_EXTRA_COST
