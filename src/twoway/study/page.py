"""The results of a study: `report.html` on one page, and a Markdown page with a picture, for the docs.

Both are made from the study's folder alone, at any time during the study: what is missing is listed as not run.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.files import write_whole
from twoway.recipes.run import duration
from twoway.reports.charts import Line, Row, chart, intervals, intervals_file, spelled
from twoway.reports.page import badge, folded, grid, page, section, table, tiles
from twoway.reports.training import REPORT

from .claims import NOT_RUN, NOT_SEEN, OPPOSITE, SEEN, UNDECIDED, WORDS, Evidence, Verdict, doses, read_claims
from .outcomes import BASE, read_outcomes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from twoway.reports.page import Markup

    from .claims import Claim, Found, Interval
    from .outcomes import Reading

    Made = tuple[Evidence, Sequence[Claim], str]  # a study, its claims, and the name of its picture


def write_page(out: str | Path) -> list[Path]:
    """Write the report of the study in `out`."""
    reading = read_outcomes(out)
    evidence = Evidence(reading)
    claims = read_claims(evidence)
    about = reading.about
    under = f"{about.get('command', '')}; {about.get('state', '')}, {duration(about.get('seconds') or 0.0)} of work"
    path = reading.out / REPORT
    write_whole(path, page(f"Study · {about.get('study', reading.out.name)}", under, _body(evidence, claims)))
    return [path]


def write_results(outs: Sequence[str | Path], file: str | Path) -> list[Path]:
    """Write the results of studies as one text, with a picture of each study beside it."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    made, studies = [], []
    for out in outs:
        evidence = Evidence(read_outcomes(out))
        claims = read_claims(evidence)
        picture = file.with_name(f"{file.stem}-{evidence.reading.about.get('study', Path(out).name)}.svg")
        rows = [row(one.comparison.says, one) for claim in claims for one in claim.found if one.interval is not None]
        if rows:
            write_whole(picture, intervals_file("Differences that are claimed to be above zero", rows))
            made.append(picture)
        studies.append((evidence, claims, picture.name if rows else ""))
    write_whole(file, results(studies))
    return [file, *made]


def _body(evidence: Evidence, claims: Sequence[Claim]) -> list[str]:
    reading = evidence.reading
    rows = [row(one.comparison.says, one) for claim in claims for one in claim.found if one.interval is not None]
    asked = listed(int(claim.about["claim"]) for claim in claims)
    lines = [[claim.about["claim"], word(one.verdict), one.comparison.says, one.verdict.why] for claim in claims for one in claim.found]
    return [
        tiles(_numbers(reading, claims)),
        section(
            "What it decides",
            f"{METHOD} {luck(evidence)} {MANY}",
            intervals("Differences that are claimed to be above zero", "dots in the claims below are seeds", rows),
            table(("claim", "verdict", "comparison", "why"), lines),
        ),
        _gate(reading),
        *(_claim(evidence, number, paper, [one for one in claims if one.about["claim"] == number]) for number, paper in asked.items()),
        *dose_maps(evidence, claims),
        crossed(evidence),
        unseen(evidence),
        _cost(evidence),
        section("All arms", "Mean over all tasks, every run.", arms_table(evidence, list(reading.arms), reading.scope())),
        _rates(reading),
        _tasks(evidence),
        *_end(reading),
    ]


def _numbers(reading: Reading, claims: Sequence[Claim]) -> list[tuple[str, str]]:
    counts = Counter(one.verdict.word for claim in claims for one in claim.found)
    # An arm that waits for its rate has no run yet, and will have one for each seed at least.
    runs = sum(len(arm.about.get("runs") or reading.about.get("seeds") or ()) for arm in reading.arms.values())
    done = sum(len(arm.runs) for arm in reading.arms.values())
    found = [(str(counts[name]), name) for name in WORDS if counts[name]]
    return [*found, (f"{done} of {runs}", "runs done"), (duration(reading.about.get("seconds") or 0.0), "of work")]


