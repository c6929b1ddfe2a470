"""The switch: each token sees every other or only those before it, in every family, live and after a reload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

from tiny import FAMILIES
from twoway.errors import TwowayError
from twoway.models import loading
from twoway.models.attention import declared_attention, set_attention, with_mask
from twoway.models.bridge_mask import bridge_mask
from twoway.models.opening import open_model
from twoway.proof.probe import image_feed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedModel


def moved(model: PreTrainedModel) -> torch.Tensor:
    """Change the last token and return how far each earlier state moves."""
    ids = torch.arange(20, 36)[None]
    with torch.no_grad():
        one, two = (model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state for tokens in (ids, changed(ids)))
    return (one - two).abs().amax(-1)[0, :-1]


def changed(ids: torch.Tensor) -> torch.Tensor:
    other = ids.clone()
    other[0, -1] = 50
    return other


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_switch_turns_both_ways_and_is_saved(family: str, backend: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(tiny_model(family), attn_implementation=backend).eval()
    assert declared_attention(model.config) == "causal"
    set_attention(model, "causal")  # PaliGemma as released says nothing, and is causal under one backend and not under the other
    assert moved(model).max() == 0
    set_attention(model, "two-way")
    assert moved(model).min() > 1e-5
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, attn_implementation=backend).eval()
    assert declared_attention(again.config) == "two-way"
    assert moved(again).equal(moved(model))
    set_attention(again, "causal")
    assert moved(again).max() == 0


def test_a_text_model_has_the_switch_at_the_top(tiny_model: Callable[[str], Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model("llama")).eval()
    set_attention(model, "two-way")
    assert model.config.is_causal is False
    assert moved(model.model).min() > 1e-5


def test_a_stray_switch_at_the_top_does_nothing_and_is_taken_away(tiny_model: Callable[[str], Path]) -> None:
    model = loading.load_model(tiny_model("qwen2_vl")).model
    model.config.is_causal = False
    assert moved(model.base_model).max() == 0
    assert declared_attention(model.config) == "causal"
    set_attention(model, "two-way")
    assert "is_causal" not in vars(model.config)
    assert moved(model.base_model).min() > 1e-5


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_activation_checkpointing_keeps_both_ways(family: str, tiny_model: Callable[[str], Path]) -> None:
    """The backward pass runs the layers again; it must see the same mask."""
    gradients = []
    for again in (False, True):
        model = loading.load_model(tiny_model(family)).model
        set_attention(model, "two-way")
        model.train()
        if again:
            model.activation_checkpointing_enable()
        states = loading.inner(model)(input_ids=torch.arange(20, 36)[None]).last_hidden_state
        states[0, 0].sum().backward()  # the first state depends on all later tokens
        gradients.append(model.get_input_embeddings().weight.grad)
    assert gradients[0][35].abs().max() > 1e-4
    assert torch.allclose(*gradients, atol=1e-5)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_of_our_own_that_allows_all_is_the_models_own(family: str, backend: str, tiny_model: Callable[[str], Path]) -> None:
    """So nothing but the mask is changed: no position that is counted by the padding, and no image."""
    found = open_model(tiny_model(family))
    text = found.model.config.get_text_config()
    if getattr(text, "sliding_window", None):
        text.sliding_window = 512  # Gemma 3's own is another one beside images than beside text: it ends on one side alone
    set_attention(found.model, "two-way")
    found.model.set_attn_implementation(backend)
    batch = image_feed(found.model, found.processor, "left").base
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        ordinary = found.model(**batch).last_hidden_state
        with with_mask(found.model, real[:, :, None] & real[:, None, :]):
            ours = found.model(**batch).last_hidden_state
        after = found.model(**batch).last_hidden_state
    assert torch.isfinite(ours).all()
    assert (ours - ordinary)[real].abs().max() < 1e-5
    assert torch.equal(after, ordinary)


def test_a_sliding_window_stays_under_a_mask_of_our_own(tiny_model: Callable[[str], Path]) -> None:
    model = AutoModel.from_pretrained(tiny_model("gemma3")).eval()
    set_attention(model, "two-way")
    ids = torch.arange(20, 60)[None]
    seen: list[torch.Tensor] = []
    for layer in model.get_decoder().layers:
        layer.register_forward_pre_hook(lambda _module, _args, given: seen.append(given["attention_mask"][0, 0]), with_kwargs=True)
    allowed = bridge_mask(torch.tensor([20]), torch.zeros(1, 40, dtype=torch.bool), eos_sees_target=True, sources_see_eos=True)
    with torch.no_grad(), with_mask(model, allowed):
        model(input_ids=ids)
    near = (torch.arange(40)[:, None] - torch.arange(40)).abs()
    window = model.config.get_text_config().sliding_window
    for kind, mask in zip(model.config.get_text_config().layer_types, seen, strict=True):
        assert not (mask & ~allowed[0]).any()
        if kind == "full_attention":
            assert mask.equal(allowed[0])
        else:
            assert not mask[near > window].any()
            assert mask[near <= window].equal(allowed[0][near <= window])


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3"])
def test_activation_checkpointing_keeps_a_mask_of_our_own(family: str, tiny_model: Callable[[str], Path]) -> None:
    """The backward pass runs the layers again when the mask has long been taken away."""
    gradients = []
    allowed = bridge_mask(torch.tensor([8]), torch.zeros(1, 16, dtype=torch.bool), eos_sees_target=False, sources_see_eos=False)
    for again in (False, True):
        model = loading.load_model(tiny_model(family)).model
        set_attention(model, "two-way")
        model.train()
        if again:
            model.activation_checkpointing_enable()
        with with_mask(model, allowed):
            states = loading.inner(model)(input_ids=torch.arange(20, 36)[None]).last_hidden_state
        states[0, 0].sum().backward()
        gradients.append(model.get_input_embeddings().weight.grad)
    assert gradients[0][20:28].abs().amax(-1).min() > 1e-4  # A sees A
    assert gradients[0][28:36].abs().max() == 0  # neither EOS nor B
    assert torch.allclose(*gradients, atol=1e-5)


def test_a_mask_of_our_own_needs_a_two_way_model_a_backend_that_takes_it_and_its_own_input(tiny_model: Callable[[str], Path]) -> None:
    model = AutoModel.from_pretrained(tiny_model("qwen2_vl")).eval()
    allowed = torch.ones(1, 16, 16, dtype=torch.bool)
    with pytest.raises(TwowayError, match=r"qwen2_vl is causal.*make it two-way first"), with_mask(model, allowed):
        pass
    set_attention(model, "two-way")
    with pytest.raises(TwowayError, match=r"mask is for \(1, 16\).*input has \(1, 15\)"), with_mask(model, allowed):
        model(input_ids=torch.arange(20, 35)[None])
    model.get_decoder().config._attn_implementation = "flash_attention_2"
    with pytest.raises(TwowayError, match="flash_attention_2 takes no mask of this kind; use one of sdpa"), with_mask(model, allowed):
        pass
