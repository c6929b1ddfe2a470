"""Pooling at EOS: every row ends in the token, however long it is, whatever the template ends in, wherever the padding is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoProcessor

from plain import inputs
from tiny import FAMILIES, TEMPLATE
from twoway.errors import TwowayError
from twoway.model import pooling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIMIT = 96
WITH_EOS = [family for family in FAMILIES if family != "paligemma"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", WITH_EOS)
def test_every_row_ends_in_eos(family: str, side: str, tiny_encoder: Callable[..., Path]) -> None:
    model = SentenceTransformer(str(tiny_encoder(family, pooling="eos", max_length=LIMIT)), device="cpu")
    model.tokenizer.padding_side = side
    image = inputs()["image"]
    rows = ["short", "long " * LIMIT, image, {"image": image, "text": "long " * LIMIT}]
    features = model.preprocess(rows)
    ids, mask = features["input_ids"], features["attention_mask"]
    assert ids.shape[1] == LIMIT
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    assert ids[torch.arange(len(rows)), last].tolist() == [model.tokenizer.eos_token_id] * len(rows)
    # The vector is the state there, and nowhere else.
    states = model[0](dict(features))["token_embeddings"]
    pooled = model(dict(features))["sentence_embedding"]
    expected = torch.nn.functional.normalize(states[torch.arange(len(rows)), last], dim=-1)
    assert torch.allclose(pooled, expected, atol=1e-6)


@pytest.mark.parametrize("end", ["", "<|im_end|>"])
def test_the_token_is_appended_once_whatever_the_template_ends_in(end: str, tiny_model: Callable[[str], Path]) -> None:
    processor = AutoProcessor.from_pretrained(tiny_model("qwen3_vl"))
    template = TEMPLATE.format(start="", end=end, image="<|image_pad|>").replace("\\n", "").replace("\n", "")
    processor.chat_template = processor.tokenizer.chat_template = template
    message = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    before = processor.apply_chat_template(message, tokenize=True)
    for _ in range(2):  # doing it again changes nothing
        pooling.append_eos(processor)
        assert processor.apply_chat_template(message, tokenize=True)[0] == [*before[0], processor.tokenizer.eos_token_id]


def test_a_tokenizer_without_eos_is_refused(tiny_model: Callable[[str], Path]) -> None:
    processor = AutoProcessor.from_pretrained(tiny_model("qwen3_vl"))
    processor.tokenizer.eos_token = None
    with pytest.raises(TwowayError, match="needs an EOS token"):
        pooling.append_eos(processor)


def test_a_template_that_starts_with_bos_gives_the_same_ids(tiny_model: Callable[[str], Path]) -> None:
    processor = AutoProcessor.from_pretrained(tiny_model("gemma3"))
    message = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    before = processor.apply_chat_template(message, tokenize=True)[0]
    pooling.append_eos(processor)
    assert processor.apply_chat_template(message, tokenize=True)[0] == [*before, processor.tokenizer.eos_token_id]


def test_what_the_tokenizer_puts_first_stays_first(tiny_model: Callable[[str], Path]) -> None:
    """A tokenizer may add BOS by itself, where no template writes it."""
    processor = AutoProcessor.from_pretrained(tiny_model("qwen3_vl"))
    tokenizer = processor.tokenizer
    tokenizer.bos_token, tokenizer.add_bos_token = "<|endoftext|>", True
    before = tokenizer("a b")["input_ids"]
    assert before[0] == tokenizer.bos_token_id
    for _ in range(2):
        pooling.append_eos(processor)
        assert tokenizer("a b")["input_ids"] == [*before, tokenizer.eos_token_id]
        assert tokenizer.bos_token == "<|endoftext|>"
