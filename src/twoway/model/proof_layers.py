"""Watching a forward: the states that enter the first decoder layer, the states that leave the last norm, and each layer on its own.

A layer is probed inside the real forward, with the very masks, positions and settings it runs with: right after it has run, it runs again
on the same input with a nudge at a later position, and its output is compared at earlier ones. The test is local: what the other layers do
cannot hide a layer that was left causal. A layer that is not moved enough is asked again with other contents: training can leave a layer
whose attention is so sure of itself that noise at a later position gets no weight that a float32 can hold. What comes close to another
state of the row gets some, where the row looks at that state; a causal layer is moved by none.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from twoway.errors import TwowayError

from .proof_verdict import TWO_WAY, LayerProof, Movement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .proof_inputs import Inputs


CONTENTS = 32  # of a later position, that a layer is asked with before it is said not to look there
CLOSE = 0.3  # of another state: near enough to be looked at like it, and not the same


@dataclass(frozen=True)
class Probe:
    """Where to nudge and which positions to watch (earlier ones, but for the bridge)."""

    source: str
    target: str
    at: int
    watch: tuple[int, ...]


@dataclass(frozen=True)
class Trace:
    """One forward: states into the first layer, after the last norm, and the rotary tables."""

    entry: torch.Tensor
    states: torch.Tensor
    rotary: torch.Tensor | None


class Watcher:
    """Runs a model and watches its decoder layers."""

    def __init__(self, model: Any) -> None:
        # With a language-model head, the states after the final norm are those of the model below it.
        self.model = getattr(model, "base_model", model)
        self.layers = decoder_layers(self.model)
        taken = inspect.signature(self.model.forward).parameters.values()
        # A cache would see a probed layer's keys twice.
        cached = any(one.name == "use_cache" or one.kind is one.VAR_KEYWORD for one in taken)
        self._settings = {"use_cache": False} if cached else {}

    @property
    def backend(self) -> str:
        """Return the attention backend that the language model runs with."""
        return str(self.model.get_decoder().config._attn_implementation)

    def run(self, inputs: Inputs, nudge: Sequence[int] = ()) -> Trace:
        """Run once; a nudge changes what enters the first layer at these positions of the first row."""
        seen: dict[str, torch.Tensor] = {}

        def enter(_layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = _hidden(args, kwargs)
            rotary = kwargs.get("position_embeddings")
            if isinstance(rotary, tuple):
                seen["rotary"] = rotary[0]
            if nudge:
                hidden = nudged(hidden, nudge)
                args, kwargs = _with_hidden(hidden, args, kwargs)
            seen["entry"] = hidden.detach()
            return args, kwargs

        with torch.no_grad(), _hooked(self.layers[0].register_forward_pre_hook(enter, with_kwargs=True)):
            out = self.model(**self._placed(inputs), **self._settings)
        return Trace(seen["entry"], out.last_hidden_state, seen.get("rotary"))

    def probe_layers(self, inputs: Inputs, probes: Sequence[Probe], window: int | None, threshold: float) -> tuple[LayerProof, ...]:
        """Probe every decoder layer at once, in one forward."""
        found: list[LayerProof] = []

        def again(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            hidden, before = _hidden(args, kwargs), _first(output)
            movements: list[Movement] = []

            def run(at: int, content: int) -> torch.Tensor:
                new_args, new_kwargs = _with_hidden(hidden_with(hidden, at, content), args, kwargs)
                return _first(layer.forward(*new_args, **new_kwargs))

            for probe in probes:
                # A sliding window hides what is far away from every layer alike; only what is near can tell the layers apart.
                watch = [place for place in probe.watch if window is None or abs(probe.at - place) < window // 2]
                if not watch:
                    continue
                alive = any(one.share for one in (*movements, *(one for proof in found for one in proof.movements)))
                movements.append(asked(run, probe, before, watch, threshold, alive=alive))
            found.append(LayerProof(len(found), tuple(movements)))

        handles = [layer.register_forward_hook(again, with_kwargs=True) for layer in self.layers]
        with torch.no_grad(), _hooked(*handles):
            self.model(**self._placed(inputs), **self._settings)
        return tuple(found)

    def _placed(self, inputs: Inputs) -> Inputs:
        """Move inputs to the model's device, and floating ones to its precision."""
        like = next(self.model.parameters())
        return {name: value.to(like.device, like.dtype if value.is_floating_point() else None) for name, value in inputs.items()}


