"""Does anything of A reach B but through EOS? The proof of the bridge, by behaviour.

Two rows go in that are cut into A, EOS and B at different places, under the bridge mask. Then, in the first row, a token of A or an image
in it changes, or a token of B, and the states of the other part are watched. With EOS *held* (each layer's state there put back to what it
was) and with EOS *cut out* (nobody sees it) they must not move, through any number of layers; with EOS free they must, where the options
allow the way. The other row and what is in the padding must not matter. And each layer alone is asked for every entry of the table.
Where the line between moved and not moved is drawn, and why, is said in `proof`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from twoway.errors import TwowayError

from .attention import with_mask
from .bridge_mask import bridge_mask
from .proof import SAME_SHAPE, no_image
from .proof_bridge_verdict import EVERY, BridgeCell, Flow, Options
from .proof_inputs import Feed, image_feed, text_feed
from .proof_layers import Probe, Trace, Watcher, distances, movement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .proof_inputs import Inputs


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
    """Cut the rows: EOS stands behind the images, in the second row one token later than in the first."""
    entry = watcher.run(feed.base).entry
    moved = distances(entry, watcher.run(feed.all_images).entry) if feed.all_images else torch.zeros(entry.shape[1])
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
    """Change A and B with the way over EOS closed: the other part stays."""
    return [
        Flow(movement(source, target, before.states, watcher.run(changed).states, watch, line), allowed=False, how=how)
        for source, target, watch, _, changed in _changes(feed, cut)
    ]


def _questions(cut: Cut) -> list[Probe]:
    """Ask a layer for each entry of the table but (EOS, EOS); an image in A is asked for beside A's text."""
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
