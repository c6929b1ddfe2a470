"""Who moves when a later token changes: the proof that attention is two-way, by behaviour and not by what a config says.

A configuration can claim anything (a top-level `is_causal: false` is silently ignored by most vision-language models), and each attention
kernel reads it from another place. So the probe runs the model. It changes a later token, a later image, frame or second of a sound, one
token inside an image; it fills the padding with other tokens, adds more padding, changes the other row; and measures which states of the
first row move. Then every decoder layer is probed alone. No code here is for one family.

**The threshold.** The inputs keep their shapes, so in a causal model earlier states come from the same additions in the same order and
move by exactly 0 on a CPU; running one input twice measures the noise of the machine. A two-way model moves them by one part in ten to one
in a thousand. `SAME_SHAPE` is in between, above the rounding that a mixture of experts may add when its tokens are grouped differently.
Only *more padding* changes the shape, and so the order of additions and, where positions are counted from the left, the rotary angles:
`NEW_SHAPE` is far above that rounding in float32, and far below a leak, which adds a token's whole share of attention.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from twoway.content import Image as ImagePart
from twoway.content import Video
from twoway.errors import TwowayError
from twoway.images import DEFAULT

from .verdict import TWO_WAY, Cell, LayerProof, Movement, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

Kind = Literal["image", "video", "audio"]
SAME_SHAPE = 2e-6  # 16 float32 roundings, relative to the length of a state
NEW_SHAPE = 1e-4
PADDINGS = ("none", "left", "right")


def probe(model: Any, processor: Any, *, paddings: Sequence[str] = ("none", "left"), image: bool = True, time: bool = False) -> Verdict:
    """Prove one loaded model under the attention backend it has now; `processor` is a processor, a tokenizer or None.

    With `time` a model that takes videos or sounds is proved on those, too, unpadded.
    """
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
        for kind in _IN_TIME:
            if time and not reason and _takes(kind, model, processor):
                try:
                    cells.append(_cell(watcher, _shown_feed(kind, watcher.model, processor, "none")))
                except (TwowayError, ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
                    notes.append(f"{kind}: not tested: {str(error).strip().partition(chr(10))[0]}")
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


# What lies in time: the part of a processor that takes it, and what the model is given.
_IN_TIME: dict[Kind, tuple[str, str]] = {
    "video": ("video_processor", "pixel_values_videos"),
    "audio": ("feature_extractor", "input_features"),
}


def _takes(kind: Kind, model: Any, processor: Any) -> bool:
    """Say whether a model takes videos or sounds."""
    part, given = _IN_TIME[kind]
    has = getattr(processor, part, None) is not None and getattr(processor, f"{kind}_token", None) is not None
    return has and given in inspect.signature(model.forward).parameters


def _cell(watcher: Watcher, feed: Feed) -> Cell:
    """Prove one case."""
    before = watcher.run(feed.base)
    real = list(feed.real)
    if not torch.isfinite(before.states[0, real]).all():
        raise TwowayError(f"the model's states are not finite ({feed.kind}, padding {feed.padding}); look at its weights or at --dtype")
    noise = float(distances(before.states, watcher.run(feed.base).states)[real].max())
    line = max(SAME_SHAPE, 10 * noise)
    other = watcher.run(feed.later_image) if feed.later_image else None
    images, later = _image_places(watcher, feed, before, other, line)
    movements, control = _changes(watcher, feed, before, other, (images, later), line)
    window = getattr(watcher.model.config.get_text_config(), "sliding_window", None)
    layers = watcher.probe_layers(feed.base, _layer_probes(feed, images, later), window, line)
    leaks, leaking, notes = _leaks(watcher, feed, before, line)
    return Cell(watcher.backend, feed.padding, feed.kind, tuple(movements), layers, leaks, leaking, control, noise, notes)


def _image_places(watcher: Watcher, feed: Feed, before: Trace, other: Trace | None, line: float) -> tuple[set[int], set[int]]:
    """Find where images enter: the positions whose input to the first layer follows the pixels (of all images, of the later one)."""
    places = []
    for entry in (watcher.entry(feed.all_images) if feed.all_images else None, other.entry if other else None):
        moved = distances(before.entry, entry) if entry is not None else torch.zeros(0)
        places.append({place for place in feed.real if place < len(moved) and moved[place] > line})
    if feed.kind != "text" and not places[1]:
        raise TwowayError("the model's image tokens do not follow its pixels; its images enter in another way than this proof knows")
    return places[0], places[1]


def _changes(
    watcher: Watcher, feed: Feed, before: Trace, other: Trace | None, places: tuple[set[int], set[int]], line: float
) -> tuple[list[Movement], bool]:
    """Change a later token, one in the middle, and the later image (`other`); return who moved, and whether the changed places did."""
    images, later = places
    movements: list[Movement] = []
    control = True

    def watch(source: str, first: int, after: Trace) -> None:
        nonlocal control
        control = control and bool(distances(before.states, after.states)[first] > line)
        earlier = [place for place in feed.real if place < first]
        for target, watched in (
            ("earlier text", [place for place in earlier if place not in images]),
            (feed.names.earlier, [place for place in earlier if place in images]),
        ):
            if watched:
                movements.append(movement(source, target, before.states, after.states, watched, line))

    for place in dict.fromkeys((feed.replaceable[-1], feed.replaceable[len(feed.replaceable) // 2])):
        watch("a later token", place, watcher.run(feed.token_changed(place)))
    if other:
        watch(feed.names.later, min(later), other)
    for one in _within(feed, later):  # no pixel can be changed alone, the tower mixes them; so what enters the first layer is nudged
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
        probes.append(Probe("a later token", feed.names.earlier, behind, before(behind, image=True)))
        first = min(later)
        probes.append(Probe(feed.names.later, "earlier text", first, before(first, image=False)))
        probes.append(Probe(feed.names.later, feed.names.earlier, first, before(first, image=True)))
    return [*probes, *_within(feed, later)]


def _within(feed: Feed, later: set[int]) -> list[Probe]:
    """Ask whether the end of an image moves its beginning; nothing to ask of an image of one token."""
    places = sorted(later)
    return [Probe(feed.names.end, "its beginning", places[-1], tuple(places[:-1]))] if len(places) > 1 else []


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


# What a proof feeds a model: two rows of ordinary tokens and noise images, and the same again with one thing changed.
#
# Everything comes from the model's own tokenizer or processor, so no token id is known here. Every change keeps the
# shapes (but for *more padding*), so that whatever moves is moved by attention and not by another order of additions.
# The first row is the one under proof; the second is there to leak into it. Padding is added here and not by the
# processor, so that it is the only thing that differs.

Inputs = dict[str, torch.Tensor]

TEXT_TOKENS = 12
PADS = 3  # padded positions of the first row; "more padding" doubles them
SIDE = 56  # pixels of a noise image before the processor resizes it: several tokens in every family, few in most


class Names(NamedTuple):
    """What changes and moves are called where a kind is shown."""

    later: str
    earlier: str
    end: str


_OF_IMAGES = Names("a later image", "earlier image tokens", "the end of an image")
_NAMES: dict[str, Names] = {
    "video": Names("a later frame", "earlier frames", "the end of a frame"),
    "audio": Names("a later second", "earlier seconds", "the end of a sound"),
}


@dataclass(frozen=True)
class Feed:
    """A batch and its variants; `None` where the model or the case has no such thing. Parts of a video or sound are meant by its images."""

    kind: str
    padding: str
    base: Inputs
    other_row: Inputs  # another text and other images in the second row
    ordinary: tuple[int, ...]  # ids that may stand for one another
    replaceable: tuple[int, ...]  # positions of the first row that hold an ordinary token
    real: tuple[int, ...]  # positions of the first row that are not padding
    later_image: Inputs | None = None
    all_images: Inputs | None = None
    garbage: Inputs | None = None  # other ids in the padded positions
    more_padding: Inputs | None = None
    more_real: tuple[int, ...] = ()

    @property
    def names(self) -> Names:
        """Return what is said of it."""
        return _NAMES.get(self.kind, _OF_IMAGES)

    def token_changed(self, position: int) -> Inputs:
        """Put another ordinary token at this position of the first row."""
        ids = self.base["input_ids"].clone()
        ids[0, position] = next(other for other in self.ordinary if other != int(ids[0, position]))
        return {**self.base, "input_ids": ids}


def text_feed(model: Any, tokenizer: Any, padding: str) -> Feed:
    """Make a batch of ordinary tokens."""
    ordinary = probe_ids(model, tokenizer)
    draw = np.random.default_rng(0)
    ids = torch.tensor(draw.choice(ordinary, (2, TEXT_TOKENS)))
    base = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    other = {**base, "input_ids": _other_second_row(ids, ordinary, range(TEXT_TOKENS))}
    return _padded("text", padding, base, {"other_row": other}, ordinary, tuple(range(TEXT_TOKENS)), tokenizer)


def image_feed(model: Any, processor: Any, padding: str) -> Feed:
    """Make a batch of text with two noise images a row (one where the processor takes no more)."""
    return _shown_feed("image", model, processor, padding)


def _shown_feed(kind: Kind, model: Any, processor: Any, padding: str) -> Feed:
    """Make it; a row has one video, of two pairs of noise frames, or one sound, of two seconds of noise; the second is the later."""
    ordinary = probe_ids(model, getattr(processor, "tokenizer", processor))
    words = known_words(processor.tokenizer, ordinary)
    plain = _process(kind, model, processor, words, (1, 2, 3, 4))
    first = plain["input_ids"][0].tolist()
    places = tuple(place for place, token in enumerate(first) if token in set(ordinary))
    row_bound = {name for name, value in plain.items() if _per_position(value, plain["input_ids"])}

    def images(*seeds: int) -> Inputs:
        changed = _process(kind, model, processor, words, seeds)
        return {**plain, **{name: value for name, value in changed.items() if name not in row_bound}}

    other = images(1, 2, 7, 8)
    other["input_ids"] = _other_second_row(plain["input_ids"], ordinary, places)
    variants = {"other_row": other, "later_image": images(1, 9, 3, 4), "all_images": images(5, 9, 3, 4)}
    return _padded(kind, padding, plain, variants, ordinary, places, getattr(processor, "tokenizer", processor))


def probe_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """List ids that are plain text: no special and no added tokens, none that the config names; a thousand are enough."""
    rows = model.get_input_embeddings().weight.shape[0]
    configs = (model.config, model.config.get_text_config())
    values = [value for config in configs for key, value in vars(config).items() if "_token_i" in key]
    named = {token for value in values for token in (value if isinstance(value, (list, tuple)) else [value])}
    special = set(getattr(tokenizer, "all_special_ids", ())) | set(getattr(tokenizer, "added_tokens_decoder", ()))
    known = sorted(tokenizer.get_vocab().values()) if tokenizer is not None else range(rows)
    plain = [token for token in known if token < rows and token not in special and token not in named]
    if len(plain) < 2 * PADS + 1:
        raise TwowayError(f"the tokenizer has {len(plain)} ordinary tokens that the model knows; is it the model's own?")
    return tuple(plain[:: max(1, len(plain) // 1000)])


def _process(kind: Kind, model: Any, processor: Any, words: list[str], seeds: Sequence[int]) -> Inputs:
    """Run the processor over two rows of the same text with these images, videos or sounds; keep what the model's forward takes."""
    rows = [[noise_image(seed) for seed in seeds[:2]], [noise_image(seed) for seed in seeds[2:]]]
    text = _text(kind, processor, words)
    if kind == "image":
        with _as_they_are(processor.image_processor):
            batch = processor(text=[text, text], images=rows, return_tensors="pt", padding=True)
    elif kind == "audio":
        rate = int(processor.feature_extractor.sampling_rate)
        sounds = [np.concatenate([_noise(seed, rate) for seed in (first, second)]) for first, second in (seeds[:2], seeds[2:])]
        batch = processor(text=[text, text], audio=sounds, audio_kwargs={"sampling_rate": rate}, return_tensors="pt", padding=True)
    else:
        videos = [Video(tuple(map(ImagePart, (first, first, second, second)))).opened(None, DEFAULT).value for first, second in rows]
        with _as_they_are(processor.video_processor):
            batch = processor(
                text=[text, text],
                videos=[[Video.plain(one)] for one in videos],
                videos_kwargs=Video.settings(videos),
                return_tensors="pt",
                padding=True,
            )
    taken = inspect.signature(model.forward).parameters
    anything = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    wanted = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor) and name != "labels"}
    return {name: value for name, value in wanted.items() if anything or name in taken}