def asked(
    run: Callable[[int, int], torch.Tensor], probe: Probe, before: torch.Tensor, watch: list[int], threshold: float, *, alive: bool
) -> Movement:
    """Nudge with one content after the other until enough has moved; with one alone where nothing has moved in any layer so far."""
    moved = torch.zeros(len(watch))
    for content in range(CONTENTS):
        moved = torch.maximum(moved, distances(before, run(probe.at, content))[watch].cpu())
        seen = measured(probe.source, probe.target, moved, threshold)
        if seen.attention == TWO_WAY or not (seen.share or alive):
            break
    return seen


def decoder_layers(model: Any) -> list[Any]:
    """Find the layers that the text states run through, leaving the vision tower out."""
    if model.config.is_encoder_decoder:
        raise TwowayError(f"{type(model).__name__} is an encoder with a decoder; the proof is for one stack of layers")
    language = model.get_decoder()
    stacks = [module for module in language.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    depth = model.config.get_text_config().num_hidden_layers
    # Experts and the like are lists, too; the layers are the outermost list of the config's length.
    layers = next((stack for stack in stacks if len(stack) == depth), None) or max(stacks, key=len, default=None)
    if layers is None:
        raise TwowayError(f"no decoder layers found in {type(language).__name__}; the proof cannot be made for this family")
    return list(layers)


def movement(source: str, target: str, before: torch.Tensor, after: torch.Tensor, watch: Sequence[int], threshold: float) -> Movement:
    """Measure how far the first row's states moved at these positions, relative to the median length of a state."""
    return measured(source, target, distances(before, after)[list(watch)], threshold)


def measured(source: str, target: str, moved: torch.Tensor, threshold: float) -> Movement:
    """Put how far each watched state moved into a movement."""
    return Movement(source, target, float(moved.max()), float((moved > threshold).float().mean()))


def distances(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return how far each state of the first row moved; the median length is the scale, as trained models have a few huge states."""
    before, after = before[0].float(), after[0].float()
    moved: torch.Tensor = (after - before).norm(dim=-1) / before.norm(dim=-1).median().clamp_min(torch.finfo(torch.float32).tiny)
    return moved


def nudged(hidden: torch.Tensor, positions: Sequence[int], seed: int = 0) -> torch.Tensor:
    """Add noise as long as the state itself at these positions of the first row."""
    generator = torch.Generator().manual_seed(seed)
    hidden = hidden.clone()
    for position in positions:
        hidden[0, position] = _with_noise(hidden[0, position], 1.0, generator)
    return hidden


def hidden_with(hidden: torch.Tensor, at: int, content: int) -> torch.Tensor:
    """Put another content at a position of the first row: in turns noise, and what comes close to another state of the row."""
    if content % 2 == 0:
        return nudged(hidden, [at], content)
    generator = torch.Generator().manual_seed(content)
    other = int(torch.randint(hidden.shape[1], (1,), generator=generator))
    changed = hidden.clone()
    changed[0, at] = _with_noise(hidden[0, other], CLOSE, generator)  # the same state would be a second copy of what is seen already
    return changed


def _with_noise(state: torch.Tensor, length: float, generator: torch.Generator) -> torch.Tensor:
    """Add noise of a length, in lengths of the state."""
    noise = torch.randn(state.shape, generator=generator).to(state)
    changed: torch.Tensor = state + length * noise * (state.norm() / noise.norm()).clamp_min(torch.finfo(state.dtype).eps)
    return changed


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def _with_hidden(hidden: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def _first(output: Any) -> torch.Tensor:
    states: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return states


@contextmanager
def _hooked(*handles: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
