"""The mask token: an unused one where there is one, else a new one, and it is there after a reload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor

from tiny import FAMILIES
from twoway.data.sources.samples import samples_folder
from twoway.models import checkpoint, loading
from twoway.models.processor import ensure_mask_token, reserved_tokens

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOW = {"idefics3": "reserved", "smolvlm": "reserved", "gemma3": "reserved", "internvl": "added row", "paligemma": "added row"}


def open_both(folder: Path) -> tuple:
    return loading.load_model(folder).model, AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_chosen_and_survives_a_reload(family: str, tiny_model: Callable[[str], Path], tiny_encoder: Callable[..., Path]) -> None:
    out = tiny_encoder(family)
    told, tokenizer = checkpoint.read_card(out)["mask_token"], AutoProcessor.from_pretrained(out).tokenizer
    assert told["how"] == HOW.get(family, "padding row")
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == (told["token"], told["id"])
    assert tokenizer(f"a{told['token']}b", add_special_tokens=False)["input_ids"].count(told["id"]) == 1
    before, after = (table(folder) for folder in (tiny_model(family), out))
    assert len(after) - len(before) == (told["how"] == "added row")
    others = [row for row in range(len(before)) if row != told["id"]]
    assert after[others].equal(before[others])
    old = AutoProcessor.from_pretrained(tiny_model(family)).tokenizer
    if told["how"] == "reserved":
        assert after[told["id"]].equal(before[told["id"]])
        assert told["id"] in old.get_vocab().values()
    else:
        assert torch.allclose(after[told["id"]], before[: len(old)].mean(0), atol=1e-6)


def table(folder: Path) -> torch.Tensor:
    weights = load_file(folder / "model.safetensors")
    return next(value for name, value in weights.items() if name.endswith("embed_tokens.weight"))


def test_of_reserved_tokens_the_least_trained_is_taken(tiny_model: Callable[[str], Path]) -> None:
    model, processor = open_both(tiny_model("idefics3"))
    names = reserved_tokens(processor)
    assert len(names) == 3
    with torch.no_grad():
        model.get_input_embeddings().weight[processor.tokenizer.convert_tokens_to_ids(names[1])] *= 0.1
    assert ensure_mask_token(model, processor).token == names[1]


def test_a_reserved_token_that_something_uses_is_left_alone(tiny_model: Callable[[str], Path]) -> None:
    _, processor = open_both(tiny_model("idefics3"))
    first, second, third = reserved_tokens(processor)
    processor.tokenizer.eos_token = first
    processor.chat_template += second
    assert reserved_tokens(processor) == [third]


def test_what_is_asked_for_or_there_already_comes_first(tiny_model: Callable[[str], Path]) -> None:
    model, processor = open_both(tiny_model("idefics3"))
    rows = model.get_input_embeddings().weight.shape[0]
    chosen = ensure_mask_token(model, processor, wanted="<global-img>")
    assert (chosen.token, chosen.how) == ("<global-img>", "asked for")
    assert ensure_mask_token(model, processor).how == "own"
    new = ensure_mask_token(model, processor, wanted="<my mask>")
    assert (new.id, new.how) == (rows, "added row")
    assert model.get_output_embeddings().weight.shape[0] == model.config.get_text_config().vocab_size == rows + 1


def test_a_reserved_token_that_the_tokenizer_names_is_still_free() -> None:
    processor = AutoProcessor.from_pretrained(samples_folder() / "base")
    named = [value for name, value in processor.tokenizer.special_tokens_map.items() if name.startswith("reserved")]
    assert named
    assert reserved_tokens(processor) == named
