"""Scores where the report looks for them: copies under `results/ARM`, of what the jobs have written under `stages`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twoway.evaluation.results import items_path
from twoway.files import write_whole

if TYPE_CHECKING:
    from .grid import Run, Task


def take_over(run: Run, task: Task, *, done: bool) -> None:
    """Copy a run's scores; a copy of an earlier design of the study goes, and its original stays."""
    made = task.folder / task.job.kind.marker
    pairs = ((items_path(made), items_path(run.results)), (made, run.results))
    if not done:
        for _, target in pairs:
            target.unlink(missing_ok=True)
    elif not run.results.exists() or run.results.read_bytes() != made.read_bytes():
        run.results.parent.mkdir(parents=True, exist_ok=True)
        for source, target in pairs:
            if source.exists():
                write_whole(target, source.read_bytes())
