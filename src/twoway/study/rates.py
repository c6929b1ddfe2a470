"""The learning rate of an arm: short runs at several rates, measured on held-out rows of what the arm trains on; the best is kept.

What is scored in the end is not looked at, so no arm is chosen for luck on the test.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from twoway.errors import TwowayError
from twoway.stages.records import read_record

if TYPE_CHECKING:
    from .config import Study
    from .grid import Grid, Task

SCORE = "mrr/held-out"  # by which a rate is chosen: the mean over the tasks of the held-out training rows


def tried(grid: Grid) -> dict[str, dict[float, float | None]]:
    """Return the score of every rate that is tried, by arm; None where it is not known yet."""
    return {arm: {rate: _score(grid.tasks[key]) for rate, key in trials.items()} for arm, trials in grid.trials.items()}


def rates(study: Study, grid: Grid) -> dict[str, float]:
    """Return the rates that are found: of arms whose tries are all done, the best that holds; of equal ones the smallest."""
    found = {}
    for arm, scores in tried(grid).items():
        known = {rate: score for rate, score in scores.items() if score is not None}
        sound = {rate: score for rate, score in known.items() if math.isfinite(score)}
        if len(known) == len(scores) and sound:
            found[arm] = max(sorted(sound), key=lambda rate: sound[rate])
    for one in study.arms:
        if one.search is not None and one.search.like is not None:
            other = study.arm(one.search.like)
            rate = found.get(other.name, None if other.search else other.recipe.config.lr)
            if rate is not None:
                found[one.name] = rate
    return found


def first_rates(study: Study) -> dict[str, float]:
    """Return a rate for each arm whose rate is searched for: the first, until one is found."""
    found = {arm.name: arm.search.rates[0] for arm in study.arms if arm.search is not None and arm.search.rates}
    for arm in study.arms:
        if arm.search is not None and arm.search.like is not None:
            found[arm.name] = found.get(arm.search.like, study.arm(arm.search.like).recipe.config.lr)
    return found


def _score(task: Task) -> float | None:
    record = read_record(task.folder) if task.stand.standing == "done" else None
    if record is not None and SCORE not in record.figures:
        why = "where no task has twenty rows for each that is held out, there are none; give the arm a number for lr, or more data"
        raise TwowayError(f"{task.folder} has measured no {SCORE}, by which a rate is chosen: {why}")
    return None if record is None else float(record.figures[SCORE])
