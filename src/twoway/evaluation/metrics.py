"""Scores of ranked items, the score of chance, and the interval of a score by a clustered bootstrap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from twoway.errors import UsageError

from .config import DRAWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .tasks import RankingTask

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    Abouts = Mapping[str, Sequence[Sequence[str]]]  # task -> item -> marks of what it is about


# Scores of ranked items, the score of chance, and intervals.
#
# A wrong candidate with the same score as a right one ranks before it: a tie is never a hit. Ties are counted and
# reported, because many ties mean that a model gives the same vector to many inputs. Benchmarks whose own code takes the
# first of the highest scores count a tie as a hit where the right candidate comes first in its list; that official
# score is reported beside ours. Whether a score is above chance is decided by the interval in which 95% of random
# rankings of the same items score.

RANKINGS = 10_000  # drawn for items with several right candidates
_COUNTS = 1 << 21  # of possible scores that are in memory together
METRICS = ("precision@1", "recall@1", "recall@5", "recall@10", "mrr", "ndcg@5", "ndcg@10")


@dataclass(frozen=True)
class Outcome:
    """One item: the places (from 1) of its right candidates, how many candidates it has, and which of them came first."""

    places: tuple[int, ...]
    size: int
    tied: bool
    found: tuple[int, ...]  # numbers of the candidates that came first
    leads: bool = False  # whether the first of the highest scores, in the order of the candidates, is a right one's
    gains: tuple[float, ...] = ()  # of the right candidates, as `places` has them; none where all weigh the same


def outcome(scores: NDArray[np.float32], right: Sequence[int], *, gains: Sequence[float] = (), shown: int = 5) -> Outcome:
    """Rank the candidates of one item by their scores; `right` are places in `scores`, and `gains` how right each is."""
    is_right = np.zeros(len(scores), dtype=bool)
    is_right[list(right)] = True
    wrong = scores[~is_right]
    by_score = sorted(right, key=lambda place: -scores[place])
    best, weights = scores[by_score], dict(zip(right, gains, strict=True)) if gains else {}
    places = [1 + number + int((wrong >= score).sum()) for number, score in enumerate(best)]
    # Right ones last among equals: what is shown as found is what the score counts.
    order = np.lexsort((is_right, -scores))
    shown_first = tuple(int(place) for place in order[:shown])
    tied, leads = bool((wrong == best[0]).any()), bool(is_right[int(scores.argmax())])
    return Outcome(tuple(places), len(scores), tied, shown_first, leads, tuple(weights[place] for place in by_score) if weights else ())


def value(metric: str, found: Outcome) -> float:
    """Return the score of one item, from 0 to 1."""
    name, _, cut = metric.partition("@")
    if metric not in METRICS:
        raise UsageError(f"unknown metric {metric!r} (there are: {', '.join(METRICS)})")
    if name == "mrr":
        return 1.0 / found.places[0]
    within = [place for place in found.places if place <= int(cut)]
    if name == "precision":
        return float(found.places[0] == 1)
    if name == "recall":
        return len(within) / len(found.places)
    gains = found.gains or (1.0,) * len(found.places)
    ideal = _gain(range(1, min(len(found.places), int(cut)) + 1), sorted(gains, reverse=True))
    return _gain(within, gains) / ideal


def _gain(places: Sequence[int], gains: Sequence[float]) -> float:
    """Return the discounted gain of places, which are the first of those that `gains` are of."""
    return sum(gain / math.log2(1 + place) for place, gain in zip(places, gains, strict=False))


def values(metric: str, found: Sequence[Outcome]) -> Floats:
    """Return the score of every item."""
    return np.array([value(metric, one) for one in found])


@dataclass(frozen=True)
class Chance:
    """The score of random rankings of the same items: the mean, and the range of 95% of them."""

    mean: float
    low: float
    high: float


def chance(
    metric: str, sizes: Sequence[int], rights: Sequence[int], gains: Sequence[Sequence[float]] = (), *, draws: int = DRAWS
) -> Chance:
    """Rank at random. Items of one size and one number of right ones share a table of drawn scores; `gains`: how right each of these is.

    Of so many candidates that each draw counts millions of scores, a few draws are made at a time; they are the same draws.
    """
    random = np.random.default_rng(0)
    sums = np.zeros(draws)
    kinds: dict[tuple[int, int, tuple[float, ...]], int] = {}
    for size, right, own in zip(sizes, rights, gains or [()] * len(sizes), strict=True):
        graded = tuple(sorted(own)) if metric.startswith("ndcg") and len(set(own)) > 1 else ()
        kinds[int(size), int(right), graded] = kinds.get((int(size), int(right), graded), 0) + 1
    mean = 0.0
    for (size, right, graded), count in kinds.items():
        possible, odds = _distribution(metric, size, right, graded, random)
        mean += count * float(possible @ odds)
        at_once = max(1, _COUNTS // len(possible))
        for start in range(0, draws, at_once):
            some = sums[start : start + at_once]
            some += random.multinomial(count, odds, size=len(some)) @ possible
    total = max(len(sizes), 1)
    low, high = np.quantile(sums / total, [0.025, 0.975])
    return Chance(mean / total, float(low), float(high))


def _distribution(metric: str, size: int, right: int, gains: Sequence[float], random: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the scores that a random ranking can have and how likely each is: exact for one right candidate, drawn for several."""
    if right == 1:
        places = [Outcome((place,), size, tied=False, found=()) for place in range(1, size + 1)]
        scores = values(metric, places)
        possible, back = np.unique(scores, return_inverse=True)
        return possible, np.bincount(back) / size
    drawn = [random.choice(size, right, replace=False) + 1 for _ in range(RANKINGS)]
    outcomes = []
    for at in drawn:
        order = np.argsort(at)
        graded = tuple(gains[number] for number in order) if gains else ()
        outcomes.append(Outcome(tuple(at[order].tolist()), size, tied=False, found=(), gains=graded))
    scores = values(metric, outcomes)
    possible, counts = np.unique(scores, return_counts=True)
    return possible, counts / RANKINGS


def chance_of(task: RankingTask, metric: str | None = None) -> Chance:
    """Return what chance scores on a task."""
    return chance(metric or task.metric, task.sizes().tolist(), task.rights().tolist(), [item.gains for item in task.items])


# The paired bootstrap: items are resampled, and dependent items are drawn together.
#
# The same picture may occur in several tasks, and two tasks may be the two directions of one pairing. Such items are
# not independent evidence: a picture that a model knows helps it in all of them. So clusters are drawn: items that
# share a picture (of the query or of a right answer) over all tasks; an item without a picture is a cluster of its
# own. Every model and every seed gets the same draw, which makes differences paired. Tasks are not resampled: a
# suite's mean is over its tasks.
#
# A cluster's weight in a draw comes from an exponential distribution (Rubin's Bayesian bootstrap, 1981). That is
# drawing with replacement but for one thing: no small task ever loses all of its items.

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
    """Return the 95% interval of the mean over items; without `about` every item is a cluster of its own."""
    drawn = drawn_means({"": scores[:, None]}, None if about is None else {"": about}, seed=seed, draws=draws)
    low, high = np.quantile(drawn[""], [0.025, 0.975])
    return float(low), float(high)


def drawn_means(scores: Mapping[str, Floats], abouts: Abouts | None = None, *, seed: int = 0, draws: int = DRAWS) -> dict[str, Floats]:
    """Return the mean of each column of each task (items x columns) at every draw: task -> draws x columns.

    Without `abouts` every item is a cluster of its own.
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
