"""A claim in a study's report: what is said, what is found, the picture of it, and the runs that it rests on."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ..training.report_chart import Line, chart
from ..training.report_intervals import Row, intervals, spelled
from ..training.report_page import badge, grid, table
from .claims import doses
from .verdict import NOT_SEEN, OPPOSITE, SEEN, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .claims import Claim, Found
    from .evidence import Evidence, Interval

ALL = "all its tasks"
_KINDS = {SEEN: "yes", OPPOSITE: "no"}
_COLOURS = {SEEN: "good", OPPOSITE: "bad", NOT_SEEN: "c2"}
_SEEDS = 5  # columns; runs that are more stand in one
_BANDS = "Bands are the interval of each point alone; the difference of two is surer, because both are asked the same items."


def word(found: Verdict) -> str:
    """Return a verdict as a badge."""
    return badge(found.word, _KINDS.get(found.word, "dull"))


def row(name: str, found: Found, *, dots: Sequence[float] = ()) -> Row:
    """Return the line of a comparison in a picture."""
    assert found.interval is not None
    return _row(name, found.interval, _COLOURS.get(found.verdict.word, "c0"), dots=dots, strong=True)


def claim_block(evidence: Evidence, claim: Claim) -> str:
    """Return everything on one claim."""
    paper = f'<p class="soft">Papers: {escape(str(claim.about["paper"]))}</p>' if claim.about.get("paper") else ""
    says = str(claim.about["says"])
    said = f"<h3>{escape(says[:1].upper() + says[1:])}</h3>{paper}"
    return (
        said
        + verdicts(evidence, claim)
        + curves(evidence, claim)
        + pictures(evidence, claim)
        + arms_table(evidence, claim.arms, claim.scope)
    )


def verdicts(evidence: Evidence, claim: Claim) -> str:
    """Return a line for each comparison: the verdict, the interval, and what it says."""
    lines = []
    for one in claim.found:
        value = "" if one.interval is None else f" <b>{escape(_spelled(one.interval))}</b>"
        lines.append(f"<p>{word(one.verdict)}{value} {escape(one.comparison.says)}: {escape(one.verdict.why)}.</p>")
    start = onset(evidence, claim)
    return "".join(lines) + (f"<p>{escape(start)}</p>" if start else "")


def onset(evidence: Evidence, claim: Claim) -> str:
    """Say from which dose on a curve is above its control."""
    control = next((line for line in claim.curve if line.name == "control"), None)
    if control is None or claim.about["curve"].get("best"):
        return ""
    # Doses that were not run say nothing, and where the gate does not hold none does.
    at = {one.comparison.says.removeprefix("at ").partition(":")[0]: one for one in claim.found if one.comparison.says.startswith("at ")}
    words = {name: one.verdict.word for name, one in at.items() if one.interval is not None}
    if not words or evidence.reading.gate.get("passed") is not True:
        return ""
    names = list(words)
    first = len(names)
    while first and words[names[first - 1]] == SEEN:
        first -= 1
    unrun = [name for name in at if name not in words]
    run = f"{claim.axis}; not run: {', '.join(unrun)}" if unrun else claim.axis
    if first == len(names):
        return f"It is seen at no dose from which on it stays ({run})."
    below = f", and at {names[first - 1]} it is {words[names[first - 1]]}." if first else ", the smallest that was tried."
    return f"It is seen from {names[first]} on ({run}){below}"


def curves(evidence: Evidence, claim: Claim) -> str:
    """Return a curve over all tasks and one for each group, as far as points were run."""
    if not claim.curve or not claim.scope:
        return ""
    groups = evidence.reading.groups(claim.scope)
    scopes = {ALL: claim.scope} | {name: tasks for name, tasks in groups.items() if tasks != claim.scope}
    charts = []
    for name, scope in scopes.items():
        lines = []
        for series in claim.curve:
            places = doses([dose for dose, _ in claim.curve[0].points])
            at = dict(zip([dose for dose, _ in claim.curve[0].points], places, strict=True))
            run = [(at[dose], evidence.interval({arm: 1.0}, scope)) for dose, arm in series.points if evidence.reading.arms[arm].runs]
            points = [(place, found.value) for place, found in run]
            lines.append(Line(series.name, points, [found.half for _, found in run]))
        charts.append(chart(name, _metric(evidence, scope), lines, across=claim.axis))
    return f'{grid(charts)}<p class="soft">{_BANDS}</p>' if any(charts) else ""


def pictures(evidence: Evidence, claim: Claim) -> str:
    """Return each comparison's difference over all tasks, by group and by task."""
    made = []
    for one in claim.found:
        if one.interval is None or (claim.curve and len(claim.found) > 1 and not one.comparison.says.startswith("growth")):
            continue
        parts = {**(one.groups or {}), **(one.tasks if len(claim.scope) > 1 else None or {})} if one.tasks else {}
        rows = [row(ALL, one, dots=_by_seed(evidence, one, claim.scope)), *(_row(name, found) for name, found in parts.items())]
        made.append(intervals(one.comparison.says, _metric(evidence, claim.scope), rows))
    if claim.curve and len(claim.found) > 1:
        rows = [row(one.comparison.says, one) for one in claim.found if one.interval is not None]
        made.insert(0, intervals("Differences", _metric(evidence, claim.scope), rows))
    return "".join(made)


