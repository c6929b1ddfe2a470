"""Is a base at its plateau? A branch of its run with more rows at the same constant rate, then the same fall, says what they still gain."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from .base import train_base
from .checkpoint import saved_step
from .finish import SAMPLES, measure_as_saved
from .loop import begin_before_fall

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .config import NanoConfig

MORE = 0.25
BRANCH = "longer"


def train_longer(config: NanoConfig, samples: Path, run: Path, *, seen: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Go on from the state before the rate of `run` fell, with a quarter more rows; return their number and the gate of the result.

    The branch lies in a folder of its own inside the run, and goes on where it was stopped; the run itself stays as it is.
    """
    branch = run / BRANCH
    more = dataclasses.replace(config, rows=math.ceil(config.rows * (1 + MORE)))
    if not saved_step(branch):
        branch.mkdir(parents=True, exist_ok=True)
        begin_before_fall(run, branch, config.decay_start)

    def of_branch(entry: dict[str, Any]) -> None:
        if seen:
            seen(entry | {"stage": BRANCH, "steps": more.steps})

    nano = train_base(more, samples, branch, seen=of_branch)
    return {"rows": more.rows, "gate": measure_as_saved(nano, SAMPLES)}
