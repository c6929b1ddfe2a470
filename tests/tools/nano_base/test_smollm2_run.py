"""A run whose text part is given: it trains the tower by the same loop and leaves the text part alone, to the bit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers as tf
from tools.nano_base.base import make_base, prepare
from tools.nano_base.graft import gap
from tools.nano_base.tower import train_tower

from tiny import tokenizer
from tools.nano_base import smollm2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES: dict[str, Any] = {"tower_width": 16, "tower_layers": 1, "tower_heads": 2, "batch": 8, "rows": 48, "warmup": 2, "dtype": "float32"}
SIZES |= {
    "tower_rows": 16,
    "tower_batch": 8,
    "tables": ("concepts", "pictures"),
    "longest": 256,
}  # the tiny tokenizer has a token a letter: no answer is cut


@pytest.fixture
def lm(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tiny text model in SmolLM2's place."""
    model = tf.AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32)
    specials = {"unk_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    plain = tokenizer(list(specials.values()), **specials)
    monkeypatch.setattr(smollm2, "weights_file", lambda: None)
    monkeypatch.setattr(smollm2, "load", lambda _: (model, plain))
    return model


def test_the_tower_learns_and_the_text_part_stays(lm: Any, corner: Path, tmp_path: Path) -> None:
    config = smollm2.settings("smollm2", "tower", **SIZES)
    training = make_base(tmp_path / "base", config, corner, command="python -m tools.nano_base base --lm=smollm2")
    model = tf.AutoModelForImageTextToText.from_pretrained(tmp_path / "base")
    assert model.dtype == torch.float32
    assert gap(lm, model) < 1e-5
    before = prepare(config, corner).forward.model.get_encoder("image")
    assert not all(torch.equal(*pair) for pair in zip(before.parameters(), model.get_encoder("image").parameters(), strict=True))
    card = (tmp_path / "base" / "README.md").read_text()
    assert "SmolLM2-135M-Instruct" in card
    assert "Apache-2.0" in card
    assert "trained from nothing by" not in card
    assert json.loads((tmp_path / "base" / "training.json").read_text())["config"]["train"] == "tower"
    assert training["curve"]


def test_the_towers_stage_leaves_the_words_as_they_are(lm: Any, corner: Path, tmp_path: Path) -> None:
    nano = prepare(smollm2.settings("smollm2", "all", **{**SIZES, "tower_rows": 64}), corner)
    before = {name: part.clone() for name, part in nano.forward.model.named_parameters()}
    train_tower(nano, tmp_path)
    moved = {name for name, part in nano.forward.model.named_parameters() if not torch.equal(part, before[name])}
    assert moved
    assert all(name.startswith("model.visual.") for name in moved)


def test_pictures_stand_in_the_chat_that_the_processor_writes(lm: Any, corner: Path) -> None:
    nano = prepare(smollm2.settings("smollm2", "tower", **SIZES), corner)
    batch = nano.rows.batch(0)
    start = nano.processor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert (batch.ids[:, 0] == start).all()
    # what is learned ends with the end of the answer
    assert (batch.targets == nano.processor.tokenizer.eos_token_id).sum() == len(batch.ids)
