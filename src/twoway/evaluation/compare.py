"""Two models on the same items: the difference with its interval, by a paired bootstrap.

Items are drawn again for both models together, task by task; the mean over tasks is taken as a suite takes it, each task counting the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .results import read
from .scores import DRAWS, Outcome, values

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MEAN = "mean over tasks"


@dataclass(frozen=True)
class Difference:
    """One line of a comparison: scores of both on their common items, and second minus first with its 95% interval."""

    what: str
    n: int
    first: float
    second: float
    low: float
    high: float

    @property
    def sure(self) -> bool:
        """Say whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


def compare(first: str | Path, second: str | Path, *, seed: int = 0, draws: int = DRAWS) -> list[Difference]:
    """Compare two results files task by task and in the mean over their common tasks."""
    (one, one_items), (two, two_items) = read(first), read(second)
    common = [name for name in one["tasks"] if name in two["tasks"]]
    if not common:
        raise UsageError(f"{first} and {second} have no task in common")
    pairs: dict[str, tuple[Floats, Floats]] = {}
    for name in common:
        metrics = one["tasks"][name]["metric"], two["tasks"][name]["metric"]
        if metrics[0] != metrics[1]:
            raise UsageError(f"{name} is scored by {metrics[0]} in {first} and by {metrics[1]} in {second}")
        mine, other = one_items.get(name, {}), two_items.get(name, {})
        items = [item for item in mine if item in other]
        if not items:
            raise UsageError(f"{name}: {first} and {second} have no item in common; were they made from the same data?")
        differs = next((item for item in items if mine[item][1] != other[item][1]), None)
        if differs is not None:
            raise UsageError(f"{name}: an item has {mine[differs][1]} candidates in {first} and {other[differs][1]} in {second}")
        pairs[name] = _scores(metrics[0], mine, items), _scores(metrics[0], other, items)
    return differences(pairs, seed=seed, draws=draws)


def _scores(metric: str, found: dict[str, Any], items: Sequence[str]) -> Floats:
    return values(metric, [Outcome(found[item][0], found[item][1], tied=False, found=()) for item in items])


def differences(pairs: dict[str, tuple[Floats, Floats]], *, seed: int = 0, draws: int = DRAWS) -> list[Difference]:
    """Return a line a task, and the mean where there are several."""
    random = np.random.default_rng(seed)
    lines, drawn = [], []
    for name, (first, second) in pairs.items():
        gaps = second - first
        # Equal gaps are one kind: counts of kinds are drawn, not places.
        kinds, back = np.unique(gaps, return_inverse=True)
        again = random.multinomial(len(gaps), np.bincount(back) / len(gaps), size=draws) @ kinds / len(gaps)
        drawn.append(again)
        low, high = np.quantile(again, [0.025, 0.975])
        lines.append(Difference(name, len(gaps), float(first.mean()), float(second.mean()), float(low), float(high)))
    if len(lines) > 1:
        low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
        means = [float(np.mean([getattr(line, side) for line in lines])) for side in ("first", "second")]
        lines.append(Difference(MEAN, sum(line.n for line in lines), means[0], means[1], float(low), float(high)))
    return lines
