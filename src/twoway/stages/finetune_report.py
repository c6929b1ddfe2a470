"""`report.html` of a fine-tuning: curves by task, and what queries find, as pictures and words."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from twoway.content import ContentError, Text
from twoway.files import write_whole
from twoway.images import open_image
from twoway.training.checkpoint import read_run
from twoway.training.progress import read_log
from twoway.training.report_chart import Line, chart
from twoway.training.report_page import folded, grid, img, page, section, table, tiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twoway.content import Document

    from .retrieval_probe import Case, Retrieval

REPORT = "report.html"
_WORDS, _LINES, _BAD = 220, 4, 20
_STYLE = (
    "<style>.find{display:grid;grid-template-columns:repeat(5,1fr);gap:10px;font-size:13px}.find>div{overflow-wrap:anywhere}"
    ".find{align-items:start}.find img{max-width:120px;aspect-ratio:1;object-fit:contain}.list{display:grid;gap:12px;margin-top:16px}"
    ".find b{display:block;font-size:12px;color:var(--soft);font-weight:500}"
    ".hit{outline:2px solid var(--good);border-radius:6px;padding:4px}.miss{padding:4px}</style>"
)


@dataclass(frozen=True)
class Shown:
    """What a report shows beside the log: the tasks of an epoch, and what was retrieved at this moment."""

    total: int
    tasks: Sequence[dict[str, Any]] = ()
    found: Sequence[Retrieval] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    bad_rows: str = "bad-rows.jsonl"


def write_report(out: Path, shown: Shown, latest: dict[str, Any]) -> None:
    """Write the report of the run in `out`; `latest` is an entry that may not be in its log yet."""
    entries: dict[int, dict[str, Any]] = {}
    for entry in [*read_log(out), latest]:
        entries[entry["step"]] = entries.get(entry["step"], {}) | entry
    log, run = [entries[step] for step in sorted(entries)], read_run(out)
    under = f"step {latest['step']:,} of {shown.total:,}, from {run.get('base', 'a base')}"
    write_whole(out / REPORT, page(f"Fine-tuning · {out.resolve().name}", under, [_STYLE, *_body(out, log, run, shown)]))


def _body(out: Path, log: list[dict[str, Any]], run: dict[str, Any], shown: Shown) -> list[str]:
    config = out / "config.yaml"
    # Of sources of their own where there are some: held-out rows are of the sources that are trained on.
    of_last = [one for one in shown.found if one.measured.name == shown.found[-1].measured.name]
    cases = [case for one in of_last for case in one.cases if not case.worst]
    worst = sorted((case for one in of_last for case in one.cases if case.rank > 1), key=lambda case: -case.rank)
    names = list(dict.fromkeys(one.measured.name for one in shown.found))
    return [
        tiles(_numbers(log, names)),
        section(
            "Retrieval",
            "Mean reciprocal rank among the answers of a small set of each task; comparable between steps, not with benchmarks.",
            grid([_chart(log, f"mrr/{name}", f"mean over the tasks of {name}", "MRR") for name in names]),
            grid([one for name in names for one in _by_task(log, f"mrr/{name}", f"MRR by task · {name}")]),
            table(("set", "task", "queries", "of all", "answers", "MRR", "first", "in ten"), [_row(one) for one in shown.found]),
        ),
        section(
            "Training",
            "The share of queries whose positive comes first in the batch; similarities are cosines; faint lines are logged steps.",
            grid(
                [
                    _chart(log, "contrastive", "loss", "nats", smooth=True),
                    _chart(log, "accuracy", "in-batch accuracy", "share", smooth=True),
                    chart("Similarity", "cosine", [_line(log, "positive", "positives"), _line(log, "hardest", "hardest negatives")]),
                    _chart(log, "temperature", "temperature", ""),
                    _chart(log, "gradient", "norm of the gradient", "", smooth=True),
                    *_by_task(log, "accuracy", "In-batch accuracy by task"),
                ]
            ),
        ),
        section("What queries find", "A query, the three answers nearest to it, and what was right (framed).", _list(cases[:24])),
        section("Hardest mistakes", "Right answers furthest down the list.", _list(worst[:8])),
        section("Speed", "Over the steps since the entry before.", grid([_chart(log, "rows_per_second", "rows", "a second", smooth=True)])),
        section(
            "Tasks",
            "Rows, rows of a batch, batches of an epoch, and how often an epoch goes through each.",
            table(("task", "rows", "batch", "batches", "repeats"), [list(one.values()) for one in shown.tasks]),
        ),
        _bad(out / shown.bad_rows),
        section(
            "Provenance",
            "What made this run, and what it can be made again with.",
            table(("what", "value"), list(shown.versions.items())),
            folded("Settings", config.read_text(encoding="utf-8") if config.exists() else ""),
            folded("Run", json.dumps({key: value for key, value in run.items() if key != "config"}, indent=2, ensure_ascii=False)),
        ),
    ]


def _numbers(log: Sequence[dict[str, Any]], sets: Sequence[str]) -> list[tuple[str, str]]:
    """Return the large numbers at the top: before, and now."""
    found = []
    for name in sets:
        values = [entry[f"mrr/{name}"] for entry in log if f"mrr/{name}" in entry]
        found.append((f"{values[-1]:.3f}", f"MRR on {name}; {values[0]:.3f} before"))
    for name, form, about in (("accuracy", "{:.1%}", "of a batch's queries find theirs first"), ("contrastive", "{:.3f}", "loss, nats")):
        value = next((entry[name] for entry in reversed(log) if name in entry), None)
        if value is not None:
            found.append((form.format(value), about))
    return found


def _line(log: Sequence[dict[str, Any]], key: str, name: str, *, smooth: bool = False) -> Line:
    return Line(name, [(entry["step"], float(entry[key])) for entry in log if key in entry], smooth=smooth)


def _chart(log: Sequence[dict[str, Any]], key: str, title: str, unit: str, *, smooth: bool = False) -> str:
    return chart(title[:1].upper() + title[1:], unit, [_line(log, key, title, smooth=smooth)])


def _by_task(log: Sequence[dict[str, Any]], kind: str, title: str) -> list[str]:
    """Return charts of a few tasks each: more lines than colours cannot be told apart."""
    keys = list(dict.fromkeys(key for entry in log for key in entry if key.startswith(f"{kind}/")))
    charts = []
    for start in range(0, len(keys), _LINES):
        charts.append(chart(title, "", [_line(log, key, key.removeprefix(f"{kind}/")) for key in keys[start : start + _LINES]]))
    return charts


def _row(one: Retrieval) -> list[object]:
    numbers = list(one.numbers().values())
    return [one.measured.name, one.measured.task, len(one.ranks), one.measured.total, one.candidates, *numbers]


def _list(cases: Sequence[Case]) -> str:
    return f'<div class="list">{"".join(map(_case, cases))}</div>' if cases else ""


def _case(case: Case) -> str:
    cells = [_cell(f"query · {case.task}", case.query, False)]
    for number, (score, document, right) in enumerate(case.found, 1):
        cells.append(_cell(f"{number}. {score:.3f}", document, right))
    if not any(right for _, _, right in case.found):
        cells.append(_cell(f"right, at {case.rank}. {case.right[0]:.3f}", case.right[1], True))
    return f'<div class="card"><div class="find">{"".join(cells)}</div></div>'


def _cell(title: str, document: Document, right: bool) -> str:
    shown = []
    for part in document.parts:
        if isinstance(part, Text):
            text = part.text if len(part.text) <= _WORDS else part.text[:_WORDS].rstrip() + "…"
            shown.append(f"<div>{escape(text)}</div>")
        else:
            try:
                shown.append(img(open_image(part, place=document.place), "picture"))
            except ContentError:
                shown.append("<div>a picture that cannot be opened</div>")
    return f'<div class="{"hit" if right else "miss"}"><b>{escape(title)}</b>{"".join(shown)}</div>'


def _bad(path: Path) -> str:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    rows = [(line["file"], line["row"] if line["row"] is not None else "", line["reason"]) for line in lines[:_BAD]]
    many = f"{len(lines):,} rows could not be used and are left out; all are in {path.name}."
    return section("Bad rows", many, table(("file", "row", "why"), rows)) if lines else ""
