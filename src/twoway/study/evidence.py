"""How sure a difference between arms is: over items, over seeds, and over the luck of the stages before.

A comparison is a sum of arms' scores with weights, such as +1 for one and -1 for another. Each arm's score is the mean over its runs: seeds
are pooled, and every table shows them too. Three kinds of luck make its interval:

1. items, by the paired bootstrap of `evaluation.resample`: the same draw for all arms and runs, items that share a picture together;
2. seeds of the contrastive stage. Three are too few to draw from with replacement: that would miss a third of their spread, and that its
   size is uncertain. So the spread between the seeds of an arm is estimated over all arms of the study together, for the tasks in question,
   and each draw adds a value of Student's t with as many degrees of freedom as that estimate has. It takes arms to vary alike; the tables
   show how they do;
3. the stages before. Arms that start from the same stage share its luck, and it falls out of their difference. Where stages were done with
   several seeds, what their spread has beyond that of 2 is estimated alike and added for every stage that does not fall out. Many arms
   from two models are still two models, so the degrees of freedom are counted by model. Where no stage was done with several seeds, this
   luck is not in the interval, and the report says so; nor is that of rows that were mined once.

The items' share of the spread between seeds is counted in 1 and in 2, so that intervals are a little too wide rather than too narrow.
Tasks are fixed: nothing is said of tasks that were not asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..evaluation.resample import drawn_means
from ..evaluation.scores import DRAWS
from .outcomes import BASE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .outcomes import Floats, Reading

_NOTHING = 1e-9
_BOTH_SIDES = (0.025, 0.975)


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval, and the one that items alone would give."""

    value: float
    low: float
    high: float
    of_items: tuple[float, float]

    @property
    def half(self) -> float:
        """Return half of its width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Spread:
    """How much runs vary by luck: a variance and its degrees of freedom; 0 of them: not known."""

    variance: float
    freedom: int


class Evidence:
    """The runs of a study at every draw of items."""

    def __init__(self, reading: Reading, *, draws: int = DRAWS, seed: int = 0) -> None:
        self.reading = reading
        self.columns = [(arm, run) for arm in reading.arms.values() for run in arm.runs]
        tables: dict[str, Floats] = {}
        if self.columns:
            tables = {task: np.stack([run.scores[task] for _, run in self.columns], axis=1) for task in reading.tasks}
        self._means = {task: table.mean(axis=0) for task, table in tables.items()}
        self._drawn = drawn_means(tables, reading.abouts, seed=seed, draws=draws) if tables else {}
        random = np.random.default_rng([seed, 1])
        self._seed_luck, self._stage_luck = random.integers(2**32, size=2)
        self._draws = draws

    def runs(self, scope: Sequence[str]) -> Floats:
        """Return the score of each column: the mean over the tasks of a scope."""
        found: Floats = np.mean([self._means[task] for task in scope], axis=0)
        return found

    def by_seed(self, arm: str, scope: Sequence[str]) -> dict[str, float]:
        """Return an arm's score by run, named by its seeds."""
        scores = self.runs(scope)
        return {one.called(run): float(score) for (one, run), score in zip(self.columns, scores, strict=True) if one.name == arm}

    def by_number(self, arm: str, scope: Sequence[str]) -> dict[int, float]:
        """Return an arm's score by the seed of its contrastive stage, the mean over the seeds of the stages before."""
        scores: dict[int, list[float]] = {}
        for (one, run), score in zip(self.columns, self.runs(scope), strict=True):
            if one.name == arm:
                scores.setdefault(run.seed, []).append(float(score))
        return {seed: float(np.mean(found)) for seed, found in scores.items()}

    def interval(self, weights: Mapping[str, float], scope: Sequence[str]) -> Interval:
        """Return a comparison of arms that all have runs."""
        counts = {arm: len(self.reading.arms[arm].runs) for arm in weights}
        own = np.array([weights.get(arm.name, 0.0) / counts.get(arm.name, 1) for arm, _ in self.columns])
        items = np.mean([self._drawn[task] @ own for task in scope], axis=0)
        seeds, stages = self.spreads(scope)
        every = items + self._luck(seeds, float(own @ own), self._seed_luck) + self._luck(stages, self._unshared(own), self._stage_luck)
        low, high = np.quantile(every, _BOTH_SIDES)
        alone = np.quantile(items, _BOTH_SIDES)
        return Interval(float(self.runs(scope) @ own), float(low), float(high), (float(alone[0]), float(alone[1])))

    def once(self, weights: Mapping[str, float], scope: Sequence[str]) -> list[str]:
        """Return the stages whose luck a comparison has in it and its interval has not: no stage has several seeds, or rows were mined."""
        known = bool(self.spreads(scope)[1].freedom)
        sums: dict[str, float] = {}
        for arm, weight in weights.items():
            for source in [*([] if known else [self.reading.arms[arm].source]), *self.reading.mined(arm)]:
                sums[source] = sums.get(source, 0.0) + weight
        return [source for source, weight in sums.items() if source != BASE and abs(weight) > _NOTHING]

    def above_chance(self, arm: str, scope: Sequence[str]) -> bool:
        """Say whether an arm's mean over its runs is above chance on any of the tasks."""
        means = {task: np.mean(list(self.by_seed(arm, (task,)).values())) for task in scope}
        return any(means[task] > self.reading.tasks[task].luck for task in scope)

    def any_above_chance(self, arms: Iterable[str], scope: Sequence[str]) -> bool:
        """Say whether one of these arms is above chance on one of the tasks; else their difference says nothing."""
        return any(self.above_chance(arm, scope) for arm in arms)

    def spreads(self, scope: Sequence[str]) -> tuple[Spread, Spread]:
        """Return how much scores vary between seeds of the contrastive stage, and beyond that between those of the stages before."""
        scores = self.runs(scope)
        groups: dict[str, dict[str, list[float]]] = {}
        sources = {}
        for (arm, run), score in zip(self.columns, scores, strict=True):
            groups.setdefault(arm.name, {}).setdefault(run.before, []).append(float(score))
            sources[arm.name] = arm.source
        inside = [np.array(one) for befores in groups.values() for one in befores.values()]
        freedom = sum(len(one) - 1 for one in inside)
        variance = sum(float(((one - one.mean()) ** 2).sum()) for one in inside) / freedom if freedom else 0.0
        # Arms from one stage tell of the same few models: they are averaged, and counted once.
        beyond: dict[str, list[tuple[int, float]]] = {}
        for name, befores in groups.items():
            if len(befores) > 1:
                between = float(np.var([np.mean(part) for part in befores.values()], ddof=1))
                each = float(np.mean([1 / len(part) for part in befores.values()]))
                beyond.setdefault(sources[name], []).append((len(befores) - 1, between - variance * each))
        counts = {source: max(count for count, _ in found) for source, found in beyond.items()}
        above = sum(counts.values())
        if not above:
            return Spread(variance, freedom), Spread(0.0, 0)
        mean = sum(counts[source] * float(np.mean([one for _, one in found])) for source, found in beyond.items()) / above
        return Spread(variance, freedom), Spread(max(0.0, mean), above)

    def _luck(self, spread: Spread, weight: float, seed: int) -> Floats:
        if not spread.freedom or not spread.variance or not weight:
            return np.zeros(self._draws)
        drawn: Floats = np.random.default_rng(seed).standard_t(spread.freedom, self._draws) * np.sqrt(spread.variance * weight)
        return drawn

    def _unshared(self, own: Floats) -> float:
        """Return the sum of squared weights of what stages before gave: models that both sides start from fall out."""
        sums: dict[tuple[str, str], float] = {}
        for (arm, run), weight in zip(self.columns, own, strict=True):
            if arm.source != BASE:
                sums[arm.source, run.before] = sums.get((arm.source, run.before), 0.0) + float(weight)
        return sum(weight**2 for weight in sums.values())
