"""Who moves when a later token changes: the proof that attention is two-way, by behaviour and not by what a config says.

A configuration can claim anything (a top-level `is_causal: false` is ignored by most vision-language models in silence), and each attention
kernel reads it in another place. So the proof runs the model. It changes a later token, a later image, one token inside an image; it fills
the padding with other tokens, adds more padding, changes the other row; and measures which states of the first row move. Then every decoder
layer is probed on its own (`proof_layers`). Nothing here knows a family.

**Where the line is.** The inputs keep their shapes, so in a causal model earlier states come out of the same additions in the same order
and move by exactly 0 on a CPU; rerunning one input measures what the machine adds to that. A two-way model moves them by about one part in
ten to one in a thousand. `SAME_SHAPE` stands between, above the rounding that a mixture of experts may add when its tokens are grouped
anew. Only *more padding* changes the shape, and with it the order of additions and, where positions are counted from the left, the rotary
angles: `NEW_SHAPE` is far above that rounding in float32, and far below a leak, which brings in a token's whole share of attention.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from twoway.errors import TwowayError

from .proof_inputs import Feed, image_feed, text_feed
from .proof_layers import Probe, Trace, Watcher, distances, movement
from .proof_verdict import Cell, Movement, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

SAME_SHAPE = 2e-6  # 16 float32 roundings, relative to the length of a state
NEW_SHAPE = 1e-4
PADDINGS = ("none", "left", "right")


def probe(model: Any, processor: Any, *, paddings: Sequence[str] = ("none", "left"), image: bool = True) -> Verdict:
    """Prove one loaded model under the attention backend it has now; `processor` is a processor, a tokenizer or None."""
    was_training = model.training
    model.eval()
    cells, notes = [], []
    try:
        watcher = Watcher(model)
        tokenizer = getattr(processor, "tokenizer", processor)
        cells += [_cell(watcher, text_feed(watcher.model, tokenizer, padding)) for padding in paddings]
        reason = no_image(model, processor) if image else "not asked for"
        if reason:
            notes.append(f"image: not tested: {reason}")
        else:
            cells += [_cell(watcher, image_feed(watcher.model, processor, padding)) for padding in paddings]
    finally:
        model.train(was_training)
    return Verdict(tuple(cells), tuple(notes))


def no_image(model: Any, processor: Any) -> str:
    """Say why images cannot be tested; empty where they can."""
    if getattr(model.config, "vision_config", None) is None:
        return "the model has no vision tower"
    if getattr(processor, "image_processor", None) is None:
        return "there is no processor for its images"
    return ""


def _cell(watcher: Watcher, feed: Feed) -> Cell:
    """Prove one case."""
    before = watcher.run(feed.base)
    real = list(feed.real)
    if not torch.isfinite(before.states[0, real]).all():
        raise TwowayError(f"the model's states are not finite ({feed.kind}, padding {feed.padding}); look at its weights or at --dtype")
    noise = float(distances(before.states, watcher.run(feed.base).states)[real].max())
    line = max(SAME_SHAPE, 10 * noise)
    images, later = _image_places(watcher, feed, before, line)
    movements, control = _changes(watcher, feed, before, (images, later), line)
    window = getattr(watcher.model.config.get_text_config(), "sliding_window", None)
    layers = watcher.probe_layers(feed.base, _layer_probes(feed, images, later), window, line)
    leaks, leaking, notes = _leaks(watcher, feed, before, line)
    return Cell(watcher.backend, feed.padding, feed.kind, tuple(movements), layers, leaks, leaking, control, noise, notes)


def _image_places(watcher: Watcher, feed: Feed, before: Trace, line: float) -> tuple[set[int], set[int]]:
    """Find where images enter: the positions whose input to the first layer follows the pixels (of all images, of the later one)."""
    places = []
    for variant in (feed.all_images, feed.later_image):
        moved = distances(before.entry, watcher.run(variant).entry) if variant else torch.zeros(0)
        places.append({place for place in feed.real if place < len(moved) and moved[place] > line})
    if feed.kind == "image" and not places[1]:
        raise TwowayError("the model's image tokens do not follow its pixels; its images enter in another way than this proof knows")
    return places[0], places[1]


def _changes(watcher: Watcher, feed: Feed, before: Trace, places: tuple[set[int], set[int]], line: float) -> tuple[list[Movement], bool]:
    """Change a later token, one in the middle, and the later image; return who moved, and whether the changed places did."""
    images, later = places
    movements: list[Movement] = []
    control = True

    def watch(source: str, first: int, after: Trace) -> None:
        nonlocal control
        control = control and bool(distances(before.states, after.states)[first] > line)
        earlier = [place for place in feed.real if place < first]
        for target, watched in (
            ("earlier text", [place for place in earlier if place not in images]),
            ("earlier image tokens", [place for place in earlier if place in images]),
        ):
            if watched:
                movements.append(movement(source, target, before.states, after.states, watched, line))

    for place in dict.fromkeys((feed.replaceable[-1], feed.replaceable[len(feed.replaceable) // 2])):
        watch("a later token", place, watcher.run(feed.token_changed(place)))
    if feed.later_image:
        watch("a later image", min(later), watcher.run(feed.later_image))
    for one in _within(later):  # no pixel can be changed alone, the tower mixes them; so what enters the first layer is nudged
        after = watcher.run(feed.base, nudge=[one.at])
        movements.append(movement(one.source, one.target, before.states, after.states, one.watch, line))
    return movements, control


def _layer_probes(feed: Feed, images: set[int], later: set[int]) -> list[Probe]:
    """Choose what each layer is asked: between texts and, with images, across and within them."""

    def before(at: int, *, image: bool) -> tuple[int, ...]:
        return tuple(place for place in feed.real if place < at and (place in images) == image)

    last = feed.replaceable[-1]
    probes = [Probe("a later token", "earlier text", last, before(last, image=False))]
    if images:
        behind = next((place for place in feed.replaceable if place > max(images)), last)
        probes.append(Probe("a later token", "earlier image tokens", behind, before(behind, image=True)))
        first = min(later)
        probes.append(Probe("a later image", "earlier text", first, before(first, image=False)))
        probes.append(Probe("a later image", "earlier image tokens", first, before(first, image=True)))
    return [*probes, *_within(later)]


def _within(later: set[int]) -> list[Probe]:
    """Ask whether the end of an image moves its beginning; nothing to ask of an image of one token."""
    places = sorted(later)
    return [Probe("the end of an image", "its beginning", places[-1], tuple(places[:-1]))] if len(places) > 1 else []


def _leaks(watcher: Watcher, feed: Feed, before: Trace, line: float) -> tuple[dict[str, float], tuple[str, ...], tuple[str, ...]]:
    """Change what must not matter: the other row, what is in the padding, how much of it there is."""
    real, notes = list(feed.real), []
    moved = {"another row": float(distances(before.states, watcher.run(feed.other_row).states)[real].max())}
    lines = {"another row": line}
    if feed.garbage:
        after = watcher.run(feed.garbage)
        if bool((distances(before.entry, after.entry)[real] > line).any()):
            # Some models count positions by comparing ids with the padding id; then only the states in the padding are changed.
            notes.append("positions are counted by the padding id")
            after = watcher.run(feed.base, nudge=[place for place in range(before.states.shape[1]) if place not in feed.real])
        moved["what is in the padding"], lines["what is in the padding"] = float(distances(before.states, after.states)[real].max()), line
    if feed.more_padding:
        after, there = watcher.run(feed.more_padding), list(feed.more_real)
        aligned = [_pick(one, places) for one, places in ((before, real), (after, there))]
        if bool((distances(aligned[0].entry, aligned[1].entry) > NEW_SHAPE).any()):
            notes.append("absolute positions shift with padding on this side, and states with them")
        else:
            moved["more padding"] = float(distances(aligned[0].states, aligned[1].states).max())
            # Half precision rounds far more than it leaks little; there the line is a tenth of what a leak amounts to.
            lines["more padding"] = max(min(1000 * torch.finfo(before.states.dtype).eps, 0.05), NEW_SHAPE)
            if _turned(aligned[0], aligned[1]):
                notes.append("positions shift with padding on this side; rotary attention is relative, so states stay")
    return moved, tuple(name for name, value in moved.items() if value > lines[name]), tuple(notes)


def _pick(trace: Trace, places: list[int]) -> Trace:
    """Keep the first row's states at these places."""
    rotary = trace.rotary
    if rotary is not None:
        rotary = rotary[..., :1, places, :] if rotary.dim() > 2 else rotary[places][None]
    return Trace(trace.entry[:1, places], trace.states[:1, places], rotary)


def _turned(before: Trace, after: Trace) -> bool:
    """Tell whether the rotary angles of the same tokens differ."""
    return before.rotary is not None and after.rotary is not None and not torch.equal(before.rotary, after.rotary)
