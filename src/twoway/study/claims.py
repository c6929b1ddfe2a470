"""A claim as comparisons that can be computed, and the result of each.

A claim names two arms, or a curve over doses. With `best`, a curve asks whether that dose beats each other one; with a control, whether
the curve beats it at each dose, and by more as the dose grows; else whether the score grows with the dose. Growth is the slope of a
straight line through all doses, from the first to the last, so that no single arm decides it; if three or more doses are planned, two
finished ones are not enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.evaluation.config import DRAWS
from twoway.evaluation.metrics import drawn_means

from .outcomes import BASE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .outcomes import Floats, StudyOutcomes


@dataclass(frozen=True)
class ArmComparison:
    """A sum of arms with weights that is claimed to be above zero."""

    says: str
    weights: dict[str, float]
    missing: str = ""  # which arms are not there, and why


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison shows: the verdict, and intervals for all of its tasks and by group and task."""

    comparison: ArmComparison
    verdict: ClaimVerdict
    interval: Interval | None = None
    groups: dict[str, Interval] | None = None
    tasks: dict[str, Interval] | None = None
    caveats: tuple[str, ...] = ()  # what its verdict does not rest on and might; they are a part of its reason


@dataclass(frozen=True)
class Series:
    """A line of a curve: (dose, arm) in order."""

    name: str
    points: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Claim:
    """A claim with all that its pictures and tables show."""

    about: dict[str, Any]
    scope: tuple[str, ...]
    smallest: float
    results: tuple[ComparisonResult, ...]
    arms: tuple[str, ...]
    curve: tuple[Series, ...] = ()

    @property
    def axis(self) -> str:
        """Return what the curve is over."""
        return str((self.about.get("curve") or {}).get("axis", ""))


def read_claims(evidence: Evidence) -> list[Claim]:
    """Return every claim of the study, those that cannot be decided too."""
    return [_claim(evidence, about) for about in evidence.reading.about.get("claims", ())]


def doses(names: Sequence[str]) -> list[float]:
    """Return doses as numbers; where one is none, their places."""
    try:
        return [float(name.rstrip(" %")) for name in names]
    except ValueError:
        return [float(place) for place in range(len(names))]


def comparisons(about: Mapping[str, Any], reading: StudyOutcomes) -> list[ArmComparison]:
    """Return what a claim asks."""
    curve = about.get("curve")
    if not curve:
        better, than = str(about["better"]), str(about["than"])
        return [_comparison(reading, f"{better} minus {than}", [(better, 1.0), (than, -1.0)])]
    points, control, best = dict(curve["points"]), dict(curve.get("control") or {}), str(curve.get("best") or "")
    if best:
        return [
            _comparison(reading, f"{best} minus {dose}", [(points[best], 1.0), (arm, -1.0)]) for dose, arm in points.items() if dose != best
        ]
    both = [
        _comparison(reading, f"at {dose}: {points[dose]} minus {arm}", [(points[dose], 1.0), (arm, -1.0)])
        for dose, arm in control.items()
        if arm != points[dose]
    ]
    axis = curve.get("axis", "the dose")
    if not control:
        return [_trend(reading, f"gain over {axis}, {next(iter(points))} to {list(points)[-1]}", [points], [1.0])]
    there = {dose: arm for dose, arm in points.items() if dose in control}
    return [*both, *([_trend(reading, f"growth of the difference over {axis}", [there, control], [1.0, -1.0])] if len(there) > 2 else [])]


def _trend(reading: StudyOutcomes, says: str, lines: Sequence[dict[str, str]], signs: Sequence[float]) -> ArmComparison:
    """Return the growth from the first dose that was run to the last: of a line, or of one minus another."""
    names = list(lines[0])
    run = [name for name in names if all(reading.arms[line[name]].runs for line in lines)]
    left_out = [name for name in names if name not in run]
    if len(run) < min(3, len(names)):
        return ArmComparison(says, {}, "; ".join(_missing(reading, [line[name] for line in lines for name in left_out])))
    places = np.array([place for name, place in zip(names, doses(names), strict=True) if name in run])
    slopes = (places - places.mean()) / ((places - places.mean()) ** 2).sum() * (places[-1] - places[0])
    parts = [
        (line[name], sign * float(slope)) for line, sign in zip(lines, signs, strict=True) for name, slope in zip(run, slopes, strict=True)
    ]
    return _comparison(reading, says + (f" (without {', '.join(left_out)}: not run)" if left_out else ""), parts)


