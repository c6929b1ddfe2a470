"""The proof names what a model does, and nothing hides from it: a lone causal layer, a leak, a claim in the wrong place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers as tf

from twoway.errors import TwowayError
from twoway.models.attention import set_attention
from twoway.models.opening import open_model
from twoway.models.processor import set_pixels
from twoway.proof import probe as proof_probe
from twoway.proof.probe import image_feed, probe, probe_ids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PADDINGS = ("none", "left", "right")


@pytest.fixture
def opened(tiny_model: Callable[[str], Path]) -> Callable[..., tuple[Any, Any]]:
    def get(family: str, attention: str = "causal", backend: str = "sdpa") -> tuple[Any, Any]:
        found = open_model(tiny_model(family))
        if attention == "two-way":
            set_attention(found.model, "two-way")
        found.model.set_attn_implementation(backend)
        return found.model, found.processor

    return get


def test_images_of_a_proof_are_small_under_any_bounds(opened: Callable[..., tuple[Any, Any]]) -> None:
    """A processor that enlarges pictures to MoCa's 200,704 pixels makes hundreds of tokens of each: hours, for a large model."""
    model, processor = opened("qwen2_5_vl")
    few = image_feed(model, processor, "none").base["input_ids"].shape
    set_pixels(model.config, processor, min_pixels=200_704, max_pixels=802_816)
    before = dict(processor.image_processor.size)
    assert image_feed(model, processor, "none").base["input_ids"].shape == few
    assert dict(processor.image_processor.size) == before


