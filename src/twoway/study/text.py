"""Results of studies as a text for the docs: what holds at this size, beside the papers' own figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.stages.run_report import duration
from twoway.training.report_intervals import spelled

from .outcomes import BASE
from .page_claim import onset, score
from .papers import CLAIMS, listed
from .verdict import NOT_RUN, NOT_SEEN, UNDECIDED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .claims import Claim, Found
    from .evidence import Evidence

    Made = tuple[Evidence, Sequence[Claim], str]  # a study, its claims, and the name of its picture

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
    """Say whether the luck of the stages before the contrastive one is in the intervals."""
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
    parts.append(f"{said}{_gate(gate)}.\n")
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
    """Say whether the reason of a verdict is more than where its interval lies; what was not run has a list of its own."""
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


def _gate(gate: dict[str, Any]) -> str:
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
    """Return each comparison by kind of task; where all of its arms are at chance, a difference says nothing."""
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
