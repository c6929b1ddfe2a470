"""Does anything of A reach B but through EOS? The proof of the bridge, by behaviour.

The input is two rows, split into A, EOS and B at different positions, under the bridge mask. Then, in the first row, a token of A or an
image in it changes, or a token of B, and the states of the other part are observed. With EOS *held* (its state is restored in each layer)
and with EOS *cut out* (no token sees it) they must not move, through any number of layers. With EOS free they must move, where the options
allow a path. The other row and the content of the padding must not matter. Then each layer alone is tested for every entry of the table.
`probe` explains the threshold between moved and not moved.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from twoway.config import gather, takes
from twoway.errors import TwowayError, UsageError
from twoway.models.attention import MASKED_BACKENDS, require_two_way, with_mask
from twoway.models.bridge_mask import bridge_mask
from twoway.models.opening import open_model

from . import probe
from .check import Skipped, prove, quiet_compiler
from .config import BACKENDS, BridgeCheckConfig
from .probe import SAME_SHAPE, Feed, Probe, Trace, Watcher, distances, image_feed, movement, no_image, text_feed
from .verdict import LEAKS, MIXED, UNCLEAR, explain, merge_names, ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .probe import Inputs
    from .verdict import LayerProof, Movement


# What the proof of the bridge says: who sees whom in each layer, what a change reaches through all of them, and the
# name this gets.
#
# *bridge*: every layer sees what the table allows and nothing else, and through all layers B learns of A, and A of B, over EOS alone.
# *leaks*: something moves that must stay. *mixed*: something stays that must move, so a layer is shut. *unclear*: a change does not even
# move itself.

BRIDGE = "bridge"


@dataclass(frozen=True)
class Options:
    """The two options of the mask."""

    eos_sees_target: bool
    sources_see_eos: bool

    def __str__(self) -> str:
        """Say what differs from the mask as published."""
        shut = [text for on, text in ((self.eos_sees_target, "EOS sees no B"), (self.sources_see_eos, "A sees no EOS")) if not on]
        return " and ".join(shut) or "as published"


EVERY = tuple(Options(eos, sources) for eos in (True, False) for sources in (True, False))


@dataclass(frozen=True)
class Flow:
    """A change in one part, what it did to another through all layers, and whether it may."""

    movement: Movement
    allowed: bool
    how: str = ""  # what was done to EOS meanwhile

    @property
    def moved(self) -> bool:
        """Tell whether anything moved."""
        return self.movement.share > 0

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.movement.source} moves {self.movement.target}{self.how and f' with EOS {self.how}'}"


@dataclass(frozen=True)
class BridgeCell:
    """One case: a backend, the options of the mask, a side of padding, text or image."""

    backend: str
    options: Options
    padding: str
    kind: str
    flows: tuple[Flow, ...]
    layers: tuple[LayerProof, ...]  # here a movement from `source` to `target` means that target sees source
    table: dict[tuple[str, str], bool]  # (who, whom) -> whether it may see it
    control: bool = True
    noise: float = 0.0

    @property
    def group(self) -> str:
        """Name the row of a table that the case belongs to."""
        return f"{self.backend}, {self.options}"

    @property
    def leaking(self) -> tuple[str, ...]:
        """Name everything that moves and must not."""
        through = [f"{flow} ({flow.movement.largest:.1e})" for flow in self.flows if flow.moved and not flow.allowed]
        return (*self._layers(allowed=False), *through)

    @property
    def shut(self) -> tuple[str, ...]:
        """Name everything that stays and must not."""
        through = [f"{flow}: it does not" for flow in self.flows if flow.movement.share < 0.5 and flow.allowed]
        return (*self._layers(allowed=True), *through)

    def _layers(self, *, allowed: bool) -> list[str]:
        """Name the entries of the table that layers disagree with, with the layers."""
        wrong: dict[str, list[int]] = {}
        for layer in self.layers:
            for one in layer.movements:
                wanted = self.table[one.target, one.source]
                broken = one.share < 0.5 if wanted else one.share > 0
                if wanted == allowed and broken:
                    wrong.setdefault(f"{one.target} {'does not see' if wanted else 'sees'} {one.source}", []).append(layer.index)
        return [f"{what} in layer{'s' * (len(ids) > 1)} {ranges(ids)} of {len(self.layers)}" for what, ids in wrong.items()]

    @property
    def verdict(self) -> str:
        """Name the case."""
        if not self.control:
            return UNCLEAR
        if self.leaking:
            return LEAKS
        return MIXED if self.shut else BRIDGE

    @property
    def largest(self) -> float:
        """Return how far anything moves that must stay."""
        layers = [one.largest for layer in self.layers for one in layer.movements if not self.table[one.target, one.source]]
        return max([flow.movement.largest for flow in self.flows if not flow.allowed] + layers, default=0.0)

    @property
    def reason(self) -> str:
        """Say what decides the verdict."""
        if not self.control:
            return "a changed token moves no state at all, not even its own"
        return "; ".join(self.leaking or self.shut)

    def as_json(self) -> dict[str, Any]:
        """Return the case as plain data."""
        layers = [
            {"layer": layer.index, "sees": {f"{one.target} sees {one.source}": one.largest for one in layer.movements}}
            for layer in self.layers
        ]
        flows = [{"what": str(flow), "allowed": flow.allowed, "largest": flow.movement.largest} for flow in self.flows]
        head = {"backend": self.backend, **asdict(self.options), "padding": self.padding, "kind": self.kind}
        rest = {"flows": flows, "layers": layers, "control": self.control, "noise": self.noise}
        return head | rest | {"verdict": self.verdict, "largest": self.largest, "reason": self.reason}


@dataclass(frozen=True)
class Cut:
    """Where the rows are cut, and what can be changed in the first: all positions are the first row's but for `eos`."""

    eos: torch.Tensor
    sources: tuple[int, ...]
    target: tuple[int, ...]
    images: tuple[int, ...]
    token: int  # an ordinary token of A
    word: int  # an ordinary token of B

    @property
    def place(self) -> int:
        """Return the position of the first row's EOS."""
        return int(self.eos[0])