@contextmanager
def _as_they_are(image: Any) -> Iterator[None]:
    """Let small images stay small, where a processor has a least area: a few tokens prove what hundreds would, at far less."""
    before = image.size
    least = dict(before or {}).get("shortest_edge") or 0
    try:
        if least > SIDE**2:  # an edge is never that long
            image.size = {**dict(before), "shortest_edge": SIDE**2}
        yield
    finally:
        image.size = before


def _text(kind: Kind, processor: Any, words: list[str]) -> str:
    """Write text, image, text, image, text as the chat template has it; without a template, images first, as PaliGemma wants them.

    Of a video or a sound there is one, between two texts.
    """
    shown, token = {"type": kind}, str(getattr(processor, f"{kind}_token"))
    parts = [{"type": "text", "text": words[0]}, shown, {"type": "text", "text": words[1]}]
    parts += [shown, {"type": "text", "text": words[2]}] if kind == "image" else []
    if getattr(processor, "chat_template", None):
        rendered = str(processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False))
        if kind == "image" or token in rendered:
            return rendered
    return token * (2 if kind == "image" else 1) + " ".join(words)


def known_words(tokenizer: Any, ordinary: Sequence[int]) -> list[str]:
    """Choose three short texts that the tokenizer knows."""
    tokens = [tokenizer.decode([token]).strip() for token in ordinary]
    letters = [token for token in tokens if token.isascii() and token.isalnum()] or tokens
    return [" ".join(letters[start :: max(1, len(letters) // 4)][:4]) for start in range(3)]


def _noise(seed: int, samples: int) -> Any:
    """Make a second of noise."""
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def noise_image(seed: int) -> Image.Image:
    """Make a small image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _other_second_row(ids: torch.Tensor, ordinary: Sequence[int], places: Sequence[int]) -> torch.Tensor:
    """Replace the ordinary tokens of the second row."""
    ids = ids.clone()
    turned = {token: ordinary[(place + 1) % len(ordinary)] for place, token in enumerate(ordinary)}
    for place in places:
        ids[1, place] = turned.get(int(ids[1, place]), ordinary[0])
    return ids


def _per_position(value: torch.Tensor, ids: torch.Tensor) -> bool:
    return value.shape == ids.shape and not value.is_floating_point()


def _padded(
    kind: str, padding: str, base: Inputs, variants: dict[str, Inputs], ordinary: tuple[int, ...], places: tuple[int, ...], tokenizer: Any
) -> Feed:
    """Pad the first row of every variant on this side; the second row gets tokens there, so that the batch is as real ones are."""
    length = base["input_ids"].shape[1]
    shift = PADS if padding == "left" else 0
    pads = 0 if padding == "none" else PADS
    pad_id = next(
        (one for one in (getattr(tokenizer, "pad_token_id", None), getattr(tokenizer, "eos_token_id", None)) if one is not None), 0
    )

    def pad(inputs: Inputs, count: int, filler: Sequence[int]) -> Inputs:
        return {name: _extend(name, value, base["input_ids"], padding, count, filler, ordinary) for name, value in inputs.items()}

    extra: dict[str, Any] = {}
    if pads:
        extra["garbage"] = pad(base, pads, ordinary[1 : pads + 1])
        extra["more_padding"] = pad(base, 2 * pads, [pad_id] * 2 * pads)
        extra["more_real"] = tuple(place + 2 * shift for place in range(length))
    padded: dict[str, Any] = {name: pad(value, pads, [pad_id] * pads) for name, value in {"base": base, **variants}.items()}
    replaceable = tuple(place + shift for place in places)
    real = tuple(place + shift for place in range(length))
    return Feed(kind=kind, padding=padding, ordinary=ordinary, replaceable=replaceable, real=real, **padded, **extra)


def _extend(
    name: str, value: torch.Tensor, ids: torch.Tensor, side: str, count: int, filler: Sequence[int], ordinary: Sequence[int]
) -> torch.Tensor:
    """Lengthen one per-position tensor: padding in the first row, ordinary tokens in the second."""
    if not _per_position(value, ids) or count == 0:
        return value
    block = torch.zeros(2, count, dtype=value.dtype)
    if name == "input_ids":
        block[0] = torch.tensor(list(filler))
        block[1] = torch.tensor(list(ordinary[:count]))
    elif name == "attention_mask":
        block[1] = 1
    return torch.cat([block, value] if side == "left" else [value, block], dim=1)


# Watching a forward: the states that enter the first decoder layer, the states that leave the last norm, and each
# layer on its own.
#
# A layer is probed inside the real forward, with the very masks, positions and settings it runs with: right after it
# has run, it runs again on the same input with a nudge at a later position, and its output is compared at earlier
# ones. The test is local: what the other layers do cannot hide a layer that was left causal. A layer that is not
# moved enough is asked again with other contents: training can leave a layer whose attention is so sure of itself
# that noise at a later position gets no weight that a float32 can hold. What comes close to another state of the row
# gets some, where the row looks at that state; a causal layer is moved by none. Where layers share keys and values, a
# layer that takes another's is given these with the nudge, too.

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


class _EnteredError(Exception):
    """Ends a run at the first layer."""


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

    def entry(self, inputs: Inputs) -> torch.Tensor:
        """Return what enters the first layer; no layer runs."""
        seen: list[torch.Tensor] = []

        def enter(_layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(_hidden(args, kwargs).detach())
            raise _EnteredError

        with torch.no_grad(), _hooked(self.layers[0].register_forward_pre_hook(enter, with_kwargs=True)), suppress(_EnteredError):
            self.model(**self._placed(inputs), **self._settings)
        return seen[0]

    def probe_layers(self, inputs: Inputs, probes: Sequence[Probe], window: int | None, threshold: float) -> tuple[LayerProof, ...]:
        """Probe every decoder layer at once, in one forward."""
        found: list[LayerProof] = []

        def again(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            hidden, before = _hidden(args, kwargs), _first(output)
            movements: list[Movement] = []

            def run(at: int, content: int) -> torch.Tensor:
                new_args, new_kwargs = _with_hidden(hidden_with(hidden, at, content), args, kwargs)
                return _first(layer.forward(*new_args, **{name: _shared_with(one, at, content) for name, one in new_kwargs.items()}))

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
    """Perturb with one content after the other until enough has moved; only with the first if nothing has moved in any layer so far."""
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


def _shared_with(given: Any, at: int, content: int) -> Any:
    """Put another content at a position of the keys and values that layers share, in a copy: a layer that takes them looks at no others.

    Anything else that a layer is given stays as it is.
    """
    if not isinstance(given, MutableMapping):
        return given
    changed = copy.copy(given)
    for name, states in given.items():
        # Rows, heads, positions, width: the heads of a position become one state.
        nudged_states = (hidden_with(one.transpose(1, 2).flatten(2), at, content) for one in states)
        changed[name] = tuple(
            new.view(*new.shape[:2], one.shape[1], -1).transpose(1, 2) for new, one in zip(nudged_states, states, strict=True)
        )
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
