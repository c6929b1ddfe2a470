"""The parts of every family are found, cover the model, and a checkpoint that does not cover them is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tiny import FAMILIES, HIDDEN, LAYERS
from twoway.models import loading

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_are_found_and_add_up(family: str, tiny_model: Callable[[str], Path]) -> None:
    loaded = loading.load_model(tiny_model(family))
    assert loaded.has_head
    found = loading.parts(loaded.model)
    sizes = found.sizes()
    assert sum(sizes.values()) == loaded.model.num_parameters()
    assert all(size > 0 for part, size in sizes.items() if part not in ("head", "other"))
    assert sizes["other"] <= HIDDEN
    assert len(found.layers) == LAYERS
    assert found.tower is not None
    assert isinstance(found.norm, torch.nn.Module)
    assert len(found.projectors) >= 1
    by_name = dict(loaded.model.named_modules())
    assert by_name[found.language[0]] is found.language[1]
    assert found.embeddings[1].weight.shape[1] == loading.text_width(loaded.model)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_states_are_those_after_the_final_norm(family: str, tiny_model: Callable[[str], Path]) -> None:
    """Embeddings are made of these; a model that gave the states before the norm would go unnoticed."""
    model = loading.load_model(tiny_model(family)).model
    normed = []
    loading.parts(model).norm.register_forward_hook(lambda _module, _args, out: normed.append(out))
    with torch.no_grad():
        states = loading.inner(model)(input_ids=torch.arange(20, 30)[None]).last_hidden_state
    assert states.equal(normed[-1])


def test_a_text_model_has_no_tower(tiny_model: Callable[[str], Path]) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model("llama"))
    found = loading.parts(model)
    assert found.tower is None
    assert sum(found.sizes().values()) == model.num_parameters()
