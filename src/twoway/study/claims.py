"""A claim as comparisons that can be computed, and what each of them shows.

A claim names two arms, or a curve over doses of one thing. A curve asks, by what it gives: with `best`, whether that dose beats each other
one; with a control, whether the curve beats it at each dose, and more so as the dose grows; else whether the score grows with the dose.
Growth is that of a straight line through all doses, from the first to the last, so that no single arm decides it; where three or more are
asked, two of them are no curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .verdict import NOT_RUN, SMALLEST, UNDECIDED, Verdict, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .evidence import Evidence, Interval
    from .outcomes import Reading


@dataclass(frozen=True)
class Comparison:
    """A sum of arms with weights that is claimed to be above zero."""

    says: str
    weights: dict[str, float]
    missing: str = ""  # which arms are not there, and why


@dataclass(frozen=True)
class Found:
    """What a comparison shows: the verdict, and intervals for all of its tasks and by group and task."""

    comparison: Comparison
    verdict: Verdict
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
    found: tuple[Found, ...]
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


def comparisons(about: Mapping[str, Any], reading: Reading) -> list[Comparison]:
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


def _trend(reading: Reading, says: str, lines: Sequence[dict[str, str]], signs: Sequence[float]) -> Comparison:
    """Return the growth from the first dose that was run to the last: of a line, or of one minus another."""
    names = list(lines[0])
    run = [name for name in names if all(reading.arms[line[name]].runs for line in lines)]
    left_out = [name for name in names if name not in run]
    if len(run) < min(3, len(names)):
        return Comparison(says, {}, "; ".join(_missing(reading, [line[name] for line in lines for name in left_out])))
    places = np.array([place for name, place in zip(names, doses(names), strict=True) if name in run])
    slopes = (places - places.mean()) / ((places - places.mean()) ** 2).sum() * (places[-1] - places[0])
    parts = [
        (line[name], sign * float(slope)) for line, sign in zip(lines, signs, strict=True) for name, slope in zip(run, slopes, strict=True)
    ]
    return _comparison(reading, says + (f" (without {', '.join(left_out)}: not run)" if left_out else ""), parts)


def _comparison(reading: Reading, says: str, parts: Sequence[tuple[str, float]]) -> Comparison:
    weights: dict[str, float] = {}
    for arm, weight in parts:
        weights[arm] = weights.get(arm, 0.0) + weight
    return Comparison(says, weights, "; ".join(_missing(reading, list(weights))))


def _missing(reading: Reading, arms: Sequence[str]) -> list[str]:
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


def _decide(evidence: Evidence, asked: Comparison, scope: tuple[str, ...], smallest: float, unasked: Sequence[str] = ()) -> Found:
    """Compute a comparison; what cannot be trusted gets no verdict on the claim, whatever its interval."""
    if asked.missing:
        gate = evidence.reading.gate
        closed = [f"the gate is not passed: {gate.get('why')}"] if gate.get("passed") is False else []
        return Found(asked, Verdict(NOT_RUN, "; ".join([asked.missing, *closed])))
    if not scope:
        return Found(asked, Verdict(NOT_RUN, "none of its tasks was scored"))
    interval = evidence.interval(asked.weights, scope)
    groups = {name: evidence.interval(asked.weights, tasks) for name, tasks in evidence.reading.groups(scope).items()}
    tasks = {name: evidence.interval(asked.weights, (name,)) for name in scope}
    word = _doubt(evidence, asked, scope) or verdict(interval, smallest)
    arms = [evidence.reading.arms[name] for name in asked.weights]
    caveats = [said for arm in arms for said in (arm.part(), arm.at_end()) if said]
    if unasked:
        caveats.append(f"without {', '.join(unasked)}, which the study has not scored")
    if once := evidence.once(asked.weights, scope):
        caveats.append(f"the luck of {' and '.join(once)}, done once, is not in it")
    return Found(asked, Verdict(word.word, "; ".join([word.why, *caveats])), interval, groups, tasks, tuple(caveats))


def _doubt(evidence: Evidence, asked: Comparison, scope: tuple[str, ...]) -> Verdict | None:
    """Return why nothing can be decided: the gate, scores at chance, or no second seed in the whole study."""
    reading = evidence.reading
    if reading.gate.get("passed") is not True:
        return Verdict(UNDECIDED, f"the gate is not passed: {reading.gate.get('why') or 'no reason is given'}")
    if not evidence.any_above_chance(asked.weights, scope):
        return Verdict(UNDECIDED, f"{', '.join(asked.weights)} score no more than chance on each of these tasks")
    if not evidence.spreads(scope)[0].freedom:
        return Verdict(UNDECIDED, "no arm has a second seed, so that nothing is known of the luck of training")
    return None
