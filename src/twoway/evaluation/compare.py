"""Two models on the same items: the difference with its interval, by a paired bootstrap.

Items are resampled for both models together (`metrics.drawn_means`). In the mean over tasks each task has the same weight, as in a suite.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.config import gather, takes
from twoway.errors import UsageError

from .config import DRAWS, CompareConfig
from .metrics import Outcome, drawn_means, values
from .runner import read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from .metrics import Abouts
    from .runner import Kept

    Floats = NDArray[np.float64]

log = logging.getLogger(__name__)

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


@takes(CompareConfig)
def compare(first: str | Path, second: str | Path, *, config: CompareConfig | None = None, **options: Any) -> list[Difference]:
    """Compare two results files task by task and in the mean over their common tasks; `options` are the settings of `CompareConfig`."""
    config = gather(CompareConfig, config, options, compare)
    (one, one_items), (two, two_items) = read(first), read(second)
    common = [name for name in one["tasks"] if name in two["tasks"]]
    if not common:
        raise UsageError(f"{first} and {second} have no task in common")
    pairs: dict[str, tuple[Floats, Floats]] = {}
    abouts: dict[str, list[tuple[str, ...]]] = {}
    for name in common:
        metrics = one["tasks"][name]["metric"], two["tasks"][name]["metric"]
        if metrics[0] != metrics[1]:
            raise UsageError(f"{name} is scored by {metrics[0]} in {first} and by {metrics[1]} in {second}")
        mine, other = one_items.get(name, {}), two_items.get(name, {})
        if not mine and not other:
            log.warning("%s: no single items are kept of it, so it cannot be compared and is left out", name)
            continue
        items = [item for item in mine if item in other]
        if not items:
            raise UsageError(f"{name}: {first} and {second} have no item in common; were they made from the same data?")
        differs = next((item for item in items if mine[item][1] != other[item][1]), None)
        if differs is not None:
            raise UsageError(f"{name}: an item has {mine[differs][1]} candidates in {first} and {other[differs][1]} in {second}")
        pairs[name] = kept_scores(metrics[0], mine, items), kept_scores(metrics[0], other, items)
        abouts[name] = [mine[item].about for item in items]
    if not pairs:
        raise UsageError(f"{first} and {second} keep no single items of the tasks they share ({', '.join(common)}); nothing can be drawn")
    return differences(pairs, abouts, seed=config.seed, draws=config.draws)


def kept_scores(metric: str, found: Mapping[str, Kept], items: Sequence[str]) -> Floats:
    """Return the score of each item out of what was kept of it."""
    scored = [found[item].score for item in items]
    if all(score is not None for score in scored):
        return np.array(scored, dtype=np.float64)
    return values(metric, [Outcome(found[item].places, found[item].size, tied=False, found=()) for item in items])


def differences(
    pairs: Mapping[str, tuple[Floats, Floats]], abouts: Abouts | None = None, *, seed: int = 0, draws: int = DRAWS
) -> list[Difference]:
    """Return a line a task, and the mean where there are several."""
    drawn = drawn_means({name: (second - first)[:, None] for name, (first, second) in pairs.items()}, abouts, seed=seed, draws=draws)
    lines = []
    for name, (first, second) in pairs.items():
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        lines.append(Difference(name, len(first), float(first.mean()), float(second.mean()), float(low), float(high)))
    if len(lines) > 1:
        low, high = np.quantile(np.mean(list(drawn.values()), axis=0), [0.025, 0.975])
        means = [float(np.mean([getattr(line, side) for line in lines])) for side in ("first", "second")]
        lines.append(Difference(MEAN, sum(line.n for line in lines), means[0], means[1], float(low), float(high)))
    return lines