def make_causal(layer: Any, *, flag: bool = False) -> None:
    """Leave one layer causal: by its mask, or by the flag that only counts where there is no mask."""
    forward = layer.self_attn.forward

    def causal(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        if flag:
            return forward(*args, attention_mask=attention_mask, **(kwargs | {"is_causal": True}))
        length = kwargs.get("hidden_states", args[0] if args else None).shape[1]
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        if attention_mask is not None:
            mask = mask & (attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0)
        if layer.self_attn.config._attn_implementation == "eager":
            mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
        return forward(*args, attention_mask=mask, **kwargs)

    layer.self_attn.forward = causal


def drop_mask(language: Any) -> None:
    forward = language.forward
    language.forward = lambda *args, attention_mask=None, **kwargs: forward(*args, attention_mask=None, **kwargs)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_in_a_causal_model_no_earlier_state_moves_at_all(backend: str, opened: Callable[..., tuple[Any, Any]]) -> None:
    verdict = probe(*opened("llama", backend=backend), paddings=PADDINGS)
    assert verdict.attention == "causal"
    assert {cell.largest for cell in verdict.cells} == {0.0}
    assert {layer.largest for cell in verdict.cells for layer in cell.layers} == {0.0}


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_in_a_two_way_model_every_earlier_state_moves_in_every_layer(backend: str, opened: Callable[..., tuple[Any, Any]]) -> None:
    verdict = probe(*opened("qwen2_vl", "two-way", backend), paddings=PADDINGS)
    assert verdict.attention == "two-way"
    assert len(verdict.cells) == 6
    shares = [movement.share for cell in verdict.cells for layer in cell.layers for movement in (*cell.movements, *layer.movements)]
    assert set(shares) == {1.0}
    assert min(layer.largest for cell in verdict.cells for layer in cell.layers) > 1e-3


def test_images_are_proved_across_and_within(opened: Callable[..., tuple[Any, Any]]) -> None:
    verdict = probe(*opened("qwen2_vl", "two-way"))
    image = next(cell for cell in verdict.cells if cell.kind == "image")
    assert {str(movement) for movement in image.movements} == {
        "a later token to earlier text",
        "a later token to earlier image tokens",
        "a later image to earlier text",
        "a later image to earlier image tokens",
        "the end of an image to its beginning",
    }


@pytest.mark.parametrize(("backend", "family"), [("sdpa", "llama"), ("eager", "llama"), ("sdpa", "qwen2_5_vl")])
def test_one_causal_layer_left_is_named(backend: str, family: str, opened: Callable[..., tuple[Any, Any]]) -> None:
    model, processor = opened(family, "two-way", backend)
    make_causal(model.get_decoder().layers[1])
    verdict = probe(model, processor, paddings=PADDINGS)
    assert verdict.attention == "mixed"
    assert "layer 1 of 3 is causal, layers 0, 2 of 3 are two-way" in verdict.reason
    assert [layer.attention for layer in verdict.layers] == ["two-way", "causal", "two-way"]


def test_one_two_way_layer_in_a_causal_model_is_named(opened: Callable[..., tuple[Any, Any]]) -> None:
    model, processor = opened("llama", "two-way")
    for index in (0, 2):
        make_causal(model.layers[index])
    assert "layer 1 of 3 is two-way, layers 0, 2 of 3 are causal" in probe(model, processor).reason


def test_a_layer_that_is_causal_only_without_a_mask_is_caught(opened: Callable[..., tuple[Any, Any]]) -> None:
    model, processor = opened("llama", "two-way")
    make_causal(model.layers[2], flag=True)
    verdict = probe(model, processor, paddings=PADDINGS)
    assert {cell.padding: cell.verdict for cell in verdict.cells} == {"none": "mixed", "left": "two-way", "right": "two-way"}
    assert "layer 2 of 3 is causal" in verdict.reason
    assert "[text unpadded]" in verdict.reason


@pytest.mark.parametrize("family", ["llama", "smolvlm"])
def test_a_dropped_mask_leaks_from_padding(family: str, opened: Callable[..., tuple[Any, Any]]) -> None:
    model, processor = opened(family, "two-way")
    drop_mask(model.get_decoder())
    verdict = probe(model, processor, paddings=PADDINGS)
    assert verdict.attention == "leaks"
    assert "what is in the padding" in verdict.reason
    assert "more padding" in verdict.reason
    assert {cell.verdict for cell in verdict.cells if cell.padding == "none"} == {"two-way"}


def test_rows_that_see_each_other_leak(opened: Callable[..., tuple[Any, Any]]) -> None:
    model, processor = opened("qwen2", "two-way")
    model.norm.register_forward_hook(lambda _module, _args, output: output + 0.01 * output.mean(0, keepdim=True))
    verdict = probe(model, processor)
    assert verdict.attention == "leaks"
    assert "another row" in verdict.reason


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_claim_at_the_top_of_the_config_changes_nothing(family: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = tf.AutoModel.from_pretrained(tiny_model(family))
    model.config.is_causal = False
    model.save_pretrained(tmp_path)
    found = open_model(tmp_path, processor=tiny_model(family))
    assert found.declared.attention == "two-way"
    assert probe(found.model, found.processor, paddings=("none",)).attention == "causal"


def test_images_that_see_themselves_only_are_mixed(opened: Callable[..., tuple[Any, Any]]) -> None:
    verdict = probe(*opened("gemma3"))
    assert verdict.attention == "mixed"
    assert {cell.kind: cell.verdict for cell in verdict.cells} == {"text": "causal", "image": "mixed"}
    assert verdict.reason.startswith("moves: the end of an image to its beginning; does not move: a later image to")


def test_an_encoder_is_two_way_and_its_shifting_positions_are_noted(opened: Callable[..., tuple[Any, Any]]) -> None:
    verdict = probe(*opened("bert"), paddings=PADDINGS)
    assert verdict.attention == "two-way"
    notes = {cell.padding: cell.notes for cell in verdict.cells}
    assert notes["left"] == ("absolute positions shift with padding on this side, and states with them",)
    assert notes["none"] == notes["right"] == ()


@pytest.mark.parametrize("attention", ["causal", "two-way"])
def test_half_precision_is_named_alike(attention: str, opened: Callable[..., tuple[Any, Any]]) -> None:
    model, processor = opened("internvl", attention)
    assert probe(model.bfloat16(), processor, paddings=PADDINGS).attention == attention


@pytest.mark.parametrize("attention", ["causal", "two-way"])
def test_a_mixture_of_experts_is_named_alike(attention: str) -> None:
    small = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "vocab_size": 100}
    torch.manual_seed(0)
    model = tf.AutoModel.from_config(tf.Qwen3MoeConfig(**small, **experts, is_causal=attention == "causal"))
    verdict = probe(model, None, paddings=PADDINGS)
    assert verdict.attention == attention
    assert len(verdict.layers) == 2


def test_without_tokenizer_and_processor_only_text_is_proved_and_that_is_said(opened: Callable[..., tuple[Any, Any]]) -> None:
    model, _ = opened("idefics3", "two-way")
    verdict = probe(model, None)
    assert verdict.attention == "two-way"
    assert {cell.kind for cell in verdict.cells} == {"text"}
    assert verdict.notes == ("image: not tested: there is no processor for its images",)


def test_a_model_that_nothing_moves_is_unclear_and_not_causal(opened: Callable[..., tuple[Any, Any]]) -> None:
    model, tokenizer = opened("llama")
    torch.nn.init.zeros_(model.norm.weight)
    assert probe(model, tokenizer).attention == "unclear"


def test_states_that_are_not_finite_are_an_error(opened: Callable[..., tuple[Any, Any]]) -> None:
    model, tokenizer = opened("llama")
    torch.nn.init.constant_(model.norm.weight, float("inf"))
    with pytest.raises(TwowayError, match="not finite"):
        probe(model, tokenizer)


def test_tokens_that_the_config_names_stand_for_no_text(opened: Callable[..., tuple[Any, Any]]) -> None:
    model, processor = opened("qwen2_vl")
    model.config.get_text_config().eos_token_id = [5, 7]
    ids = probe_ids(model, processor.tokenizer)
    assert not {5, 7, model.config.image_token_id, *processor.tokenizer.all_special_ids} & set(ids)
    assert max(ids) < model.get_input_embeddings().weight.shape[0]


def test_a_proof_leaves_the_model_as_it_was(opened: Callable[..., tuple[Any, Any]]) -> None:
    model, processor = opened("qwen2_vl", "two-way")
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe(model, processor)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.get_decoder().layers)