def arms_table(evidence: Evidence, arms: Sequence[str], scope: Sequence[str]) -> str:
    """Return the scores of arms, seed by seed, with what they were made from; arms without a run too."""
    reading = evidence.reading
    scores = {name: evidence.by_seed(name, scope) if scope else {} for name in arms}
    names = list(dict.fromkeys(seed for found in scores.values() for seed in found))
    rows: list[list[object]] = []
    for name in arms:
        arm, found = reading.arms[name], scores[name]
        whole = evidence.interval({name: 1.0}, scope) if found else None
        mean = score(evidence, name, whole, scope) if whole else "not run"
        about = arm.about
        before = about.get("before") or {}
        made = [name, arm.source, f"{before.get('rows') or 0:,}", about.get("attention", ""), about.get("pooling", ""), arm.rate]
        own = [f"{found[seed]:.3f}" if seed in found else "–" for seed in names]
        rows.append([*made, *(own if len(names) <= _SEEDS else [", ".join(f"{score:.3f}" for score in found.values()) or "–"]), mean])
    seeds = [f"seed {name}" for name in names] if len(names) <= _SEEDS else ["runs"]
    head = ("arm", "from", "rows before", "attention", "pooling", "rate", *seeds, "mean, 95%")
    missing = [f"{name}: {reading.arms[name].gone()}" for name in arms if reading.arms[name].missing]
    return table(head, rows) + (f'<p class="soft">Not run: {escape("; ".join(missing))}.</p>' if missing else "")


def score(evidence: Evidence, arm: str, found: Interval, scope: Sequence[str]) -> str:
    """Return an arm's mean with its interval; one at chance on each of the tasks says so."""
    said = spelled(found.value, found.low, found.high, signed=False)
    return said if evidence.above_chance(arm, scope) else f"{said}, at chance"


def _by_seed(evidence: Evidence, found: Found, scope: Sequence[str]) -> list[float]:
    """Return the difference at each seed that all of its arms have."""
    scores = {arm: evidence.by_number(arm, scope) for arm in found.comparison.weights}
    common = [seed for seed in next(iter(scores.values())) if all(seed in one for one in scores.values())]
    return [sum(weight * scores[arm][seed] for arm, weight in found.comparison.weights.items()) for seed in common]


def _row(name: str, found: Interval, colour: str = "c0", *, dots: Sequence[float] = (), strong: bool = False) -> Row:
    return Row(name, found.value, found.low, found.high, colour, dots, strong=strong)


def _spelled(found: Interval) -> str:
    return spelled(found.value, found.low, found.high)


def _metric(evidence: Evidence, scope: Sequence[str]) -> str:
    kinds = {evidence.reading.tasks[task].metric for task in scope}
    return kinds.pop().upper() if len(kinds) == 1 else "score"
