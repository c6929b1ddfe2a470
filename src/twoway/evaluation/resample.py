"""The paired bootstrap: items are drawn again, and what hangs together is drawn together.

The same picture may be asked about in several tasks, and two tasks may be the two directions of one pairing. Such items are no new evidence
each: a picture that a model knows helps it in all of them. So what is drawn is a cluster: items that share a picture (of the query or of a
right answer) over all tasks; an item without a picture stands for itself. Every model and every seed gets the same draw: that is what
makes differences paired. Tasks are not drawn: a suite's mean is over its tasks.

A cluster's weight in a draw comes from an exponential distribution (Rubin's Bayesian bootstrap, 1981). That is drawing with replacement but
for one thing: no small task ever loses all of its items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .scores import DRAWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Abouts = Mapping[str, Sequence[Sequence[str]]]  # task -> item -> marks of what it is about

_AT_ONCE = 200  # draws whose weights are in memory together


def clusters(abouts: Abouts) -> dict[str, Ints]:
    """Return the number of every item's cluster: items with a mark in common are one, and so on through others."""
    leader: dict[str, str] = {}

    def first(mark: str) -> str:
        while leader.setdefault(mark, mark) != mark:
            leader[mark] = leader[leader[mark]]
            mark = leader[mark]
        return mark

    marked = {task: [list(marks) or [f"{task}\n{number}"] for number, marks in enumerate(items)] for task, items in abouts.items()}
    for items in marked.values():
        for head, *rest in items:
            for mark in rest:
                leader[first(mark)] = first(head)
    numbers: dict[str, int] = {}
    return {
        task: np.array([numbers.setdefault(first(marks[0]), len(numbers)) for marks in items], dtype=np.int64)
        for task, items in marked.items()
    }


def interval(scores: Floats, about: Sequence[Sequence[str]] | None = None, *, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """Return the 95% interval of the mean over items; without `about` every item stands for itself."""
    drawn = drawn_means({"": scores[:, None]}, None if about is None else {"": about}, seed=seed, draws=draws)
    low, high = np.quantile(drawn[""], [0.025, 0.975])
    return float(low), float(high)


def drawn_means(scores: Mapping[str, Floats], abouts: Abouts | None = None, *, seed: int = 0, draws: int = DRAWS) -> dict[str, Floats]:
    """Return the mean of each column of each task (items x columns) at every draw: task -> draws x columns.

    Without `abouts` every item stands for itself.
    """
    of = clusters(abouts or {task: [()] * len(table) for task, table in scores.items()})
    total = 1 + max((int(numbers.max()) for numbers in of.values()), default=-1)
    random = np.random.default_rng(seed)
    found: dict[str, list[Floats]] = {task: [] for task in scores}
    for start in range(0, draws, _AT_ONCE):
        weights = random.standard_exponential((min(_AT_ONCE, draws - start), total), dtype=np.float32)
        for task, table in scores.items():
            own = weights[:, of[task]]
            found[task].append(np.asarray(own @ table, np.float64) / own.sum(axis=1, keepdims=True, dtype=np.float64))
    return {task: np.concatenate(parts) for task, parts in found.items()}
