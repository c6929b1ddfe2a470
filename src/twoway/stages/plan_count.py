"""The products of a training pass, counted part by part from a model's parts and the rows that go through it.

A line costs 2 operations for each number of its weight and each place, forward; as much again for the gradient of what went in, where that
leads to something that trains, and as much for the gradient of its weight, where that trains. Attention is two products of (heads x places
x places), forward, and twice that backward. With activations computed again a layer goes forward once more, but for its last product, which
nothing asks for. Adapters are counted as peft computes them: DoRA makes its weight norm from a whole product each pass and, with dropout,
runs the base's product a second time. What is computed twice is kept apart (`again`), so that either share of the peak can be told.

Rows may be means: what is linear is exact for them, and squares (attention) are those of the mean, which is a little less.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .plan_model import Anatomy, Blocks, Line
    from .stage_config import AdapterConfig

CHUNK = 1024  # positions that have logits at a time; more are computed again (objectives.mlm)


@dataclass(frozen=True)
class Load:
    """Rows of one shape: words, pictures of `across` x `down` image tokens, and what has a target."""

    rows: float
    text: float
    pictures: float = 0.0
    down: float = 0.0
    across: float = 0.0
    words: float = 0.0  # places of a row with logits
    patches: float = 0.0  # image tokens of a row that are restored
    padded: float | None = None  # length that is computed; default: all of the row and no more

    @classmethod
    def square(cls, rows: float, text: float, pictures: float, tokens: float, **targets: float) -> Load:
        """Make rows whose pictures are squares of so many tokens."""
        return cls(rows, text, pictures, sqrt(tokens), sqrt(tokens), **targets)

    @property
    def image(self) -> float:
        """Image tokens of a row."""
        return self.pictures * self.down * self.across

    @property
    def length(self) -> float:
        """Places of a row that are computed."""
        return self.text + self.image if self.padded is None else self.padded


@dataclass(frozen=True)
class Training:
    """What of a model trains, and how."""

    freeze_tower: bool = False
    train_layers: int = 0
    lora: AdapterConfig | None = None
    checkpointing: bool = False
    decoder_depth: int = 0  # 0: nothing restores patches
    logits: bool = True
    half: bool = True  # arithmetic in bfloat16, which changes no product, and what is kept for the way back
    skipped: float = 0.0  # share of patches that the tower does not see
    calls: float = 1.0  # batches, which DoRA's norm is computed for
    second: float = 0.0  # share of the rows that go forward once before (gradient caching)


@dataclass
class Products:
    """Operations by part: `needed` for the gradient, and `again` what is computed more than once."""

    needed: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    again: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def total(self) -> float:
        """All that is done."""
        return float(sum(self.needed.values()) + sum(self.again.values()))


@dataclass(frozen=True)
class _Flow:
    """How a gradient goes through a stack of lines."""

    enters: bool  # what comes in leads to something that trains
    passes: bool  # and so does what is inside
    trains: bool  # the weights themselves
    adapted: bool  # adapters on them
    again: bool  # forward once more on the way back


def count(model: Anatomy, training: Training, loads: Iterable[Load]) -> Products:
    """Count the products of all rows, forward and backward."""
    done = Products()
    for load in loads:
        _tower(done, model, training, load)
        _language(done, model, training, load)
        _targets(done, model, training, load)
    if training.lora is not None and training.lora.dora:
        _norms(done, model, training)
    return done


def _tower(done: Products, model: Anatomy, training: Training, load: Load) -> None:
    adapted, own = _adapts(training, "tower"), _adapts(training, "projector")
    trains = training.lora is None and not training.freeze_tower
    reached = trains or adapted
    seen = 1 - training.skipped
    patches, tokens = load.rows * load.image * model.merged * seen, load.rows * load.image
    pixels = 2.0 * model.patch * patches
    _put(done, "tower", pixels, pixels * trains, training)
    flow = _Flow(trains, reached, trains, adapted, training.checkpointing and reached)
    _stack(done, "tower", model.tower, patches, flow, training)
    whole = (load.down * load.across * model.merged) ** 2
    near = _squares(load.down, model.window) * _squares(load.across, model.window) * model.merged**2 if model.window else 0.0
    squares = load.rows * load.pictures * seen**2 * (model.whole * whole + (model.tower.count - model.whole) * near)
    _attend(done, "tower", 4.0 * model.tower.heads * squares, flow, training)
    merges = _Flow(reached, reached or own or training.lora is None, training.lora is None, own, again=False)
    for number, line in enumerate(model.projector):
        # A merger's second line reads what its first one made, and that one what a norm made, which trains unless adapters do.
        inside = merges.passes if number % 2 or training.lora is None else reached
        _line(done, "projector", line, tokens, inside, merges, training)


def _language(done: Products, model: Anatomy, training: Training, load: Load) -> None:
    """Count the layers; those that do not train still pass on the gradient of pictures, and of nothing else."""
    blocks, free = model.language, training.lora is None
    from_pictures = load.pictures > 0 and (free or _adapts(training, "tower") or _adapts(training, "projector"))
    frozen = (blocks.count - training.train_layers) / blocks.count if training.train_layers else 0.0
    adapted = _adapts(training, "language")
    lower = _Flow(from_pictures, from_pictures, False, False, training.checkpointing and from_pictures)
    enters = from_pictures or (free and not frozen)
    upper = _Flow(enters, free or adapted or enters, free, adapted, training.checkpointing and (free or adapted or enters))
    for share, flow in ((frozen, lower), (1 - frozen, upper)):
        _stack(done, "language model", blocks, load.rows * load.length, flow, training, share)
        _attend(done, "language model", 4.0 * blocks.heads * blocks.count * share * load.rows * load.length**2, flow, training)


def _targets(done: Products, model: Anatomy, training: Training, load: Load) -> None:
    """Count the head at words with a target, and the decoder over rows that have a masked patch."""
    blocks = model.language
    if training.logits:
        head, chunked = 2.0 * model.head * load.rows * load.words, load.rows * load.words / max(training.calls, 1) > CHUNK
        done.needed["head"] += head * (3 if training.lora is None else 2)
        done.again["head"] += head * chunked
    if training.decoder_depth and load.patches:
        flow = _Flow(True, True, True, adapted=False, again=training.checkpointing)
        _stack(done, "decoder", blocks, load.rows * load.length, flow, training, training.decoder_depth / blocks.count)
        _attend(done, "decoder", 4.0 * blocks.heads * load.rows * load.length**2 * training.decoder_depth, flow, training)
        done.needed["decoder"] += 6.0 * blocks.width * model.values * load.rows * load.patches


def _stack(done: Products, part: str, blocks: Blocks, places: float, flow: _Flow, training: Training, share: float = 1.0) -> None:
    """Count the lines of a share of the layers. Under adapters, where nothing enters, the lowest asks for no gradient."""
    if not share:
        return
    for line in blocks.lines:
        last = line.name.rpartition(".")[2] in blocks.last
        _line(done, part, line, places * share, flow.passes, flow, training, last=last)
        if line.name in blocks.first and flow.adapted and not flow.enters:
            lora = _adapter(training, flow, line)
            done.needed[part] -= 2.0 * places * (line.size * _twice(lora) + (line.into * lora.rank if lora else 0))


def _line(
    done: Products, part: str, line: Line, places: float, inside: bool, flow: _Flow, training: Training, *, last: bool = False
) -> None:
    """Count one line at so many places; `inside` says whether what it reads leads to something that trains."""
    lora = _adapter(training, flow, line)
    forward = 2.0 * line.size * places * _twice(lora)
    _put(done, part, forward, forward * (inside + flow.trains), training)
    if flow.again and not (last and lora is None):
        done.again[part] += forward
    if lora is not None:
        down, up = 2.0 * line.into * lora.rank * places, 2.0 * line.out * lora.rank * places
        _put(done, part, down + up, down * (inside + 1) + up * 2, training)
        done.again[part] += (down + up) * flow.again


def _attend(done: Products, part: str, forward: float, flow: _Flow, training: Training) -> None:
    _put(done, part, forward, 2 * forward * flow.passes, training)
    done.again[part] += forward * flow.again


def _put(done: Products, part: str, forward: float, backward: float, training: Training) -> None:
    """Add a product and what it costs on the way back; gradient caching runs it forward once before."""
    done.needed[part] += forward + backward
    done.again[part] += forward * training.second


def _norms(done: Products, model: Anatomy, training: Training) -> None:
    """Count what DoRA's norms cost: B A of each adapted line, made by passing the unit matrix through, once a pass."""
    lora = training.lora
    assert lora is not None
    found = {"language": ("language model", model.language.lines), "tower": ("tower", model.tower.lines)}
    for name in lora.parts:
        part, lines = found.get(name, ("projector", model.projector))
        once = training.calls * sum(2.0 * line.into * lora.rank * (line.into + line.out) for line in lines if lora.covers(line.name))
        done.needed[part] += once
        done.again[part] += once * (training.second + (training.checkpointing and name in found))


def _adapter(training: Training, flow: _Flow, line: Line) -> AdapterConfig | None:
    """Return the adapter of a line, where it has one."""
    return training.lora if flow.adapted and training.lora is not None and training.lora.covers(line.name) else None


def _twice(lora: AdapterConfig | None) -> float:
    """Say how often an adapted line runs the base's product."""
    return 2.0 if lora is not None and lora.dora and lora.dropout else 1.0


def _adapts(training: Training, part: str) -> bool:
    return training.lora is not None and part in training.lora.parts


def _squares(side: float, window: int) -> float:
    """Return the squares of the pieces that windows cut a side into, added up."""
    whole = side // window
    return float(whole * window**2 + (side - whole * window) ** 2)