@pytest.mark.parametrize(("causal", "said"), [(False, "two-way"), (True, "causal")])
def test_where_all_look_at_one_state_a_content_close_to_it_shows_who_looks_there(causal: bool, said: str) -> None:
    states = torch.randn(1, 12, 64, generator=torch.Generator().manual_seed(0))
    sink = states[0, 0] / states[0, 0].norm()

    def layer(hidden: torch.Tensor) -> torch.Tensor:
        scores = (hidden[0] @ sink * 40).expand(
            12, 12
        )  # noise is at most half as near to the first state as it is itself: a weight of e^-150
        shut = torch.full((12, 12), -torch.inf).triu(1) if causal else torch.zeros(12, 12)
        return ((scores + shut).softmax(-1) @ hidden[0])[None]

    def run(at: int, content: int) -> torch.Tensor:
        return layer(proof_probe.hidden_with(states, at, content))

    def noise(at: int, content: int) -> torch.Tensor:
        return layer(proof_probe.nudged(states, [at], content))

    asked = proof_probe.Probe("a later token", "earlier text", 11, tuple(range(11)))
    found = [proof_probe.asked(one, asked, layer(states), list(range(11)), 2e-6, alive=True) for one in (noise, run)]
    assert [one.attention for one in found] == ["causal", said]


def test_a_layer_that_is_too_sure_of_itself_is_asked_with_more_contents(
    opened: Callable[..., tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = opened("qwen2_vl", "two-way")
    attention = model.get_decoder().layers[1].self_attn
    with torch.no_grad():
        attention.q_proj.weight *= 12
        attention.k_proj.weight *= 12
    monkeypatch.setattr(proof_probe, "CONTENTS", 1)
    assert probe(model, processor).attention == "mixed"
    monkeypatch.undo()
    assert probe(model, processor).attention == "two-way"
    make_causal(model.get_decoder().layers[1])
    assert probe(model, processor).attention == "mixed"
