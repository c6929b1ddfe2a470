"""The results of a study: `report.html` on one page, and a Markdown page with a picture, for the docs.

Both are made from the study's folder alone, at any time during the study: what is missing is listed as not run. The templates
`report.html` and `results.md` lay them out.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from twoway.evaluation.runner import SEARCH_COSTS
from twoway.files import write_whole
from twoway.recipes.run import duration
from twoway.reports import page
from twoway.reports.charts import Curve, IntervalRow, format_interval, interval_chart, interval_file, line_chart
from twoway.reports.page import REPORT, Badge

from .claims import NOT_RUN, NOT_SEEN, OPPOSITE, SEEN, UNDECIDED, WORDS, Evidence, doses, read_claims
from .outcomes import BASE, read_outcomes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from .claims import Claim, ComparisonResult, Interval
    from .outcomes import ArmRuns, StudyOutcomes

    Scope = Sequence[str]

_ALL = "all its tasks"
_DIFFERENCES = "Differences that are claimed to be above zero"
_BADGES = {SEEN: "yes", OPPOSITE: "no"}
_COLOURS = {SEEN: "good", OPPOSITE: "bad", NOT_SEEN: "c2"}
_MOST_SEEDS = 5  # columns of a table; runs that are more stand in one
_EQUAL_SETTINGS = ("attention", "pooling", "learning_rate", "from")  # what may differ between the cells of one table
_UNSEEN = "unseen"


class _Cost(NamedTuple):
    arm: str
    rows: int  # of the stages before its own
    before: float  # seconds of these
    own: float  # seconds of its own, a run
    numbers: str  # kept of an item
    compare: str  # milliseconds a query
    rerank: str


_COST_HEAD = [
    "arm",
    "rows before",
    "seconds before",
    "seconds of its own stage",
    "numbers an item",
    "compared, ms a query",
    "reranked, ms a query",
]

METHOD = (
    "Seeds are pooled and shown. An interval is a paired bootstrap over items, with the same draw for all arms and with items that share a "
    "picture drawn together, plus the variance between seeds, estimated over all arms."
)
COST = (
    "Time is of one process of one thread on the study's machine. Before an arm's own stage lie those that it starts from or reads rows "
    "of, its reranker's, and the arms that it merges. A query is compared with all candidates of its task, once it has its vector."
)
MANY = "One interval in twenty excludes zero by chance, so verdicts are given on whole claims and not on single tasks."
ONCE = (
    "Every stage before the contrastive one was run once: its variance is not in the intervals, so a difference between arms from "
    "different stages may be that between two runs of one stage."
)
SEVERAL = "The variance of earlier stages is in the intervals, as far as those with several seeds show it."


def write_study_page(out: str | Path) -> list[Path]:
    """Write the report of the study in `out`."""
    reading = read_outcomes(out)
    evidence = Evidence(reading)
    claims, about, scope = read_claims(evidence), reading.about, reading.scope()
    around, settings, path = about.get("surroundings") or {}, reading.out / "study.yaml", reading.out / REPORT
    page.write_page(
        path,
        "study/report.html",
        f"Study · {about.get('study', reading.out.name)}",
        f"{about.get('command', '')}; {about.get('state', '')}, {duration(about.get('seconds') or 0.0)} of work",
        numbers=_numbers(reading, claims),
        method=f"{METHOD} {describe_luck(evidence)} {MANY}",
        differences=interval_chart(_DIFFERENCES, "dots in the claims below are seeds", _difference_rows(claims)),
        verdicts=[[_number(claim), _badge(one), one.comparison.says, one.verdict.why] for claim in claims for one in claim.results],
        gate=reading.gate,
        gate_rows=_gate_rows(reading.gate),
        papers=[
            (number, paper, [_claim_parts(evidence, claim) for claim in claims if _number(claim) == number])
            for number, paper in _papers_and_own(claims).items()
        ],
        dose_maps=[_dose_map(evidence, claim) for claim in claims if claim.curve and claim.scope],
        crossed=_attention_by_pooling(evidence),
        unseen=_unseen(evidence),
        cost=COST,
        cost_head=[*_COST_HEAD, "mean over all tasks"],
        costs=[[*cost, evidence.interval({cost.arm: 1.0}, scope).value] for cost in _costs(evidence)],
        arms=_arms_table(evidence, list(reading.arms), scope),
        rates=[[name, arm.rate, _tried_rates(arm)] for name, arm in reading.arms.items()],
        tasks=[
            [task.name, task.group, ", ".join(task.marks), task.metric, task.n, task.chance]
            + [scores.get(task.name, "–") for scores in reading.baselines.values()]
            for task in reading.tasks.values()
        ],
        baselines=list(reading.baselines),
        stages=[_stage_row(name, stage) for name, stage in (about.get("stages") or {}).items()],
        facts=[(key, str(value)) for part in ("machine", "versions", "git") for key, value in (around.get(part) or {}).items()],
        settings=settings.read_text(encoding="utf-8") if settings.exists() else "",
    )
    return [path]


def write_study_results(out: str | Path, file: str | Path) -> list[Path]:
    """Write the results of the study in `out` as a text, with a picture beside it."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    evidence = Evidence(read_outcomes(out))
    claims, picture = read_claims(evidence), file.with_suffix(".svg")
    differences, asked = _difference_rows(claims), {_number(claim) for claim in claims}
    if differences:
        write_whole(picture, interval_file(_DIFFERENCES, differences))
    text = page.render(
        "study/results.md",
        method=f"{METHOD} {MANY}",
        cost=COST,
        study=_study_parts(evidence, claims),
        picture=picture.name if differences else "",
        not_run=_not_run(evidence, claims),
        not_asked=[str(number) for number in CLAIMS if number not in asked] if asked & CLAIMS.keys() else [],
        papers={number: paper for number, paper in CLAIMS.items() if number in asked},
    )
    write_whole(file, text)
    return [file, picture] if differences else [file]


