"""What a study shows: `report.html` on one page, and the results as a text with a picture, for the docs.

Both are made from the study's folder alone, at any moment of the study: what is not there yet is listed as not run.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.files import write_whole
from twoway.stages.run_report import duration
from twoway.training.report_intervals import intervals, intervals_file
from twoway.training.report_page import folded, page, section, table, tiles
from twoway.training.report_parts import REPORT

from .claims import read_claims
from .evidence import Evidence
from .outcomes import read_outcomes
from .page_claim import arms_table, claim_block, row, word
from .page_map import crossed, dose_maps, unseen
from .papers import listed
from .text import MANY, METHOD, luck, results
from .verdict import NOT_RUN, WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .claims import Claim
    from .outcomes import Reading
    from .papers import Paper


def write(out: str | Path) -> list[Path]:
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