def _comparison(reading: StudyOutcomes, says: str, parts: Sequence[tuple[str, float]]) -> ArmComparison:
    weights: dict[str, float] = {}
    for arm, weight in parts:
        weights[arm] = weights.get(arm, 0.0) + weight
    return ArmComparison(says, weights, "; ".join(_missing(reading, list(weights))))


def _missing(reading: StudyOutcomes, arms: Sequence[str]) -> list[str]:
    return [reading.arms[arm].why() for arm in dict.fromkeys(arms) if not reading.arms[arm].runs]


def _claim(evidence: Evidence, about: dict[str, Any]) -> Claim:
    reading = evidence.reading
    scope = reading.scope(about.get("tasks") or (), about.get("groups") or ())
    smallest = float(next(one for one in (about.get("smallest"), reading.about.get("smallest"), SMALLEST) if one is not None))
    unasked = reading.unscored(about.get("tasks") or (), about.get("groups") or ())
    found = tuple(_decide(evidence, one, scope, smallest, unasked) for one in comparisons(about, reading))
    curve = about.get("curve") or {}
    lines = (("", curve.get("points") or {}), ("control", curve.get("control") or {}))
    series = tuple(Series(name or "arms", tuple(points.items())) for name, points in lines if points)
    arms = [arm for line in series for _, arm in line.points] if curve else [str(about["better"]), str(about["than"])]
    return Claim(about, scope, smallest, found, tuple(dict.fromkeys(arms)), series)


def _decide(
    evidence: Evidence, asked: ArmComparison, scope: tuple[str, ...], smallest: float, unasked: Sequence[str] = ()
) -> ComparisonResult:
    """Compute a comparison; if it cannot be trusted, it gets no verdict, whatever its interval."""
    if asked.missing:
        gate = evidence.reading.gate
        closed = [f"the gate is not passed: {gate.get('why')}"] if gate.get("passed") is False else []
        return ComparisonResult(asked, ClaimVerdict(NOT_RUN, "; ".join([asked.missing, *closed])))
    if not scope:
        return ComparisonResult(asked, ClaimVerdict(NOT_RUN, "none of its tasks was scored"))
    interval = evidence.interval(asked.weights, scope)
    groups = {name: evidence.interval(asked.weights, tasks) for name, tasks in evidence.reading.groups(scope).items()}
    tasks = {name: evidence.interval(asked.weights, (name,)) for name in scope}
    word = _doubt(evidence, asked, scope) or verdict(interval, smallest)
    arms = [evidence.reading.arms[name] for name in asked.weights]
    caveats = [said for arm in arms for said in (arm.part(), arm.at_end()) if said]
    if unasked:
        caveats.append(f"without {', '.join(unasked)}, which the study has not scored")
    if once := evidence.once(asked.weights, scope):
        caveats.append(f"the variance of {' and '.join(once)}, run once, is not in it")
    return ComparisonResult(asked, ClaimVerdict(word.word, "; ".join([word.why, *caveats])), interval, groups, tasks, tuple(caveats))


def _doubt(evidence: Evidence, asked: ArmComparison, scope: tuple[str, ...]) -> ClaimVerdict | None:
    """Return why nothing can be decided: the gate, scores at chance, or no second seed in the whole study."""
    reading = evidence.reading
    if reading.gate.get("passed") is not True:
        return ClaimVerdict(UNDECIDED, f"the gate is not passed: {reading.gate.get('why') or 'no reason is given'}")
    if not evidence.any_above_chance(asked.weights, scope):
        return ClaimVerdict(UNDECIDED, f"{', '.join(asked.weights)} score no more than chance on each of these tasks")
    if not evidence.spreads(scope)[0].freedom:
        return ClaimVerdict(UNDECIDED, "no arm has a second seed, so the variance of training is unknown")
    return None