def describe_onset(evidence: Evidence, claim: Claim) -> str:
    """Say from which dose on a curve is above its control."""
    control = next((series for series in claim.curve if series.name == "control"), None)
    if control is None or claim.about["curve"].get("best"):
        return ""
    # Doses that were not run say nothing, and where the gate does not hold none does.
    at = {one.comparison.says.removeprefix("at ").partition(":")[0]: one for one in claim.results if one.comparison.says.startswith("at ")}
    words = {name: one.verdict.word for name, one in at.items() if one.interval is not None}
    if not words or evidence.reading.gate.get("passed") is not True:
        return ""
    names = list(words)
    first = len(names)
    while first and words[names[first - 1]] == SEEN:
        first -= 1
    missing = [name for name in at if name not in words]
    run = f"{claim.axis}; not run: {', '.join(missing)}" if missing else claim.axis
    if first == len(names):
        return f"It is seen at no dose from which on it stays ({run})."
    below = f", and at {names[first - 1]} it is {words[names[first - 1]]}." if first else ", the smallest that was tried."
    return f"It is seen from {names[first]} on ({run}){below}"


def describe_luck(evidence: Evidence) -> str:
    """Say how much seeds vary, and whether the variance of earlier stages is in the intervals."""
    scope = evidence.reading.scope()
    seeds = evidence.spreads(scope)[0] if scope else None
    said = ""
    if seeds is not None and seeds.freedom:
        spread = f"{seeds.variance**0.5:.4f} (standard deviation, {seeds.freedom} degrees of freedom)"
        said = f"Between the seeds of an arm the mean score varies by {spread}. "
    later = [arm for arm in evidence.reading.arms.values() if arm.runs and arm.source != BASE]
    several = any(len({run.before for run in arm.runs}) > 1 for arm in later)
    return f"{said}{'' if not later else SEVERAL if several else ONCE}".rstrip()


