"""The page of an evaluation, and the picture of a comparison.

The page shows scores beside what chance gives, and, task by task, queries whose first answer is wrong. Those are drawn at random from all
of a task's misses, so that they are usual ones and not the oddest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.errors import UsageError
from twoway.evaluation.compare import MEAN
from twoway.evaluation.runner import TaskResult
from twoway.files import write_whole

from .charts import IntervalRow, interval_chart, interval_file
from .page import Badge, CaseDocument, write_page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twoway.evaluation.compare import Difference
    from twoway.evaluation.runner import Result

_MISSES, _FOUND = 4, 3
_OTHER_METRICS = ("recall@1", "recall@10", "mrr", "ndcg@10")


def write_evaluation_report(path: str | Path, found: dict[str, Any], results: Sequence[Result]) -> None:
    """Write the page of what `evaluate` found."""
    tasks, baselines = found["tasks"], found.get("baselines", {})
    write_page(
        Path(path),
        "reports/templates/evaluation.html",
        f"{found['suite']} · {found['model']}",
        ", ".join(f"{key} {value}" for key, value in found["settings"].items() if value is not None),
        found=found,
        official="official_mean" in found,
        at_chance=[name for name, task in tasks.items() if task["at_chance"]],
        items=sum(task["n"] or 0 for task in tasks.values()),
        doubled=[f"{name} ({', '.join(task['doubled'])})" for name, task in tasks.items() if task.get("doubled")],
        chart=interval_chart("Score and 95% interval", "from 0 to 1", _score_rows(tasks), signed=False),
        metrics=_OTHER_METRICS,
        baselines=list(baselines),
        rows=[_task_row(name, task, [scores.get(name) for scores in baselines.values()]) for name, task in tasks.items()],
        groups=[[name, group["tasks"], float(group["score"]), *_official(group)] for name, group in found["groups"].items()],
        misses=[_misses(result) for result in results if isinstance(result, TaskResult)],
    )


def _score_rows(tasks: dict[str, Any]) -> list[IntervalRow]:
    """Return a row for each task that has an interval; the band behind it is where random rankings score."""
    rows = []
    for name, task in tasks.items():
        if task["ci95"] is not None:
            low, high = task["ci95"]
            rows.append(IntervalRow(name, task["score"], low, high, "bad" if task["at_chance"] else "c0", band=task.get("chance95")))
    return rows


def _task_row(name: str, task: dict[str, Any], baselines: Sequence[float | None]) -> list[object]:
    also = {task["metric"]: task["score"], **(task.get("also") or {})}
    return [
        name,
        ", ".join((task["group"], *task["marks"])),
        task["metric"],
        Badge(f"{task['score']:.3f} at chance", "no") if task["at_chance"] else f"{task['score']:.3f}",
        *(f"{score:.3f}" for score in _official(task)),
        "" if task["ci95"] is None else "{:.3f} to {:.3f}".format(*task["ci95"]),
        *("" if score is None else f"{score:.3f}" for score in (task["chance"], *map(also.get, _OTHER_METRICS), *baselines)),
        *("" if task[key] is None else f"{task[key]:,}" for key in ("n", "tied", "left_out")),
    ]


def _official(scored: dict[str, Any]) -> list[float]:
    """Return the official score of a task or group, where it has one."""
    return [float(scored["official"])] if "official" in scored else []


def _misses(result: TaskResult) -> dict[str, Any]:
    """Return a few queries of a task whose first answer is wrong."""
    missed = [number for number, outcome in enumerate(result.outcomes) if outcome.places[0] > 1]
    draw = np.random.default_rng([0, *result.name.encode()])
    chosen = sorted(draw.permutation(missed)[:_MISSES].tolist())
    cases = [_case(result, number) for number in chosen]
    return {"task": result.name, "count": len(missed), "of": len(result.outcomes), "cases": cases}


def _case(result: TaskResult, number: int) -> list[CaseDocument]:
    outcome, item = result.outcomes[number], result.task.items[result.asked[number]]
    candidates, right, found = result.task.candidates, set(map(int, item.right)), outcome.found[:_FOUND]
    documents = [CaseDocument("query", item.query)]
    documents += [CaseDocument(f"found {place}", candidates[one], right=one in right) for place, one in enumerate(found, 1)]
    if not right & set(found):
        at = f"at {outcome.places[0]:,} of {outcome.size:,}"
        title = f"right, one of {len(right)}; the first of them is {at}" if len(right) > 1 else f"right, {at}"
        documents.append(CaseDocument(title, candidates[int(item.right[0])], right=True))
    return documents


# Paired differences as a picture: an SVG file, or a page with one for each comparison.

_KINDS = (".svg", ".html")


def check_picture(path: str | Path) -> None:
    """Refuse a kind of file that is not drawn, before any work."""
    if Path(path).suffix not in _KINDS:
        raise UsageError(f"{path}: a picture is a file that ends in {' or '.join(_KINDS)}")


def write_picture(path: str | Path, first: str, found: Mapping[str, Sequence[Difference]]) -> None:
    """Draw what `compare` found of each other results file against the first."""
    path = Path(path)
    check_picture(path)
    if path.suffix == ".html":
        charts = [interval_chart(f"{other} against {first}", "difference", _difference_rows(lines)) for other, lines in found.items()]
        write_page(path, "reports/templates/compare.html", f"Against {first}", charts=charts)
        return
    # One file is one drawing: rows say which file they are of.
    rows = [row for other, lines in found.items() for row in _difference_rows(lines, f" ({other})" if len(found) > 1 else "")]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, interval_file(f"{', '.join(found)} against {first}", rows))


def _difference_rows(lines: Sequence[Difference], suffix: str = "") -> list[IntervalRow]:
    """Return the mean first, then tasks."""
    rows = []
    for line in sorted(lines, key=lambda line: line.what != MEAN):
        colour = "c0" if not line.sure else "good" if line.second > line.first else "bad"
        value = line.second - line.first
        rows.append(IntervalRow(f"{line.what}{suffix}", value, line.low, line.high, colour, strong=line.what == MEAN))
    return rows
