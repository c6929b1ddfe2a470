"""How long the rest of a study takes, by what a row has taken so far in stages of the same kind."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from twoway.stages.records import read_record

from .reading import rows_read

if TYPE_CHECKING:
    from collections.abc import Collection

    from .grid import Grid, Task


def amount(task: Task) -> int:
    """Return the rows of a task; 1 where none are counted."""
    return rows_read(task.job.config) or 1


def paces(grid: Grid, done: Collection[str]) -> dict[str, float]:
    """Return the seconds of a row, by kind of stage, of what is done."""
    seconds: dict[str, float] = defaultdict(float)
    rows: dict[str, int] = defaultdict(int)
    for key in done:
        record = read_record(grid.tasks[key].folder) if key in grid.tasks else None
        if record is not None:
            kind = grid.tasks[key].job.kind.name
            seconds[kind] += record.seconds
            rows[kind] += amount(grid.tasks[key])
    return {kind: seconds[kind] / rows[kind] for kind in seconds}


def seconds_left(grid: Grid, done: Collection[str], jobs: int) -> float | None:
    """Say how long the rest takes with so many jobs at a time; None where a kind of stage has not been done yet."""
    known, total = paces(grid, done), 0.0
    for key, task in grid.tasks.items():
        if key in done:
            continue
        if task.job.kind.name not in known:
            return None
        begun = read_record(task.folder)
        total += max(known[task.job.kind.name] * amount(task) - (begun.seconds if begun else 0.0), 0.0)
    return total / jobs