# What the page shows beside its claims.


def _numbers(reading: StudyOutcomes, claims: Sequence[Claim]) -> list[tuple[str, str]]:
    counts = Counter(one.verdict.word for claim in claims for one in claim.results)
    # An arm that waits for its rate has no run yet, and will have one for each seed at least.
    runs = sum(len(arm.about.get("runs") or reading.about.get("seeds") or ()) for arm in reading.arms.values())
    done = sum(len(arm.runs) for arm in reading.arms.values())
    found = [(str(counts[name]), name) for name in WORDS if counts[name]]
    return [*found, (f"{done} of {runs}", "runs done"), (duration(reading.about.get("seconds") or 0.0), "of work")]


def _gate_rows(gate: dict[str, Any]) -> list[list[str]]:
    """Return what the gate measured, all rows as long as the longest."""
    parts = (("base", "the base, right picture against another's, nats a word"), ("smoke", "a first arm, its score"))
    rows = [[about, *[f"{key} {_short(value)}" for key, value in gate[name].items()][:5]] for name, about in parts if gate.get(name)]
    width = max(map(len, rows), default=0)
    return [row + [""] * (width - len(row)) for row in rows]


def _costs(evidence: Evidence) -> list[_Cost]:
    """Return what arms cost, to train and to search with; the cheapest to train first."""
    rows = []
    for name, arm in evidence.reading.arms.items():
        if arm.runs:
            before, done = arm.about.get("before") or {}, [one for one in arm.about["runs"] if one.get("state") == "done"]
            own = sum(one.get("seconds", {}).get("finetune", 0.0) for one in done) / max(1, len(done))
            rows.append(_Cost(name, int(before.get("rows") or 0), float(before.get("seconds") or 0.0), own, *_search_costs(done)))
    return sorted(rows, key=lambda row: row.before + row.own)


