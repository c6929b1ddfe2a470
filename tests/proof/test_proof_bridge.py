"""The proof of the bridge: it holds in every family, and every way to break it is found and named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tiny import FAMILIES
from twoway.errors import TwowayError
from twoway.models import kernels
from twoway.models.attention import set_attention
from twoway.models.opening import open_model
from twoway.proof.bridge import EVERY, BridgeCell, Options, probe_bridge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PUBLISHED, CLOSED = EVERY[0], EVERY[-1]


@pytest.fixture
def two_way(tiny_model: Callable[[str], Path]) -> Callable[..., tuple[Any, Any]]:
    def get(family: str, backend: str = "sdpa") -> tuple[Any, Any]:
        found = open_model(tiny_model(family))
        set_attention(found.model, "two-way")
        found.model.set_attn_implementation(backend)
        return found.model, found.processor

    return get


def cells_of(model: Any, processor: Any, *options: Options, paddings: tuple[str, ...] = ("left",)) -> tuple[BridgeCell, ...]:
    return probe_bridge(model, processor, paddings=paddings, options=options or (PUBLISHED,))[0]


@pytest.mark.parametrize(
    ("family", "backend"), [*((family, "sdpa") for family in FAMILIES), *((family, "eager") for family in ("qwen2_5_vl", "gemma3"))]
)
def test_in_every_family_b_learns_of_a_through_eos_alone(family: str, backend: str, two_way: Callable[..., tuple[Any, Any]]) -> None:
    options = (PUBLISHED, CLOSED) if (family, backend) == ("qwen2_5_vl", "sdpa") else (CLOSED,)  # all four are tried below, on a text model
    cells = cells_of(*two_way(family, backend), *options)
    assert {cell.verdict for cell in cells} == {"bridge"}, [cell.reason for cell in cells]
    assert [(cell.options, cell.kind) for cell in cells] == [(one, kind) for one in options for kind in ("text", "image")]
    # Nothing moves by rounding either, and what may move is far from the line.
    assert max(cell.largest for cell in cells) == 0
    assert min(flow.movement.largest for cell in cells for flow in cell.flows if flow.allowed) > 1e-4
    sources = {flow.movement.source for flow in cells[1].flows}
    assert sources == {"A", "B", "an image in A", "another row", "what is in the padding"}


def test_every_option_and_padding_opens_and_shuts_what_it_says(two_way: Callable[..., tuple[Any, Any]]) -> None:
    cells = cells_of(*two_way("qwen2"), *EVERY, paddings=("none", "left", "right"))
    assert {cell.verdict for cell in cells} == {"bridge"}
    assert len(cells) == 12
    for cell in cells:
        moved = {str(flow): flow.moved for flow in cell.flows}
        assert moved["A moves EOS"]
        assert moved["A moves B"]
        assert moved["B moves EOS"] == cell.options.eos_sees_target
        assert moved["B moves A"] == (cell.options.eos_sees_target and cell.options.sources_see_eos)
        for how in ("held still", "cut out"):
            assert not moved[f"A moves B with EOS {how}"]
            assert not moved[f"B moves A with EOS {how}"]
        for layer in cell.layers:
            seen = {(one.target, one.source): one.share for one in layer.movements}
            assert seen["A", "B"] == seen["B", "A"] == 0
            assert seen["EOS", "A"] == seen["B", "EOS"] == seen["A", "A"] == seen["B", "B"] == 1
            assert seen["EOS", "B"] == cell.options.eos_sees_target
            assert seen["A", "EOS"] == cell.options.sources_see_eos


def test_flex_attention_takes_the_same_mask(two_way: Callable[..., tuple[Any, Any]]) -> None:
    model, processor = two_way("internvl", "flex_attention")
    with torch.compiler.set_stance("force_eager"):
        (cell,) = cells_of(model, processor.tokenizer, CLOSED)
    assert (cell.backend, cell.verdict, cell.largest) == ("flex_attention", "bridge", 0.0)


def test_the_products_for_short_rows_take_it_too(two_way: Callable[..., tuple[Any, Any]]) -> None:
    model, processor = two_way("qwen2_vl")
    kernels.use_kernels(model.bfloat16(), products=True)
    cells = cells_of(model, processor, PUBLISHED, CLOSED)
    assert [(cell.backend, cell.verdict, cell.largest) for cell in cells] == [(kernels.SHORT_ROWS, "bridge", 0.0)] * 4


def own_mask(layer: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let one layer see by another mask."""
    forward = layer.self_attn.forward

    def changed(*args: Any, attention_mask: torch.Tensor | None, **kwargs: Any) -> Any:
        """Outside the bridge there is no mask, and none is made."""
        return forward(*args, attention_mask=None if attention_mask is None else change(attention_mask), **kwargs)

    layer.self_attn.forward = changed


def test_a_layer_that_sees_all_is_a_leak_with_its_number(two_way: Callable[..., tuple[Any, Any]]) -> None:
    model, tokenizer = two_way("llama")
    own_mask(model.layers[1], torch.ones_like)
    (cell,) = cells_of(model, tokenizer, paddings=("none",))
    assert cell.verdict == "leaks"
    assert "B sees A in layer 1 of 3" in cell.reason
    assert "A sees B in layer 1 of 3" in cell.reason
    assert "A moves B with EOS held still" in cell.reason
    assert "A moves B with EOS cut out" in cell.reason


def test_states_that_are_mixed_beside_the_attention_are_a_leak(two_way: Callable[..., tuple[Any, Any]]) -> None:
    """No mask shows it, and no layer: what comes out of the last norm does."""
    model, tokenizer = two_way("qwen2")
    model.norm.register_forward_hook(lambda _module, _args, output: output + 0.01 * output.mean(1, keepdim=True))
    (cell,) = cells_of(model, tokenizer, CLOSED, paddings=("none",))
    assert cell.verdict == "leaks"
    assert "A moves B with EOS held still" in cell.reason
    assert "sees" not in cell.reason


def test_an_option_that_is_not_obeyed_is_a_leak(two_way: Callable[..., tuple[Any, Any]]) -> None:
    model, tokenizer = two_way("llama")

    def open_again(mask: torch.Tensor) -> torch.Tensor:
        """Whoever is seen sees back."""
        return mask | mask.transpose(-1, -2)

    for layer in model.layers:
        own_mask(layer, open_again)
    (cell,) = cells_of(model, tokenizer, Options(eos_sees_target=False, sources_see_eos=True), paddings=("none",))
    assert cell.verdict == "leaks"
    assert cell.reason.startswith("EOS sees B in layers 0-2 of 3; B moves EOS (")


def test_a_shut_bridge_is_mixed_and_a_dead_model_unclear(two_way: Callable[..., tuple[Any, Any]]) -> None:
    model, tokenizer = two_way("llama")
    own_mask(model.layers[0], lambda mask: mask & torch.eye(mask.shape[-1], dtype=torch.bool))
    (cell,) = cells_of(model, tokenizer, paddings=("none",))
    assert cell.verdict == "mixed"
    assert "B does not see EOS in layer 0 of 3" in cell.reason
    torch.nn.init.zeros_(model.norm.weight)
    (cell,) = cells_of(model, tokenizer, paddings=("none",))
    assert cell.verdict == "unclear"


def test_a_causal_model_is_refused(tiny_model: Callable[[str], Path]) -> None:
    found = open_model(tiny_model("qwen2_vl"))
    with pytest.raises(TwowayError, match="qwen2_vl is causal"):
        cells_of(found.model, found.processor)