def _claim(evidence: Evidence, number: int, paper: Paper, claims: Sequence[Claim]) -> str:
    figures = table(("papers", "figures"), paper.figures)
    if not claims:
        return section(
            f"{number}. {paper.title}", f"{NOT_RUN.capitalize()}: no claim of this study is about it. {paper.without}", figures or " "
        )
    return section(f"{number}. {paper.title}", paper.without, *(claim_block(evidence, one) for one in claims), figures)


def _gate(reading: Reading) -> str:
    gate = reading.gate
    passed = gate.get("passed")
    state = (
        "Not known yet."
        if passed is None
        else "Passed: the base looks at its pictures, and a first arm clears chance."
        if passed
        else "Not passed."
    )
    rows = []
    for name, about in (("base", "the base, right picture against another's, nats a word"), ("smoke", "a first arm, its score")):
        if one := gate.get(name):
            rows.append([about, *[f"{key} {_plain(value)}" for key, value in one.items()][:5]])
    width = max((len(one) for one in rows), default=1)
    return section(
        "Gate",
        f"{state} {gate.get('why') or ''}",
        table(["" for _ in range(width)], [one + [""] * (width - len(one)) for one in rows]) or " ",
    )


def _cost(evidence: Evidence) -> str:
    """Return what arms cost and what they score, the cheapest first."""
    reading, rows = evidence.reading, []
    for name, arm in reading.arms.items():
        if arm.runs:
            before = arm.about.get("before") or {}
            spent = [one.get("seconds", {}).get("finetune", 0.0) for one in arm.about["runs"] if one.get("state") == "done"]
            score = evidence.interval({name: 1.0}, reading.scope()).value
            rows.append([name, int(before.get("rows") or 0), float(before.get("seconds") or 0.0), sum(spent) / max(1, len(spent)), score])
    rows.sort(key=lambda one: one[2])
    head = ("arm", "rows before", "seconds before", "seconds of the contrastive stage", "mean over all tasks")
    return section("Cost against score", "Time of one process of one thread on the study's machine.", table(head, rows))


def _rates(reading: Reading) -> str:
    """Return the learning rates that were tried, and those that were taken."""
    rows = []
    for name, arm in reading.arms.items():
        tried = {rate: score for rate, score in (arm.about.get("rates") or {}).items() if score is not None}
        said = ", ".join(f"{rate}: {score:.3f}" for rate, score in tried.items())
        rows.append([name, arm.rate, said or "not searched for this arm"])
    what = "Tried on held-out rows of what the contrastive stage trains on (mean MRR), never on what is scored; the best is taken."
    return section("Learning rates", what, table(("arm", "taken", "tried"), rows))


def _tasks(evidence: Evidence) -> str:
    reading = evidence.reading
    rows = [
        [one.name, one.group, ", ".join(one.marks), one.metric, one.n, one.chance, *_alone(reading, one.name)]
        for one in reading.tasks.values()
    ]
    return section("Tasks", "", table(("task", "group", "marks", "metric", "items", "chance", *reading.baselines), rows))


def _alone(reading: Reading, task: str) -> list[object]:
    return [scores.get(task, "–") for scores in reading.baselines.values()]


def _end(reading: Reading) -> list[str]:
    around: dict[str, Any] = reading.about.get("surroundings") or {}
    facts = [(key, str(value)) for part in ("machine", "versions", "git") for key, value in (around.get(part) or {}).items()]
    stages = [
        [name, one.get("stage", ""), one.get("from", ""), int(one.get("rows") or 0), float(one.get("seconds") or 0.0), one.get("state", "")]
        for name, one in (reading.about.get("stages") or {}).items()
    ]
    settings = reading.out / "study.yaml"
    return [
        section(
            "Stages before",
            "Each done once, or once for each of its seeds, for all arms that start from it.",
            table(("stage", "kind", "from", "rows", "seconds", "state"), stages),
        ),
        section("Provenance", "What made this study, and what it can be made again with.", table(("what", "value"), facts)),
        folded("The study with every setting", settings.read_text(encoding="utf-8") if settings.exists() else ""),
    ]


