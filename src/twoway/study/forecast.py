"""`study --dry-run`: the jobs, how much each reads, and how long the study takes. Nothing is trained or written.

Jobs that differ only in their seed are one line. The time comes from finished jobs of the same kind in OUT, by their rows; else it is
forecast as for a recipe (`recipes.dry_run`), from the model's operations and the current speed of the machine.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.data.dataset import shared_tables
from twoway.recipes.dry_run import Forecast
from twoway.recipes.dry_run import forecast as forecast_step
from twoway.recipes.run import Step, duration

from .config import rows_read
from .grid import chosen_arms, first_choices, found_choices, needed, opened, paces

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from twoway.recipes.stages import StageKind

    from .grid import Grid, GridJob


@dataclass(frozen=True)
class JobForecast:
    """Jobs that differ only in their seed."""

    name: str
    source: str
    times: int
    done: int
    rows: int | None
    tokens: int | None
    seconds: float | None  # of each
    memory: int | None

    def cells(self) -> tuple[str, ...]:
        """Return them as a table shows them."""
        counts = ["-" if one is None else f"{one:,}" for one in (self.rows, self.tokens)]
        time = "-" if self.seconds is None else f"about {duration(self.seconds)}"
        memory = "-" if self.memory is None else f"about {self.memory / 2**30:,.1f} GB"
        return (self.name, self.source, str(self.times), str(self.done), *counts, time, memory)


@dataclass(frozen=True)
class StudyForecast:
    """A study, before it is done."""

    lines: tuple[JobForecast, ...]
    said: str
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def forecast_study(
    study: str | Path,
    out: str | Path,
    words: Sequence[str] = (),
    *,
    jobs: int = 1,
    claims: Collection[int] = (),
    kinds: Mapping[str, StageKind] | None = None,
) -> StudyForecast:
    """Forecast a study; the parameters are those of `run`. Arms count at the rate that is found, or at the first that is to be tried."""
    layout = opened(study, out, words, jobs=jobs, kinds=kinds)
    first = first_choices(layout.study)
    grid = layout.lay_out(first | found_choices(layout.study, layout.lay_out(first)))
    wanted = needed(grid, chosen_arms(layout.study, claims))
    steps = {key: _step(task) for key, task in grid.tasks.items()}
    pace_of = paces(grid, [key for key, step in steps.items() if step.action == "keep"])
    lines: list[JobForecast] = []
    notes: list[str] = []
    problems: list[str] = []
    total, unknown = 0.0, 0
    groups = _alike(grid, wanted)
    left = {name: [one for one in group if steps[one.key].action != "keep"] for name, group in groups.items()}
    forecasts = _forecasts(left, grid, steps)
    for name, group in groups.items():
        task, open_, found = group[0], len(left[name]), forecasts[name]
        pace = pace_of.get(task.job.kind.name)
        rows = rows_read(task.job.config) or (found.amount.rows if found.amount else None)
        seconds = found.seconds if pace is None else pace * (rows or 1)
        total += (seconds or 0.0) * open_
        unknown += open_ if seconds is None else 0
        tokens = found.amount.tokens if found.amount else None
        source = task.job.source if task.job.base is None else "base"
        lines.append(JobForecast(name, source, len(group), len(group) - open_, rows, tokens, seconds, found.memory))
        notes += [note for note in found.notes if "not estimated" not in note]
        problems += found.problems
    done = sum(line.done for line in lines)
    some = f", and {unknown} jobs of which no time is known before one is done" if unknown else ""
    said = f"{len(wanted)} jobs, {done} done; about {duration(total)} of one thread{some}; with {jobs} at a time {duration(total / jobs)}"
    return StudyForecast(tuple(lines), said, tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(problems)))


def _step(task: GridJob) -> Step:
    standing = task.stand.standing
    return Step(task.job, task.folder, task.base, "keep" if standing == "done" else "go on" if standing == "begun" else "do")


def _alike(grid: Grid, wanted: Collection[str]) -> dict[str, list[GridJob]]:
    """Return the tasks that are wanted, in groups that differ only in their seed, by name."""
    trials = {key for tried in grid.trials.values() for key in tried.values()}
    groups: dict[str, list[GridJob]] = {}
    for key, task in grid.tasks.items():
        if key not in wanted:
            continue
        groups.setdefault(f"{task.job.name}: rates" if key in trials else task.job.name, []).append(task)
    return groups


def _forecasts(left: Mapping[str, Sequence[GridJob]], grid: Grid, steps: Mapping[str, Step]) -> dict[str, Forecast]:
    """Forecast one job of each remaining group; they share one scan of the data."""
    with shared_tables():
        return {name: _of(group[0], grid, steps) if group else Forecast(name, "done") for name, group in left.items()}


def _of(task: GridJob, grid: Grid, steps: Mapping[str, Step]) -> Forecast:
    """Forecast one job among those that it needs."""
    chain, open_ends = [], [(task, task.job.name)]
    while open_ends:
        one, name = open_ends.pop()
        # A job that two stages share bears one name; who needs it may know it by the other.
        chain.append(replace(steps[one.key], job=replace(one.job, name=name)))
        called = {Path(one.base): one.job.source} | {folder: made for made, (_, folder) in one.makers.items()}
        open_ends += [(grid.tasks[key], called[grid.tasks[key].folder]) for key in one.needs]
    return forecast_step(chain[0], chain, 1)
