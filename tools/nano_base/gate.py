"""The gate: how much better a caption is foretold from its own picture than from another's.

Both losses are means over the caption's tokens and its end, in nats a token, with fresh augmentations; the shuffled picture is that of
another concept. A model that does not look has a gap of zero.

The gate's captions are names, templates and keywords. A definition's words follow from the name before them, whatever the picture, so long
captions thin the gap out without saying anything of looking; they are measured beside it, and bare names too.
"""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import torch

from .fast import token_losses

if TYPE_CHECKING:
    from .batches import Batch, Rows
    from .library import Forward

AT_ONCE = 64
Kind = dict[str, Any]
KINDS: dict[str, Kind] = {"": {"short": True}, "_bare": {"bare": 1.0}, "_long": {}}


def measure(forward: Forward, rows: Rows, *, samples: int, label: str) -> dict[str, float]:
    """Return losses and gaps on captions, bare names and all captions, in training styles and in the unseen ones."""
    found: dict[str, float] = {}
    world = rows.world
    for where, pictures in (("trained", world.trained), ("unseen", world.unseen)):
        rng = random.Random(f"{rows.config.seed}/gate/{where}")
        known = [place for place, shown in enumerate(pictures) if shown]
        if len(known) < 2:
            continue
        concepts = rng.sample(known, min(samples, len(known)))
        chosen = [rng.choice(pictures[place]) for place in concepts]
        for what, kind in KINDS.items():
            right, shuffled = _losses(forward, rows, concepts, chosen, f"{label}/{where}{what}", kind)
            found |= {f"{where}{what}_right": right, f"{where}{what}_shuffled": shuffled, f"{where}{what}_gap": shuffled - right}
    return {name: round(value, 4) for name, value in found.items()}


def by_style(forward: Forward, rows: Rows, *, samples: int) -> dict[str, float]:
    """Return the gap on captions for every style by itself."""
    world = rows.world
    found: dict[str, float] = {}
    for style in sorted(set(world.styles)):
        pairs = [
            (place, picture)
            for place, both in enumerate(zip(world.trained, world.unseen, strict=True))
            for shown in both
            for picture in shown
            if world.styles[picture] == style
        ]
        pairs = list(dict(pairs).items())
        if len(pairs) < 2:
            continue
        chosen = random.Random(f"{rows.config.seed}/gate/{style}").sample(pairs, min(samples, len(pairs)))
        right, shuffled = _losses(
            forward, rows, [place for place, _ in chosen], [picture for _, picture in chosen], f"style/{style}", KINDS[""]
        )
        found[style] = round(shuffled - right, 4)
    return found


@torch.inference_mode()
def _losses(
    forward: Forward, rows: Rows, concepts: list[int], pictures: list[int], label: str, kind: dict[str, Any]
) -> tuple[float, float]:
    """Return the loss a token with the right pictures and with each row's neighbour's."""
    sums = [0.0, 0.0]
    count = 0
    size = min(AT_ONCE, len(concepts))
    for first in range(0, len(concepts), size):
        part = slice(max(0, min(first, len(concepts) - size)), min(first + size, len(concepts)))
        batch = rows.captions(concepts[part], pictures[part], f"{label}/{first}", **kind)
        for number, shown in enumerate((batch.pixels, batch.pixels.roll(1, 0))):
            sums[number] += _sum(forward, dataclasses.replace(batch, pixels=shown))
        count += len(batch.targets)
    return sums[0] / count, sums[1] / count


def _sum(forward: Forward, batch: Batch) -> float:
    """Return the sum of the token losses of one batch."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=forward.dtype == "bfloat16"):
        losses: Any = token_losses(forward.model, forward.hidden(batch), batch)
    return float(losses.sum())