def _plain(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


# A claim in a study's report: the claim, the result, its picture, and the runs behind it.

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
    """Return a line for each comparison: the verdict, the interval, and its meaning."""
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
    """Return an arm's mean with its interval; an arm at chance on every task is marked."""
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


# The claim's map: where a difference shows, over doses and kinds of task, over attention and pooling; and who holds
# out of domain.

_EVEN = ("attention", "pooling", "learning_rate", "from")  # what may differ between the cells of one table
_UNSEEN = "unseen"


def dose_maps(evidence: Evidence, claims: Sequence[Claim]) -> list[str]:
    """Return for each curve a table of doses by kinds of task: against its control, else against its first dose."""
    made = []
    for claim in claims:
        if not claim.curve or not claim.scope:
            continue
        points = dict(claim.curve[0].points)
        control = dict(claim.curve[1].points) if len(claim.curve) > 1 else dict.fromkeys(points, next(iter(points.values())))
        kinds = {"all": claim.scope} | evidence.reading.groups(claim.scope)
        rows: list[list[object]] = []
        for dose, arm in points.items():
            against = control.get(dose)
            there = against is not None and against != arm and all(evidence.reading.arms[one].runs for one in (arm, against))
            cells = [_against(evidence, arm, str(against), scope) if there else "–" for scope in kinds.values()]
            rows.append([dose, *cells])
        what = "the control at the same dose" if len(claim.curve) > 1 else f"the first point, {next(iter(points))}"
        made.append(section(f"Map: {claim.about['says']}", f"Difference to {what}, by kind of task.", table((claim.axis, *kinds), rows)))
    return made


def crossed(evidence: Evidence) -> str:
    """Return attention by pooling, for arms that are alike in all else."""
    reading = evidence.reading
    scope = reading.scope()
    alike: dict[str, dict[tuple[str, str], str]] = {}
    for name, arm in reading.arms.items():
        rest = {key: value for key, value in (arm.about.get("settings") or {}).items() if key not in _EVEN}
        key = json.dumps([arm.source, rest], sort_keys=True)
        if arm.runs:
            alike.setdefault(key, {}).setdefault((str(arm.about.get("attention")), str(arm.about.get("pooling"))), name)
    made = []
    for key, cells in alike.items():
        attentions, poolings = (list(dict.fromkeys(one[at] for one in cells)) for at in (0, 1))
        if len(attentions) < 2 or len(poolings) < 2:
            continue
        rows: list[list[object]] = []
        for attention in attentions:
            found = [cells.get((attention, pooling)) for pooling in poolings]
            rows.append([attention, *(_score(evidence.interval({name: 1.0}, scope)) if name else "–" for name in found)])
        rows.append(["difference", *(_between(evidence, cells, [(one, pooling) for one in attentions[:2]], scope) for pooling in poolings)])
        source = json.loads(key)[0]
        made.append(table((f"attention, from {source}", *poolings), rows))
    said = "Mean over all tasks of arms that differ in nothing else but their rate; the last line is the lower minus the upper attention."
    return section("Map: attention by pooling", said, *made)


def unseen(evidence: Evidence) -> str:
    """Return each arm on what it was tuned for and on what no stage has seen, and what it keeps of it."""
    reading = evidence.reading
    pairs = {kind: _paired(tasks, reading.tasks) for kind, tasks in reading.groups(reading.scope()).items() if kind.startswith(_UNSEEN)}
    pairs = {kind: found for kind, found in pairs.items() if found}
    rows: list[list[object]] = []
    for name, arm in reading.arms.items():
        if arm.runs and pairs:
            made: list[object] = [name]
            for found in pairs.values():
                known, new = (evidence.interval({name: 1.0}, scope) for scope in (tuple(found.values()), tuple(found)))
                made += [_score(known), _score(new), f"{new.value / known.value:.0%}" if known.value > 0 else "–"]
            rows.append(made)
    head = [title for kind in pairs for title in ("known", kind, "kept")]
    said = "The same tasks with pictures as in fine-tuning, and with pictures of a kind that no stage has seen; what is kept is the share."
    return section("Out of domain", said, table(("arm", *head), rows))


def _paired(tasks: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """Return each task's counterpart, by name: that of name-picture-new-style is name-picture."""
    found = {}
    for task in tasks:
        others = [one for one in known if one not in tasks and task.startswith(f"{one}-")]
        if others:
            found[task] = max(others, key=len)
    return found


def _against(evidence: Evidence, arm: str, other: str, scope: Sequence[str]) -> object:
    if not evidence.any_above_chance((arm, other), scope):
        return "at chance"
    return cell(evidence.interval({arm: 1.0, other: -1.0}, scope))


def cell(found: Interval) -> Markup:
    """Return a difference; one whose interval leaves zero out is coloured."""
    kind = "yes" if found.low > 0 else "no" if found.high < 0 else "dull"
    return badge(spelled(found.value, found.low, found.high), kind)


def _score(found: Interval) -> str:
    return spelled(found.value, found.low, found.high, signed=False)


def _between(evidence: Evidence, cells: dict[tuple[str, str], str], keys: Sequence[tuple[str, str]], scope: Sequence[str]) -> object:
    upper, lower = (cells.get(key) for key in keys)
    return cell(evidence.interval({lower: 1.0, upper: -1.0}, scope)) if upper and lower else "–"


# Results of studies as a text for the docs: what holds at this size, beside the papers' own figures.

HEAD = """# Results: the papers' claims, at this size

Written by `twoway study … --write`; not by hand. A verdict is *seen* (the interval lies above zero), *not seen* (it lies within plus or
minus the smallest difference that counts), *opposite* (it lies below zero), *not decidable at this size* (it holds zero and differences
that would count, or nothing can be trusted), or *not run*. Results against the papers stand as they are. They are about small models
trained for minutes: whether an effect shows here, not whether it is there at 3B.
"""

METHOD = (
    "Seeds are pooled and shown. An interval is a paired bootstrap over items, with the same draw for all arms and with items that share a "
    "picture drawn together; to it comes the luck of seeds, estimated over all arms."
)
MANY = "Of many intervals one in twenty leaves zero out by luck, so verdicts are given on whole claims and not on single tasks."
ONCE = (
    "Every stage before the contrastive one was done once: the luck of that stage is not in the intervals, so that a difference between "
    "arms from different stages may be that of two runs of one stage."
)
SEVERAL = "The luck of the stages before the contrastive one is in the intervals, as far as those with several seeds show it."
GATE = {"True": "The gate is passed", "False": "The gate is **not passed**, so nothing can be decided"}


def luck(evidence: Evidence) -> str:
    """Say whether the variance of earlier stages is in the intervals."""
    later = [arm for arm in evidence.reading.arms.values() if arm.runs and arm.source != BASE]
    several = any(len({run.before for run in arm.runs}) > 1 for arm in later)
    return f"{_between_seeds(evidence)}{'' if not later else SEVERAL if several else ONCE}".rstrip()


def _between_seeds(evidence: Evidence) -> str:
    scope = evidence.reading.scope()
    seeds = evidence.spreads(scope)[0] if scope else None
    if seeds is None or not seeds.freedom:
        return ""
    spread = f"{seeds.variance**0.5:.4f} (standard deviation, {seeds.freedom} degrees of freedom)"
    return f"Between the seeds of an arm the mean score varies by {spread}. "


def results(studies: Sequence[Made]) -> str:
    """Return the whole text."""
    parts = [HEAD, f"{METHOD} {MANY}\n"]
    for evidence, claims, picture in studies:
        parts += _study(evidence, claims, picture)
    parts += [_not_run(studies), _papers()]
    return "\n".join(parts).rstrip() + "\n"


def _study(evidence: Evidence, claims: Sequence[Claim], picture: str) -> list[str]:
    reading = evidence.reading
    about = reading.about
    name = about.get("study", reading.out.name)
    parts = [f"## Study `{name}`\n", f"{_made_with(about)} {luck(evidence)}".rstrip() + "\n"]
    gate = reading.gate
    said = GATE.get(str(gate.get("passed")), "The gate is not known yet")
    parts.append(f"{said}{_gate_text(gate)}.\n")
    if picture:
        parts.append(f"![Differences with their intervals]({picture})\n")
    rows: list[list[object]] = []
    for claim in claims:
        about_it = [claim.about["claim"], claim.about["says"], claim.about.get("paper", "")]
        for one in claim.found:
            found = "" if one.interval is None else spelled(one.interval.value, one.interval.low, one.interval.high)
            rows.append([*about_it, one.comparison.says, found, f"**{one.verdict.word}**"])
            about_it = ["", "", ""]
    parts.append(_table(("claim", "what is said", "papers", "here", "difference, 95%", "verdict"), rows))
    for claim in claims:
        head = f"- claim {claim.about['claim']}, "
        parts += [f"{head}{one.comparison.says}: {one.verdict.word}, {one.verdict.why}" for one in claim.found if _noted(one)]
        parts += [f"{head}{claim.about['says']}: {start}"] if (start := onset(evidence, claim)) else []
    parts += ["", "### Arms\n", _arms(evidence), "### By kind of task\n", _kinds(evidence, claims)]
    return parts


def _noted(found: Found) -> bool:
    """Return whether a verdict has a reason besides its interval; comparisons that were not run have a list of their own."""
    return found.verdict.word in (UNDECIDED, NOT_SEEN) or bool(found.caveats)


def _made_with(about: dict[str, Any]) -> str:
    around = about.get("surroundings") or {}
    machine, versions, git = (around.get(key) or {} for key in ("machine", "versions", "git"))
    words = [
        f"`{about.get('command', '')}`: {about.get('state', '')}, {duration(about.get('seconds') or 0.0)} of work",
        f"{machine.get('system', 'a machine')}, {machine.get('cores', '?')} cores, {machine.get('device', 'cpu')}, one thread a process",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"commit {git['commit'][:12]}{', with changes' if git.get('dirty') else ''}" if git.get("commit") else "not from a checkout",
        f"seeds {', '.join(map(str, about.get('seeds') or ()))}",
    ]
    return "; ".join(word for word in words if word) + "."


def _gate_text(gate: dict[str, Any]) -> str:
    parts = [str(gate["why"])] if gate.get("why") else []
    if base := gate.get("base"):
        parts.append(f"the right picture saves {_number(base.get('gap'))} nats a word, at least {_number(base.get('least'))} are asked for")
    if (smoke := gate.get("smoke")) and smoke.get("chance") is not None:
        parts.append(f"{smoke.get('arm')} scores {_number(smoke.get('score'))} where chance gives {_number(smoke.get('chance'))}")
    return f": {'; '.join(parts)}" if parts else ""


def _arms(evidence: Evidence) -> str:
    """Return every arm: what it is made of, every seed, and the mean over all tasks."""
    reading = evidence.reading
    scope, rows = reading.scope(), []
    for name, arm in reading.arms.items():
        before = arm.about.get("before") or {}
        made = [name, arm.source, f"{before.get('rows') or 0:,}", f"{arm.about.get('rows') or 0:,}", arm.about.get("attention", "")]
        made += [arm.about.get("pooling", ""), arm.rate]
        if not arm.runs:
            rows.append([*made, "–", f"{NOT_RUN}: {arm.gone()}"])
            continue
        seeds = ", ".join(f"{one:.3f}" for one in evidence.by_seed(name, scope).values())
        missing = f"; {NOT_RUN}: {arm.gone()}" if arm.missing else ""
        rows.append([*made, f"{seeds}{missing}", score(evidence, name, evidence.interval({name: 1.0}, scope), scope)])
    metrics = ", ".join(sorted({task.metric for task in reading.tasks.values()}))
    mean = f"mean over {len(scope)} tasks ({metrics}), 95%" if scope else "mean"
    head = ("arm", "from", "rows before", "rows", "attention", "pooling", "rate", "seeds", mean)
    return _table(head, rows)


def _kinds(evidence: Evidence, claims: Sequence[Claim]) -> str:
    """Return each comparison by kind of task; if all of its arms are at chance, a difference is no evidence."""
    shown = [(claim, one) for claim in claims for one in claim.found if one.groups]
    kinds = list(dict.fromkeys(kind for _, one in shown for kind in one.groups or {}))
    rows = []
    for claim, one in shown:
        scopes = evidence.reading.groups(claim.scope)
        lost = {kind for kind in one.groups or {} if not evidence.any_above_chance(one.comparison.weights, scopes[kind])}
        cells = ["at chance" if kind in lost else _cell(one.groups or {}, kind) for kind in kinds]
        rows.append([claim.about["claim"], one.comparison.says, *cells])
    return _table(("claim", "comparison", *kinds), rows)


def _cell(groups: dict[str, Any], kind: str) -> str:
    one = groups.get(kind)
    if one is None:
        return ""
    text = spelled(one.value, one.low, one.high)
    return f"**{text}**" if one.low > 0 or one.high < 0 else text


def _not_run(studies: Sequence[Made]) -> str:
    """List what no study has an answer to, and why."""
    lines = []
    for number, paper in listed(int(claim.about["claim"]) for _, claims, _ in studies for claim in claims).items():
        asked = [one for _, claims, _ in studies for claim in claims if claim.about["claim"] == number for one in claim.found]
        missing = [one for one in asked if one.interval is None]
        if not asked:
            lines.append(f"- claim {number}: {paper.title}: no study here asks it")
        elif missing:
            part = "" if len(missing) == len(asked) else ", in part"
            lines.append(f"- claim {number}{part}: {paper.title}: {_gone(studies, number) or missing[0].verdict.why}")
    return "## Not run\n\n" + ("\n".join(lines) if lines else "Every claim has been run.") + "\n"


def _gone(studies: Sequence[Made], number: int) -> str:
    """Say which arms of a claim were not run, and why."""
    reasons: dict[str, dict[str, None]] = {}
    for evidence, claims, _ in studies:
        for name in (name for claim in claims if claim.about["claim"] == number for name in claim.arms):
            if not (arm := evidence.reading.arms[name]).runs:
                reasons.setdefault(arm.gone(), {})[name] = None
    return "; ".join(f"{', '.join(names)} not run ({reason})" for reason, names in reasons.items())


def _papers() -> str:
    rows = []
    for number, paper in CLAIMS.items():
        rows += [[number, paper.title, what, figures] for what, figures in paper.figures]
        if paper.without:
            rows.append([number, paper.title, "–", paper.without])
    return "## What the papers give\n\nIn points of a hundred, at 2 to 7 billion parameters.\n\n" + _table(
        ("claim", "", "what", "figures"), rows
    )


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return "Nothing has been run.\n"
    lines: list[Sequence[object]] = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(one).replace("|", "\\|").replace("\n", " ") for one in line) + " |" for line in lines) + "\n"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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


def listed(numbers: Iterable[int]) -> dict[int, Paper]:
    """Return the papers' claims by number, and after them a study's own claims with these numbers."""
    return CLAIMS | {number: Paper("A claim of the study's own") for number in sorted(set(numbers) - CLAIMS.keys())}
