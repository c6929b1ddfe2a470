"""The proof over all families: two-way after save and load, under sdpa, padded and not, and under eager; and causal before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import transformers as tf

from tiny import FAMILIES, TEXT_FAMILIES
from twoway.models.attention import set_attention
from twoway.models.opening import open_model
from twoway.proof.probe import PADDINGS, probe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# As released, these let image tokens see each other (Gemma 3), or all of a prompt with images (PaliGemma).
NATIVELY_MIXED = {"gemma3", "paligemma"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_switched_model_is_two_way_wherever_it_is_loaded(family: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = tf.AutoModelForImageTextToText.from_pretrained(tiny_model(family))
    set_attention(model, "two-way")
    model.save_pretrained(tmp_path)
    found = open_model(tmp_path, processor=tiny_model(family))
    assert found.declared.attention == "two-way"
    for backend, paddings in (("sdpa", PADDINGS), ("eager", ("left",))):
        found.model.set_attn_implementation(backend)
        verdict = probe(found.model, found.processor, paddings=paddings)
        assert verdict.attention == "two-way", verdict.reason
        assert [(cell.kind, cell.padding) for cell in verdict.cells] == [(kind, pad) for kind in ("text", "image") for pad in paddings]
        # Far from the line on both sides, so that the names do not hang on where it is drawn.
        assert min(movement.largest for cell in verdict.cells for movement in cell.movements) > 1e-2
        assert max(far for cell in verdict.cells for far in cell.leaks.values()) < 1e-5


@pytest.mark.parametrize("family", [*FAMILIES, *TEXT_FAMILIES])
def test_a_model_as_released_is_named(family: str, tiny_model: Callable[[str], Path]) -> None:
    found = open_model(tiny_model(family))
    verdict = probe(found.model, found.processor, paddings=("left",))
    expected = "two-way" if family == "bert" else "mixed" if family in NATIVELY_MIXED else "causal"
    assert verdict.attention == expected, verdict.reason
    assert found.declared.attention == ("two-way" if family == "bert" else "causal")
