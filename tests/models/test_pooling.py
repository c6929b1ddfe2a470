"""Pooling at EOS: every row ends in the token, however long it is, whatever the template ends in, wherever the padding is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoProcessor

from plain import inputs
from tiny import FAMILIES, TEMPLATE
from twoway.content import Document, Text
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder
from twoway.errors import TwowayError
from twoway.methods.convert import convert
from twoway.models import pooling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIMIT = 96
WITH_EOS = [family for family in FAMILIES if family != "paligemma"]


@pytest.mark.parametrize("family", WITH_EOS)
def test_every_row_ends_in_eos_and_has_one_vector_whatever_the_side(family: str, tiny_encoder: Callable[..., Path]) -> None:
    model = SentenceTransformer(str(tiny_encoder(family, pooling="eos", max_length=LIMIT)), device="cpu")
    kinds = inputs()
    image = kinds["image"]
    talks = [[{"role": "user", "content": [{"type": "text", "text": "long " * LIMIT}]}], kinds["chat"], kinds["interleaved"]]
    for rows in (["short", "long " * LIMIT, image, {"image": image, "text": "long " * LIMIT}], talks):
        vectors = [_at_eos(model, rows, side) for side in ("left", "right")]
        assert torch.allclose(*vectors, atol=1e-5)


def _at_eos(model: SentenceTransformer, rows: list[Any], side: str) -> torch.Tensor:
    """Encode rows padded on this side, and see that each vector is the state at the EOS token that the row ends in."""
    model.tokenizer.padding_side = side
    features = model.preprocess(rows)
    ids, mask = features["input_ids"], features["attention_mask"]
    assert ids.shape[1] == LIMIT
    assert not mask.all()
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    assert ids[torch.arange(len(rows)), last].tolist() == [model.tokenizer.eos_token_id] * len(rows)
    with torch.no_grad():
        states = model[0](dict(features))["token_embeddings"]
        pooled: torch.Tensor = model(dict(features))["sentence_embedding"]
    expected = torch.nn.functional.normalize(states[torch.arange(len(rows)), last], dim=-1)
    assert torch.allclose(pooled, expected, atol=1e-6)
    return pooled


@pytest.mark.parametrize("end", ["", "<|im_end|>"])
def test_the_token_is_appended_once_whatever_the_template_ends_in(end: str, tiny_model: Callable[[str], Path]) -> None:
    processor = AutoProcessor.from_pretrained(tiny_model("qwen3_vl"))
    template = TEMPLATE.format(start="", end=end, image="<|image_pad|>", media="").replace("\\n", "").replace("\n", "")
    processor.chat_template = processor.tokenizer.chat_template = template
    message = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    before = processor.apply_chat_template(message, tokenize=True)
    for _ in range(2):  # doing it again changes nothing
        pooling.append_eos(processor)
        assert processor.apply_chat_template(message, tokenize=True)[0] == [*before[0], processor.tokenizer.eos_token_id]


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_a_converted_model_goes_into_training_two_way_with_the_token_appended_once(
    family: str, tiny_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    """Converted again, and read by the encoder of the training stages: the same rows, with one EOS of ours."""
    once = tiny_encoder(family, pooling="eos", max_length=LIMIT)
    again = convert(once, tmp_path / "again")
    assert (again.card.pooling, again.card.attention["measured"]) == ("eos", "two-way")
    models = [SentenceTransformer(str(folder), device="cpu") for folder in (once, tmp_path / "again")]
    plain = AutoProcessor.from_pretrained(tiny_encoder(family))
    for text in ("short", "long " * LIMIT):
        rows = [model.preprocess([text])["input_ids"][0] for model in models]
        assert rows[0].tolist() == rows[1].tolist()
        parts = models[1][0].processor
        encode = Encoder(parts, PatchGeometry.of(models[1][0].model.config, parts), max_length=LIMIT)
        ids = encode("row", Document((Text(text),))).inputs["input_ids"]
        assert len(ids) <= LIMIT
        assert int(ids[-1]) == parts.tokenizer.eos_token_id
        if text == "short":
            message = [{"role": "user", "content": [{"type": "text", "text": text}]}]
            bare = plain.apply_chat_template(message, tokenize=True)[0]
            assert ids.tolist() == rows[0].tolist() == [*bare, parts.tokenizer.eos_token_id]


def test_a_processor_that_takes_the_token_off_again_is_refused_before_anything_is_done_with_it(tiny_model: Callable[[str], Path]) -> None:
    for family in FAMILIES:
        processor = AutoProcessor.from_pretrained(tiny_model(family))
        if family in WITH_EOS:
            pooling.require_lasting_eos(processor)
            assert processor.tokenizer("a")["input_ids"][-1] != processor.tokenizer.eos_token_id  # it was a trial
        else:
            with pytest.raises(TwowayError, match="PaliGemmaProcessor takes the EOS token off again"):
                pooling.require_lasting_eos(processor)


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
