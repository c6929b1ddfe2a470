"""The page of an evaluation, and the picture of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.errors import UsageError
from twoway.evaluation.compare import MEAN
from twoway.evaluation.runner import TaskResult
from twoway.files import write_whole

from .charts import Row, intervals, intervals_file
from .page import STYLE, Cell, badge, cases, page, section, table, tiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twoway.evaluation.compare import Difference
    from twoway.evaluation.runner import Result


# The page of an evaluation: scores beside what chance gives, and, task by task, queries whose first answer is wrong.
#
# What is shown of a task's misses is drawn at random from all of them, so that they are usual ones and not the
# oddest.

_MISSES, _FOUND = 4, 3
_OFFICIAL = ("official",)
_ALSO = ("recall@1", "recall@10", "mrr", "ndcg@10")
_AT_CHANCE = "A score that random rankings of the same items reach is at chance: it says nothing for the model."


def write_report(path: str | Path, found: dict[str, Any], results: Sequence[Result]) -> None:
    """Write the page of what `evaluate` found."""
    settings = ", ".join(f"{key} {value}" for key, value in found["settings"].items() if value is not None)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page(f"{found['suite']} · {found['model']}", settings, [STYLE, *_body(found, results)]))


def _body(found: dict[str, Any], results: Sequence[Result]) -> list[str]:
    tasks, ranked = found["tasks"], [one for one in results if isinstance(one, TaskResult)]
    low = [name for name, one in tasks.items() if one["at_chance"]]
    asked = sum(one["n"] or 0 for one in tasks.values())
    official = "official_mean" in found
    numbers = [(f"{found['mean']:.3f}", f"mean over {len(tasks)} tasks"), (str(len(low)), "tasks at chance"), (f"{asked:,}", "items")]
    if official:
        numbers[1:1] = [(f"{found['official_mean']:.3f}", "the same, as MMEB's released code counts")]
    groups = [[name, one["tasks"], float(one["score"]), *_official(one)] for name, one in found["groups"].items()]
    said = f"The grey ground is where 95% of random rankings score. {_AT_CHANCE}"
    return [
        tiles(numbers),
        section("Scores", said, intervals("Score and 95% interval", "from 0 to 1", _score_rows(found), signed=False)),
        section(
            "Tasks", " ".join([f"Red is at chance: {', '.join(low)}." if low else "No task is at chance.", *_said(tasks)]), _tasks(found)
        ),
        section("Groups", "Means over tasks, each counting the same.", table(("group", "tasks", "mean", *_OFFICIAL[:official]), groups)),
        *(_misses(one) for one in ranked),
    ]


def _score_rows(found: dict[str, Any]) -> list[Row]:
    """Return a line for each task that has an interval."""
    made = []
    for name, one in found["tasks"].items():
        if one["ci95"] is not None:
            low, high = one["ci95"]
            luck = one.get("chance95")
            band = (luck[0], luck[1]) if luck else None
            made.append(Row(name, one["score"], low, high, "bad" if one["at_chance"] else "c0", band=band))
    return made


def _tasks(found: dict[str, Any]) -> str:
    beside = found.get("baselines", {})
    rows: list[list[object]] = []
    for name, one in found["tasks"].items():
        official = [f"{score:.3f}" for score in _official(one)]
        score = badge(f"{one['score']:.3f} at chance", "no") if one["at_chance"] else f"{one['score']:.3f}"
        between = "" if one["ci95"] is None else "{:.3f} to {:.3f}".format(*one["ci95"])
        also = {one["metric"]: one["score"], **(one.get("also") or {})}
        others = [_number(also.get(metric)) for metric in _ALSO] + [_number(scores.get(name)) for scores in beside.values()]
        counts = [_count(one[key]) for key in ("n", "tied", "left_out")]
        rows.append(
            [
                name,
                ", ".join((one["group"], *one["marks"])),
                one["metric"],
                score,
                *official,
                between,
                _number(one["chance"]),
                *others,
                *counts,
            ]
        )
    scores = ("strict", *_OFFICIAL) if "official_mean" in found else ("score",)
    head = ("task", "group", "metric", *scores, "95%", "chance", *_ALSO, *beside, "items", "tied", "left out")
    return table(head, rows)


def _official(one: dict[str, Any]) -> list[float]:
    """Return the official score of a task or group, where it has one."""
    return [float(one["official"])] if "official" in one else []


def _said(tasks: dict[str, Any]) -> list[str]:
    """Say how the two scores differ, and which rows have their right candidate twice."""
    if not any("official" in one for one in tasks.values()):
        return []
    twice = [f"{name} ({', '.join(one['doubled'])})" for name, one in tasks.items() if one.get("doubled")]
    said = "In the strict score a tie is no hit; in the official one, as in MMEB's released code, it is."
    return [said, *([f"The right candidate comes twice, and counts once, in: {', '.join(twice)}."] if twice else [])]


def _misses(result: TaskResult) -> str:
    """Return a few queries of a task whose first answer is wrong."""
    missed = [number for number, one in enumerate(result.outcomes) if one.places[0] > 1]
    if not missed:
        return section(f"Misses · {result.name}", "None: the right answer always comes first.", " ")
    draw = np.random.default_rng([0, *result.name.encode()])
    chosen = sorted(draw.permutation(missed)[:_MISSES].tolist())
    said = f"{len(missed):,} of {len(result.outcomes):,} queries; {len(chosen)} drawn at random. Right answers are framed."
    return section(f"Misses · {result.name}", said, cases([_case(result, number) for number in chosen]))


def _case(result: TaskResult, number: int) -> list[Cell]:
    outcome, item = result.outcomes[number], result.task.items[result.asked[number]]
    right = {int(one) for one in item.right}
    shown = outcome.found[:_FOUND]
    cells = [Cell("query", item.query)]
    cells += [Cell(f"found {place}", result.task.candidates[one], right=one in right) for place, one in enumerate(shown, 1)]
    if not right & set(shown):
        place = f"right, at {outcome.places[0]:,} of {outcome.size:,}" + (f"; one of {len(right)}" if len(right) > 1 else "")
        cells.append(Cell(place, result.task.candidates[int(item.right[0])], right=True))
    return cells


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


# Paired differences as a picture: an SVG file, or a page with one for each comparison.

KINDS = (".svg", ".html")
_SAID = "Later minus first on the items that both have, with 95% intervals by a paired bootstrap; where zero is left out, it is coloured."


def check_picture(path: str | Path) -> None:
    """Refuse a kind of file that is not drawn, before any work."""
    if Path(path).suffix not in KINDS:
        raise UsageError(f"{path}: a picture is a file that ends in {' or '.join(KINDS)}")


def write_picture(path: str | Path, first: str, found: Mapping[str, Sequence[Difference]]) -> None:
    """Draw what `compare` found of each other results file against the first."""
    path = Path(path)
    check_picture(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == KINDS[0]:
        # One file is one drawing: rows say which file they are of.
        rows = [row for other, lines in found.items() for row in _difference_rows(lines, f" ({other})" if len(found) > 1 else "")]
        write_whole(path, intervals_file(f"{', '.join(found)} against {first}", rows))
        return
    body = [intervals(f"{other} against {first}", "difference", _difference_rows(lines)) for other, lines in found.items()]
    write_whole(path, page(f"Against {first}", _SAID, body))


def _difference_rows(lines: Sequence[Difference], behind: str = "") -> list[Row]:
    """Return the mean first, then tasks."""
    ordered = sorted(lines, key=lambda line: line.what != MEAN)
    return [
        Row(
            f"{line.what}{behind}",
            line.second - line.first,
            line.low,
            line.high,
            ("good" if line.second > line.first else "bad") if line.sure else "c0",
            strong=line.what == MEAN,
        )
        for line in ordered
    ]