# The interval of a difference between arms: over items, over seeds, and over the variance of earlier stages.
#
# A comparison is a weighted sum of arms' scores, such as +1 for one and -1 for another. Each arm's score is the mean
# over its runs: seeds are pooled, and every table shows them too. The interval has three sources of variance:
#
# 1. items, by the paired bootstrap of `evaluation.metrics`: the same draw for all arms and runs; items that share a
#    picture are drawn together
# 2. seeds of the contrastive stage. Three are too few to draw from with replacement: this would miss a third of their
#    variance and the uncertainty of the estimate. So the variance between the seeds of an arm is estimated over all
#    arms of the study together, for the tasks in question, and each draw adds a value of Student's t with as many
#    degrees of freedom as that estimate has. This assumes that arms vary alike; the tables show how much they do
# 3. earlier stages. Arms that start from the same stage share its variance, and it cancels out of their difference.
#    If stages were trained with several seeds, their variance beyond that of 2 is estimated in the same way and added
#    for every stage that does not cancel. Many arms from two models are still two models, so the degrees of freedom
#    are counted by model. If no stage was trained with several seeds, this variance is not in the interval, and the
#    report says so; nor is that of rows that were mined or scored once, and of a reranker that was trained once
#
# Arms that share models (one is a merge of others, or the same model with a reranker) count as if they did not, so
# the interval of their difference is too wide rather than too narrow.
#
# The items' share of the variance between seeds is counted in 1 and in 2, so intervals are a little too wide rather
# than too narrow. Tasks are fixed: the study makes no statement about other tasks.

_NOTHING = 1e-9
_BOTH_SIDES = (0.025, 0.975)


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval, and the interval from items alone."""

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
    """The variance between runs and its degrees of freedom; 0 of them: unknown."""

    variance: float
    freedom: int


class Evidence:
    """The runs of a study at every draw of items."""

    def __init__(self, reading: StudyOutcomes, *, draws: int = DRAWS, seed: int = 0) -> None:
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
        """Return the stages whose variance is not in the interval of a comparison: what was done once, and does not cancel out."""
        known = bool(self.spreads(scope)[1].freedom)
        sums: dict[str, float] = {}
        for arm, weight in weights.items():
            for source in [*([] if known else [self.reading.arms[arm].source]), *self.reading.beside(arm)]:
                sums[source] = sums.get(source, 0.0) + weight
        return [source for source, weight in sums.items() if source != BASE and abs(weight) > _NOTHING]

    def above_chance(self, arm: str, scope: Sequence[str]) -> bool:
        """Say whether an arm's mean over its runs is above chance on any of the tasks."""
        means = {task: np.mean(list(self.by_seed(arm, (task,)).values())) for task in scope}
        return any(means[task] > self.reading.tasks[task].luck for task in scope)

    def any_above_chance(self, arms: Iterable[str], scope: Sequence[str]) -> bool:
        """Return whether one of these arms is above chance on one of the tasks; otherwise their difference is no evidence."""
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


# From an interval to a word.
#
# A difference smaller than the smallest that counts is treated as none, even where it is sure; one that may be either
# is not decidable. So "not seen" is a finding (the difference is at most so small) and never a lack of evidence.

SEEN = "seen"
NOT_SEEN = "not seen"
OPPOSITE = "opposite"
UNDECIDED = "not decidable at this size"
NOT_RUN = "not run"
WORDS = (SEEN, NOT_SEEN, OPPOSITE, UNDECIDED, NOT_RUN)
SMALLEST = 0.01  # a point, where a study says nothing else


@dataclass(frozen=True)
class ClaimVerdict:
    """One of `WORDS`, and why."""

    word: str
    why: str


def verdict(found: Interval, smallest: float = SMALLEST) -> ClaimVerdict:
    """Return the verdict of an interval on a difference that is claimed to be above zero."""
    if -smallest <= found.low and found.high <= smallest:
        there = " (there is one, but a smaller one)" if found.low > 0 or found.high < 0 else ""
        return ClaimVerdict(NOT_SEEN, f"the interval is within ±{smallest:g}, the smallest difference that counts{there}")
    if found.low > 0:
        return ClaimVerdict(SEEN, "the interval is above zero")
    if found.high < 0:
        return ClaimVerdict(OPPOSITE, "the interval is below zero")
    return ClaimVerdict(UNDECIDED, f"the interval contains zero and differences of more than {smallest:g}")