def probe_bridge(
    model: Any, processor: Any, *, paddings: Sequence[str], options: Sequence[Options] = EVERY
) -> tuple[tuple[BridgeCell, ...], tuple[str, ...]]:
    """Prove one loaded model under the attention backend it has now; return the cases, and what could not be tested."""
    was_training = model.training
    model.eval()
    try:
        watcher = Watcher(model)
        tokenizer = getattr(processor, "tokenizer", processor)
        feeds = [text_feed(watcher.model, tokenizer, padding) for padding in paddings]
        reason = no_image(model, processor)
        if not reason:
            feeds += [image_feed(watcher.model, processor, padding) for padding in paddings]
        cuts = [_cut(watcher, feed) for feed in feeds]
        cells = [_cell(watcher, feed, cut, one) for one in options for feed, cut in zip(feeds, cuts, strict=True)]
    finally:
        model.train(was_training)
    return tuple(cells), (f"image: not tested: {reason}",) if reason else ()


def _cell(watcher: Watcher, feed: Feed, cut: Cut, options: Options) -> BridgeCell:
    """Prove one case."""
    mask = bridge_mask(
        cut.eos,
        feed.base["attention_mask"] == 0,
        eos_sees_target=options.eos_sees_target,
        sources_see_eos=options.sources_see_eos,
    )
    with with_mask(watcher.model, mask):
        before, held = watcher.run(feed.base), _Held(watcher, cut.place)
        with held.watching():
            again = watcher.run(feed.base)
        if not torch.isfinite(before.states[0, list(feed.real)]).all():
            raise TwowayError(f"the model's states are not finite ({feed.kind}, padding {feed.padding}); look at its weights or at --dtype")
        noise = float(distances(before.states, again.states)[list(feed.real)].max())
        line = max(SAME_SHAPE, 10 * noise)
        flows, control = _open(watcher, feed, cut, before, options, line)
        with held.holding():
            flows += _closed(watcher, feed, cut, before, "held still", line)
        window = getattr(watcher.model.config.get_text_config(), "sliding_window", None)
        layers = watcher.probe_layers(feed.base, _questions(cut), window, line)
    shut = mask.clone()
    shut[torch.arange(len(mask)), cut.eos] = shut[torch.arange(len(mask)), :, cut.eos] = False
    with with_mask(watcher.model, shut):
        flows += _closed(watcher, feed, cut, watcher.run(feed.base), "cut out", line)
    table = _table(options)
    return BridgeCell(watcher.backend, options, feed.padding, feed.kind, tuple(flows), layers, table, control, noise)


