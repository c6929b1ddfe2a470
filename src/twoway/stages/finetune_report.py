"""`report.html` of a fine-tuning: curves by task, and what queries find, as pictures and words."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from twoway.data.policy import BAD_ROWS
from twoway.training.report_chart import Line, chart
from twoway.training.report_curves import line
from twoway.training.report_page import grid, section, table, tiles
from twoway.training.report_parts import end, entries_of, numbers, write_page

from .report_cases import STYLE, Cell
from .report_cases import cases as in_cards

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .retrieval_probe import Case, Retrieval

_LINES = 4
_NUMBERS = (("accuracy", "{:.1%}", "of a batch's queries find theirs first"), ("contrastive", "{:.3f}", "loss, nats"))


@dataclass(frozen=True)
class Shown:
    """What a report shows beside the log: the tasks of an epoch, and what was retrieved at this moment."""

    total: int
    tasks: Sequence[dict[str, Any]] = ()
    found: Sequence[Retrieval] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    bad_rows: str = BAD_ROWS


def write_report(out: Path, shown: Shown, latest: dict[str, Any] | None) -> None:
    """Write the report of the run in `out`; `latest` is an entry that is not in its log yet."""
    log = entries_of(out, latest)
    write_page(out, "Fine-tuning", shown.total, log, [STYLE, *_body(out, log, shown)])


def _body(out: Path, log: list[dict[str, Any]], shown: Shown) -> list[str]:
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
            grid([_retrieval(log, name, [one for one in shown.found if one.measured.name == name]) for name in names]),
            grid([one for name in names for one in _by_task(log, f"mrr/{name}", f"MRR by task · {name}")]),
            table(("set", "task", "queries", "of all", "answers", "chance", "MRR", "first", "in ten"), [_row(one) for one in shown.found]),
        ),
        section(
            "Training",
            "The share of queries whose positive comes first in the batch; similarities are cosines; faint lines are logged steps.",
            grid(
                [
                    _chart(log, "contrastive", "loss", "nats", smooth=True),
                    _chart(log, "accuracy", "in-batch accuracy", "share", smooth=True),
                    chart("Similarity", "cosine", [line(log, "positive", "positives"), line(log, "hardest", "hardest negatives")]),
                    _chart(log, "temperature", "temperature", ""),
                    _chart(log, "gradient", "norm of the gradient", "", smooth=True),
                    *_by_task(log, "accuracy", "In-batch accuracy by task"),
                ]
            ),
        ),
        section(
            "What queries find",
            "A query, the three answers nearest to it, and what was right (framed).",
            in_cards([_cells(case) for case in cases[:24]]),
        ),
        section("Hardest mistakes", "Right answers furthest down the list.", in_cards([_cells(case) for case in worst[:8]])),
        section("Speed", "Over the steps since the entry before.", grid([_chart(log, "rows_per_second", "rows", "a second", smooth=True)])),
        section(
            "Tasks",
            "Rows, rows of a batch, batches of an epoch, and how often an epoch goes through each.",
            table(("task", "rows", "batch", "batches", "repeats"), [list(one.values()) for one in shown.tasks]),
        ),
        *end(out, shown.versions, shown.bad_rows),
    ]


def _numbers(log: Sequence[dict[str, Any]], sets: Sequence[str]) -> list[tuple[str, str]]:
    """Return the large numbers at the top: before, and now."""
    found = []
    for name in sets:
        values = [entry[f"mrr/{name}"] for entry in log if f"mrr/{name}" in entry]
        found.append((f"{values[-1]:.3f}", f"MRR on {name}; {values[0]:.3f} before"))
    return found + numbers(log, _NUMBERS)


def _chart(log: Sequence[dict[str, Any]], key: str, title: str, unit: str, *, smooth: bool = False) -> str:
    return chart(title[:1].upper() + title[1:], unit, [line(log, key, title, smooth=smooth)])


def _retrieval(log: Sequence[dict[str, Any]], name: str, found: Sequence[Retrieval]) -> str:
    """Return the chart of a set's MRR over the steps, beside what a random ranking scores."""
    measured = line(log, f"mrr/{name}", name)
    luck = fmean(one.chance() for one in found)
    return chart(
        f"Mean over the tasks of {name}", "MRR", [measured, Line("chance", [(step, luck) for step, _ in measured.points], dashed=True)]
    )


def _by_task(log: Sequence[dict[str, Any]], kind: str, title: str) -> list[str]:
    """Return charts of a few tasks each: more lines than colours cannot be told apart."""
    keys = list(dict.fromkeys(key for entry in log for key in entry if key.startswith(f"{kind}/")))
    charts = []
    for start in range(0, len(keys), _LINES):
        charts.append(chart(title, "", [line(log, key, key.removeprefix(f"{kind}/")) for key in keys[start : start + _LINES]]))
    return charts


def _row(one: Retrieval) -> list[object]:
    numbers = list(one.numbers().values())
    return [one.measured.name, one.measured.task, len(one.ranks), one.measured.total, one.candidates, one.chance(), *numbers]


def _cells(case: Case) -> list[Cell]:
    cells = [Cell(f"query · {case.task}", case.query)]
    cells += [Cell(f"{number}. {score:.3f}", document, right) for number, (score, document, right) in enumerate(case.found, 1)]
    if not any(right for _, _, right in case.found):
        cells.append(Cell(f"right, at {case.rank}. {case.right[0]:.3f}", case.right[1], right=True))
    return cells