def _search_costs(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the numbers kept of an item, and the milliseconds that a query takes to be compared and to be reranked: means of runs."""
    cells = []
    for key in SEARCH_COSTS:
        known = [one["search"][key] * (1000 if "seconds" in key else 1) for one in runs if key in (one.get("search") or {})]
        cells.append(f"{sum(known) / len(known):,.3g}" if known else "–")
    return cells


def _tried_rates(arm: ArmRuns) -> str:
    """Return the learning rates that were tried."""
    tried = {rate: score for rate, score in (arm.about.get("rates") or {}).items() if score is not None}
    return ", ".join(f"{rate}: {score:.3f}" for rate, score in tried.items()) or "not searched for this arm"


def _stage_row(name: str, stage: dict[str, Any]) -> list[object]:
    amounts = [int(stage.get("rows") or 0), float(stage.get("seconds") or 0.0)]
    return [name, stage.get("stage", ""), stage.get("from", ""), *amounts, stage.get("state", "")]


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# One claim: what is found, the pictures of it, and the runs that it rests on.


class _ArmsTable(NamedTuple):
    head: list[str]
    rows: list[list[object]]
    missing: list[str]  # which runs are not there, and why


def _number(claim: Claim) -> int:
    return int(claim.about["claim"])


def _badge(found: ComparisonResult) -> Badge:
    return Badge(found.verdict.word, _BADGES.get(found.verdict.word, "dull"))


def _claim_parts(evidence: Evidence, claim: Claim) -> dict[str, Any]:
    """Return everything on one claim."""
    says = str(claim.about["says"])
    return {
        "says": says[:1].upper() + says[1:],
        "paper": claim.about.get("paper"),
        "comparisons": [(_badge(one), one.interval and _interval(one.interval), one) for one in claim.results],
        "onset": describe_onset(evidence, claim),
        "curves": _curves(evidence, claim),
        "differences": _difference_charts(evidence, claim),
        "arms": _arms_table(evidence, claim.arms, claim.scope),
    }


def _curves(evidence: Evidence, claim: Claim) -> list[str]:
    """Return a chart over all tasks and one for each group, as far as points were run."""
    if not claim.curve or not claim.scope:
        return []
    groups = evidence.reading.groups(claim.scope)
    scopes = {_ALL: claim.scope} | {name: tasks for name, tasks in groups.items() if tasks != claim.scope}
    names = [dose for dose, _ in claim.curve[0].points]
    places = dict(zip(names, doses(names), strict=True))
    charts = []
    for name, scope in scopes.items():
        curves = []
        for series in claim.curve:
            run = [(places[dose], evidence.interval({arm: 1.0}, scope)) for dose, arm in series.points if evidence.reading.arms[arm].runs]
            curves.append(Curve(series.name, [(place, found.value) for place, found in run], [found.half for _, found in run]))
        charts.append(line_chart(name, _metric(evidence, scope), curves, x_label=claim.axis))
    return [chart for chart in charts if chart]


def _difference_charts(evidence: Evidence, claim: Claim) -> list[str]:
    """Return each comparison's difference over all tasks, by group and by task; those of a curve stand in one chart."""
    unit = _metric(evidence, claim.scope)
    several = bool(claim.curve) and len(claim.results) > 1
    charts = [interval_chart("Differences", unit, _difference_rows([claim]))] if several else []
    for one in claim.results:
        if one.interval is None or (several and not one.comparison.says.startswith("growth")):
            continue
        parts = {**(one.groups or {}), **((one.tasks or {}) if len(claim.scope) > 1 else {})} if one.tasks else {}
        rows = [_difference_row(_ALL, one, dots=_by_seed(evidence, one, claim.scope))]
        rows += [IntervalRow(name, found.value, found.low, found.high) for name, found in parts.items()]
        charts.append(interval_chart(one.comparison.says, unit, rows))
    return [chart for chart in charts if chart]


def _difference_rows(claims: Iterable[Claim]) -> list[IntervalRow]:
    return [_difference_row(one.comparison.says, one) for claim in claims for one in claim.results if one.interval is not None]


def _difference_row(name: str, found: ComparisonResult, *, dots: Sequence[float] = ()) -> IntervalRow:
    assert found.interval is not None
    colour = _COLOURS.get(found.verdict.word, "c0")
    return IntervalRow(name, found.interval.value, found.interval.low, found.interval.high, colour, dots, strong=True)


def _arms_table(evidence: Evidence, arms: Sequence[str], scope: Scope) -> _ArmsTable:
    """Return the scores of arms, seed by seed, with what they were made from; arms without a run too."""
    reading = evidence.reading
    scores = {name: evidence.by_seed(name, scope) if scope else {} for name in arms}
    seeds = list(dict.fromkeys(seed for found in scores.values() for seed in found))
    apart = len(seeds) <= _MOST_SEEDS
    rows: list[list[object]] = []
    for name in arms:
        arm, found = reading.arms[name], scores[name]
        about, before = arm.about, arm.about.get("before") or {}
        each = [f"{found[seed]:.3f}" if seed in found else "–" for seed in seeds]
        together = ", ".join(f"{score:.3f}" for score in found.values()) or "–"
        mean = _mean_score(evidence, name, scope) if found else "not run"
        made = [name, arm.made_of, f"{before.get('rows') or 0:,}", about.get("attention", ""), about.get("pooling", ""), arm.rate]
        rows.append([*made, *(each if apart else [together]), mean])
    columns = [f"seed {name}" for name in seeds] if apart else ["runs"]
    head = ["arm", "from", "rows before", "attention", "pooling", "rate", *columns, "mean, 95%"]
    return _ArmsTable(head, rows, [f"{name}: {reading.arms[name].gone()}" for name in arms if reading.arms[name].missing])


def _mean_score(evidence: Evidence, arm: str, scope: Scope) -> str:
    """Return an arm's mean with its interval; an arm at chance on every task is marked."""
    text = _interval(evidence.interval({arm: 1.0}, scope), signed=False)
    return text if evidence.above_chance(arm, scope) else f"{text}, at chance"


def _by_seed(evidence: Evidence, found: ComparisonResult, scope: Scope) -> list[float]:
    """Return the difference at each seed that all of its arms have."""
    scores = {arm: evidence.by_number(arm, scope) for arm in found.comparison.weights}
    common = [seed for seed in next(iter(scores.values())) if all(seed in one for one in scores.values())]
    return [sum(weight * scores[arm][seed] for arm, weight in found.comparison.weights.items()) for seed in common]


def _interval(found: Interval, *, signed: bool = True) -> str:
    return format_interval(found.value, found.low, found.high, signed=signed)


def _metric(evidence: Evidence, scope: Scope) -> str:
    kinds = {evidence.reading.tasks[task].metric for task in scope}
    return kinds.pop().upper() if len(kinds) == 1 else "score"


# Maps: where a difference shows, over doses and kinds of task, over attention and pooling; and who holds out of domain.


def _dose_map(evidence: Evidence, claim: Claim) -> dict[str, Any]:
    """Return a table of doses by kinds of task: against the control, else against the first dose."""
    points = dict(claim.curve[0].points)
    controlled = len(claim.curve) > 1
    control = dict(claim.curve[1].points) if controlled else dict.fromkeys(points, next(iter(points.values())))
    kinds = {"all": claim.scope} | evidence.reading.groups(claim.scope)
    rows: list[list[object]] = []
    for dose, arm in points.items():
        other = control.get(dose)
        run = other is not None and other != arm and all(evidence.reading.arms[one].runs for one in (arm, other))
        rows.append([dose, *(_difference(evidence, arm, str(other), scope) if run else "–" for scope in kinds.values())])
    against = "the control at the same dose" if controlled else f"the first point, {next(iter(points))}"
    return {"title": claim.about["says"], "against": against, "head": [claim.axis, *kinds], "rows": rows}


def _attention_by_pooling(evidence: Evidence) -> list[tuple[list[str], list[list[object]]]]:
    """Return tables of attention by pooling, for arms that are alike in all else."""
    reading, scope = evidence.reading, evidence.reading.scope()
    alike: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for name, arm in reading.arms.items():
        rest = {key: value for key, value in (arm.about.get("settings") or {}).items() if key not in _EQUAL_SETTINGS}
        if arm.runs:
            cells = alike.setdefault((arm.source, json.dumps(rest, sort_keys=True)), {})
            cells.setdefault((str(arm.about.get("attention")), str(arm.about.get("pooling"))), name)
    tables = []
    for (source, _), cells in alike.items():
        attentions, poolings = (list(dict.fromkeys(cell[at] for cell in cells)) for at in (0, 1))
        if len(attentions) < 2 or len(poolings) < 2:
            continue
        rows: list[list[object]] = []
        for attention in attentions:
            arms = [cells.get((attention, pooling)) for pooling in poolings]
            rows.append([attention, *(_interval(evidence.interval({arm: 1.0}, scope), signed=False) if arm else "–" for arm in arms)])
        differences: list[object] = ["difference"]
        for pooling in poolings:
            upper, lower = (cells.get((attention, pooling)) for attention in attentions[:2])
            differences.append(_difference_badge(evidence.interval({lower: 1.0, upper: -1.0}, scope)) if upper and lower else "–")
        tables.append(([f"attention, from {source}", *poolings], [*rows, differences]))
    return tables


def _unseen(evidence: Evidence) -> tuple[list[str], list[list[object]]]:
    """Return each arm on what it was tuned for and on what no stage has seen, and what it keeps of it."""
    reading = evidence.reading
    groups = reading.groups(reading.scope())
    pairs = {kind: _counterparts(tasks, reading.tasks) for kind, tasks in groups.items() if kind.startswith(_UNSEEN)}
    pairs = {kind: found for kind, found in pairs.items() if found}
    rows: list[list[object]] = []
    for name in [name for name, arm in reading.arms.items() if arm.runs and pairs]:
        row: list[object] = [name]
        for found in pairs.values():
            known, new = (evidence.interval({name: 1.0}, tasks) for tasks in (tuple(found.values()), tuple(found)))
            kept = f"{new.value / known.value:.0%}" if known.value > 0 else "–"
            row += [_interval(known, signed=False), _interval(new, signed=False), kept]
        rows.append(row)
    return ["arm", *(title for kind in pairs for title in ("known", kind, "kept"))], rows


def _counterparts(tasks: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """Return each task's counterpart, by name: that of name-picture-new-style is name-picture."""
    others = {task: [one for one in known if one not in tasks and task.startswith(f"{one}-")] for task in tasks}
    return {task: max(found, key=len) for task, found in others.items() if found}


def _difference(evidence: Evidence, arm: str, other: str, scope: Scope) -> Badge | str:
    if not evidence.any_above_chance((arm, other), scope):
        return "at chance"
    return _difference_badge(evidence.interval({arm: 1.0, other: -1.0}, scope))


def _difference_badge(found: Interval) -> Badge:
    """Return a difference; one whose interval leaves zero out is coloured."""
    return Badge(_interval(found), "yes" if found.low > 0 else "no" if found.high < 0 else "dull")


# Results of studies as a text for the docs: what holds at this size, beside the papers' own figures.


def _study_parts(evidence: Evidence, claims: Sequence[Claim]) -> dict[str, Any]:
    about, scope = evidence.reading.about, evidence.reading.scope()
    rows: list[list[object]] = []
    for claim in claims:
        says = [claim.about["claim"], claim.about["says"], claim.about.get("paper", "")]
        for one in claim.results:
            rows.append([*says, one.comparison.says, "" if one.interval is None else _interval(one.interval), f"**{one.verdict.word}**"])
            says = ["", "", ""]
    metrics = ", ".join(sorted({task.metric for task in evidence.reading.tasks.values()}))
    kinds, by_kind = _by_kind(evidence, claims)
    return {
        "name": about.get("study", evidence.reading.out.name),
        "surroundings": f"{_surroundings(about)} {describe_luck(evidence)}".rstrip(),
        "gate": evidence.reading.gate,
        "gate_details": _gate_details(evidence.reading.gate),
        "rows": rows,
        "notes": _notes(evidence, claims),
        "cost_head": _COST_HEAD,
        "costs": [
            [cost.arm, f"{cost.rows:,}", f"{cost.before:,.0f}", f"{cost.own:,.0f}", *cost[4:], _mean_score(evidence, cost.arm, scope)]
            for cost in _costs(evidence)
        ],
        "arms": _arms(evidence),
        "mean": f"mean over {len(scope)} tasks ({metrics}), 95%" if scope else "mean",
        "kinds": kinds,
        "by_kind": by_kind,
    }


def _notes(evidence: Evidence, claims: Sequence[Claim]) -> list[str]:
    """Return the reasons of verdicts besides their intervals; comparisons that were not run have a list of their own."""
    notes = []
    for claim in claims:
        for one in claim.results:
            if one.verdict.word in (UNDECIDED, NOT_SEEN) or one.caveats:
                notes.append(f"claim {claim.about['claim']}, {one.comparison.says}: {one.verdict.word}, {one.verdict.why}")
        if onset := describe_onset(evidence, claim):
            notes.append(f"claim {claim.about['claim']}, {claim.about['says']}: {onset}")
    return notes


def _surroundings(about: dict[str, Any]) -> str:
    """Say what made a study."""
    machine, versions, git = ((about.get("surroundings") or {}).get(key) or {} for key in ("machine", "versions", "git"))
    words = [
        f"`{about.get('command', '')}`: {about.get('state', '')}, {duration(about.get('seconds') or 0.0)} of work",
        f"{machine.get('system', 'a machine')}, {machine.get('cores', '?')} cores, {machine.get('device', 'cpu')}, one thread a process",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"commit {git['commit'][:12]}{', with changes' if git.get('dirty') else ''}" if git.get("commit") else "not from a checkout",
        f"seeds {', '.join(map(str, about.get('seeds') or ()))}",
    ]
    return "; ".join(word for word in words if word) + "."


def _gate_details(gate: dict[str, Any]) -> list[str]:
    parts = [str(gate["why"])] if gate.get("why") else []
    if base := gate.get("base"):
        parts.append(f"the right picture saves {_short(base.get('gap'))} nats a word, at least {_short(base.get('least'))} are asked for")
    if (smoke := gate.get("smoke")) and smoke.get("chance") is not None:
        parts.append(f"{smoke.get('arm')} scores {_short(smoke.get('score'))} where chance gives {_short(smoke.get('chance'))}")
    return parts


def _arms(evidence: Evidence) -> list[list[object]]:
    """Return every arm: what it is made of, every seed, and the mean over all tasks."""
    reading = evidence.reading
    scope, rows = reading.scope(), []
    for name, arm in reading.arms.items():
        about, before = arm.about, arm.about.get("before") or {}
        counts = [f"{rows or 0:,}" for rows in (before.get("rows"), about.get("rows"))]
        missing = f"{NOT_RUN}: {arm.gone()}"
        if arm.runs:
            seeds = ", ".join(f"{score:.3f}" for score in evidence.by_seed(name, scope).values())
            scores = [f"{seeds}; {missing}" if arm.missing else seeds, _mean_score(evidence, name, scope)]
        else:
            scores = ["–", missing]
        rows.append([name, arm.made_of, *counts, about.get("attention", ""), about.get("pooling", ""), arm.rate, *scores])
    return rows


def _by_kind(evidence: Evidence, claims: Sequence[Claim]) -> tuple[list[str], list[list[object]]]:
    """Return kinds of task, and each comparison by them; if all of its arms are at chance, a difference is no evidence."""
    compared = [(claim, one) for claim in claims for one in claim.results if one.groups]
    kinds = list(dict.fromkeys(kind for _, one in compared for kind in one.groups or {}))
    rows: list[list[object]] = []
    for claim, one in compared:
        scopes = evidence.reading.groups(claim.scope)
        cells = dict.fromkeys(kinds, "")
        for kind, found in (one.groups or {}).items():
            sure = found.low > 0 or found.high < 0
            cells[kind] = f"**{_interval(found)}**" if sure else _interval(found)
            if not evidence.any_above_chance(one.comparison.weights, scopes[kind]):
                cells[kind] = "at chance"
        rows.append([claim.about["claim"], one.comparison.says, *cells.values()])
    return kinds, rows


def _not_run(evidence: Evidence, claims: Sequence[Claim]) -> list[str]:
    """List what the study asks and has no answer to, and why."""
    lines = []
    for number, paper in _papers_and_own(claims).items():
        same = [claim for claim in claims if _number(claim) == number]
        asked = [one for claim in same for one in claim.results]
        missing = [one for one in asked if one.interval is None]
        if missing:
            part = "" if len(missing) == len(asked) else ", in part"
            why = _missing_arms(evidence, [name for claim in same for name in claim.arms]) or missing[0].verdict.why
            lines.append(f"claim {number}{part}: {paper.title}: {why}")
    return lines


def _missing_arms(evidence: Evidence, arms: Iterable[str]) -> str:
    """Say which arms were not run, and why."""
    reasons: dict[str, dict[str, None]] = {}
    for name in arms:
        if not (arm := evidence.reading.arms[name]).runs:
            reasons.setdefault(arm.gone(), {})[name] = None
    return "; ".join(f"{', '.join(names)} not run ({reason})" for reason, names in reasons.items())


# The papers' claims by number, and the figures that they give for them, so that results stand beside what they test.
#
# MoCa is arXiv 2506.23115, CoCoA arXiv 2603.01471. MMEB is precision@1 over 36 tasks, ViDoRe-v2 is nDCG@5, both in
# points of a hundred.


@dataclass(frozen=True)
class Paper:
    """One claim: its title, and lines of (what, figures)."""

    title: str
    figures: tuple[tuple[str, str], ...] = ()
    without: str = ""  # for what no figures are listed, as a sentence


CLAIMS: dict[int, Paper] = {
    1: Paper(
        "Two-way attention and mean pooling, without pre-training",
        (("MoCa, contrastive on MMEB-train alone, MMEB", "3B causal 66.4, 3B two-way 65.4, 7B two-way 67.1"),),
        "Attention and pooling one at a time: no figures.",
    ),
    2: Paper(
        "MLM + MAE pre-training against none, and against as much next-token training",
        (("MoCa 3B, MMEB / ViDoRe-v2", "with pre-training 67.5 / 59.8, without 65.8 / 56.2"),),
        "As many rows of next-token training: a control that the papers lack.",
    ),
    3: Paper(
        "MLM, MAE, both; mask shares; the weight of MAE",
        (
            ("MoCa 3B, MMEB / ViDoRe-v2", "both 67.5 / 59.8, no MLM 66.2 / 57.2, no MAE 66.8 / 56.9"),
            ("share of masked words, MMEB", "0.1 66.1, 0.3 66.9, 0.4 67.5, 0.5 67.3, 0.7 67.1"),
            ("share of masked patches, MMEB", "0.2 66.8, 0.4 67.2, 0.5 67.5, 0.6 66.9, 0.9 65.8"),
            ("weight of MAE, MMEB", "0.2 66.7, 0.4 67.1, 0.5 67.5, 0.8 67.2, 1 66.9"),
        ),
    ),
    4: Paper(
        "More pre-training helps more",
        (
            (
                "MoCa 3B, steps of pre-training, MMEB",
                "200 65.7, 500 66.0, 1,000 66.5, 1,500 66.7, 2,000 67.0, 2,500 67.2, 3,000 67.4, 3,311 67.5",
            ),
        ),
    ),
    5: Paper(
        "Long documents, text pairs, task batches, hard negatives, denominators",
        (
            (
                "MoCa 3B, MMEB / ViDoRe-v2",
                "all 67.5 / 59.8, no text pairs 67.1 / 59.2, no long documents 66.9 / 45.7, no task batches 67.2 / 58.8",
            ),
        ),
        "Hard negatives and denominators: no figures.",
    ),
    6: Paper(
        "CoCoA's bridge against MoCa's mean pooling",
        (
            ("MMEB, Qwen2.5-VL-3B", "CoCoA 67.5, MoCa 67.5"),
            ("MMEB, Qwen2.5-VL-7B", "CoCoA 70.6, MoCa 71.5"),
            ("CoCoA, Qwen2-VL-2B, MMEB", "66.0 (classification 63.0, VQA 57.4, retrieval 69.6, grounding 85.8)"),
        ),
        "Both at equal rows, and what the leak of the bridge's mask does: no figures.",
    ),
    7: Paper("Cheaper pre-training: patches that skip the tower", (), "Patches that skip the tower: no figures."),
    8: Paper("Out of domain: which arm loses least on an unseen style and source", (), "A held-out style or source: no figures."),
}


def _papers_and_own(claims: Iterable[Claim]) -> dict[int, Paper]:
    """Return the papers' claims by number, and after them a study's own claims."""
    numbers = {_number(claim) for claim in claims}
    return CLAIMS | {number: Paper("A claim of the study's own") for number in sorted(numbers - CLAIMS.keys())}