def _cut(watcher: Watcher, feed: Feed) -> Cut:
    """Split the rows: EOS comes after the images, in the second row one token later than in the first."""
    entry = watcher.entry(feed.base)
    moved = distances(entry, watcher.entry(feed.all_images)) if feed.all_images else torch.zeros(entry.shape[1])
    images = tuple(place for place in feed.real if moved[place] > SAME_SHAPE)
    free = [place for place in feed.replaceable if place > max(images, default=feed.replaceable[1])]
    if len(free) < 3:
        raise TwowayError("the chat template leaves no room behind the images for an EOS token and a B; the bridge cannot be proved")
    eos = free[len(free) // 2 - 1]
    sources = tuple(place for place in feed.real if place < eos)
    target = tuple(place for place in feed.real if place > eos)
    token = next(place for place in reversed(feed.replaceable) if place < eos)
    return Cut(torch.tensor([eos, eos + 1]), sources, target, images, token, next(place for place in free if place > eos))


def _changes(feed: Feed, cut: Cut) -> list[tuple[str, str, tuple[int, ...], int, Inputs]]:
    """List the changes: what is changed, what is watched for it and where, where the change is, and the changed batch."""
    changes = [
        ("A", "B", cut.target, cut.token, feed.token_changed(cut.token)),
        ("B", "A", cut.sources, cut.word, feed.token_changed(cut.word)),
    ]
    if feed.later_image and cut.images:
        changes.append(("an image in A", "B", cut.target, max(cut.images), feed.later_image))
    return changes


def _open(watcher: Watcher, feed: Feed, cut: Cut, before: Trace, options: Options, line: float) -> tuple[list[Flow], bool]:
    """Change A and B with EOS free, and what must not matter; return what moved, and whether the changed places did."""
    flows: list[Flow] = []
    control = True
    several = len(watcher.layers) > 1  # one layer takes it to EOS, another one on
    for source, target, watch, at, changed in _changes(feed, cut):
        after = watcher.run(changed)
        control = control and bool(distances(before.states, after.states)[at] > line)
        into = source != "B" or options.eos_sees_target
        out = target != "A" or options.sources_see_eos
        flows.append(Flow(movement(source, "EOS", before.states, after.states, [cut.place], line), into))
        over = Flow(movement(source, target, before.states, after.states, watch, line), into and out)
        flows += [over] if several or not over.allowed else []
    still = {"another row": feed.other_row, "what is in the padding": feed.garbage}
    for name, inputs in still.items():
        if inputs:
            after = watcher.run(inputs)
            # Where ids in the padding move positions, which some families count by them, the states enter otherwise and prove nothing.
            if bool((distances(before.entry, after.entry)[list(feed.real)] <= line).all()):
                flows.append(Flow(movement(name, "the row", before.states, after.states, feed.real, line), allowed=False))
    return flows, control


def _closed(watcher: Watcher, feed: Feed, cut: Cut, before: Trace, how: str, line: float) -> list[Flow]:
    """Change A and B with the path over EOS closed: the other part must not move."""
    return [
        Flow(movement(source, target, before.states, watcher.run(changed).states, watch, line), allowed=False, how=how)
        for source, target, watch, _, changed in _changes(feed, cut)
    ]


def _questions(cut: Cut) -> list[Probe]:
    """Test a layer for each entry of the table except (EOS, EOS); an image in A is tested in addition to A's text."""
    parts = {"A": (cut.token, cut.sources), "EOS": (cut.place, (cut.place,)), "B": (cut.word, cut.target)}
    sources = {name: at for name, (at, _) in parts.items()} | ({"an image in A": max(cut.images)} if cut.images else {})
    return [
        Probe(source, target, at, tuple(place for place in watch if place != at))
        for source, at in sources.items()
        for target, (_, watch) in parts.items()
        if (source, target) != ("EOS", "EOS")
    ]


def _table(options: Options) -> dict[tuple[str, str], bool]:
    """Return the table from the mask itself, of a row of one token a part; an image in A is a part of A."""
    mask = bridge_mask(
        torch.tensor([1]),
        torch.zeros(1, 3, dtype=torch.bool),
        eos_sees_target=options.eos_sees_target,
        sources_see_eos=options.sources_see_eos,
    )[0]
    parts = {"A": 0, "EOS": 1, "B": 2, "an image in A": 0}
    return {(who, whom): bool(mask[row, column]) for who, row in parts.items() for whom, column in parts.items()}


class _Held:
    """Keeps what each layer says at EOS in one run, and puts it back in others."""

    def __init__(self, watcher: Watcher, place: int) -> None:
        self.layers, self.place = watcher.layers, place
        self.kept: list[torch.Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        def keep(_layer: Any, _args: Any, output: Any) -> None:
            self.kept.append((output[0] if isinstance(output, tuple) else output)[0, self.place].clone())

        with self._hooked([keep] * len(self.layers)):
            yield

    @contextmanager
    def holding(self) -> Iterator[None]:
        def put_back(state: torch.Tensor) -> Any:
            def hook(_layer: Any, _args: Any, output: Any) -> Any:
                states = (output[0] if isinstance(output, tuple) else output).clone()
                states[0, self.place] = state
                return (states, *output[1:]) if isinstance(output, tuple) else states

            return hook

        with self._hooked([put_back(state) for state in self.kept]):
            yield

    @contextmanager
    def _hooked(self, hooks: Sequence[Any]) -> Iterator[None]:
        handles = [layer.register_forward_hook(hook) for layer, hook in zip(self.layers, hooks, strict=True)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


# `check --bridge`: prove that under the bridge mask of CoCoA's second stage B learns of A through EOS alone, whatever
# the backend.
#
# The proof is `model.proof_bridge`; here it runs under each attention backend that takes such a mask, unpadded and
# padded on either side, with text and with images, for each choice of the two options.


@dataclass(frozen=True)
class BridgeReport:
    """What a check of the bridge found."""

    model: str
    family: str
    cells: tuple[BridgeCell, ...]
    skipped: tuple[Skipped, ...]
    dtype: str
    device: str

    @property
    def verdict(self) -> str:
        """Name the model: bridge, leaks, mixed or unclear."""
        return merge_names(cell.verdict for cell in self.cells)

    @property
    def reason(self) -> str:
        """Say what decides the verdict where that is not plain."""
        return explain(self.cells)

    @property
    def ok(self) -> bool:
        """Tell whether the bridge holds in every case."""
        return self.verdict == BRIDGE

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        head = {"model": self.model, "family": self.family, "measured": self.verdict, "ok": self.ok, "reason": self.reason}
        cells = [cell.as_json() for cell in self.cells]
        return head | {"cells": cells, "skipped": [asdict(one) for one in self.skipped], "dtype": self.dtype, "device": self.device}


@takes(BridgeCheckConfig)
def check_bridge(model: str | Path, *, config: BridgeCheckConfig | None = None, **options: Any) -> BridgeReport:
    """Prove the bridge in a two-way `model`: a folder or hub id, of transformers or sentence-transformers.

    `options` are the settings of `BridgeCheckConfig`.
    """
    config = gather(BridgeCheckConfig, config, options, check_bridge)
    asked = config.backends or BACKENDS
    possible = [backend for backend in asked if backend in MASKED_BACKENDS]
    left_out = [Skipped(backend, "takes no mask of who sees whom") for backend in asked if backend not in possible]
    if not possible:
        raise UsageError(f"{', '.join(asked)} takes no mask of who sees whom; the bridge needs one of {', '.join(MASKED_BACKENDS)}")
    with quiet_compiler():
        opened = open_model(model, dtype=config.dtype, device=config.device, processor=config.processor)
        require_two_way(opened.model.config)
        cells, skipped = prove(opened, possible, lambda model, processor: probe_bridge(model, processor, paddings=probe.PADDINGS))
    used = str(opened.model.dtype).removeprefix("torch.")
    return BridgeReport(str(model), opened.model.config.model_type, cells, (*skipped, *left_out), used, str(opened.model.device))
