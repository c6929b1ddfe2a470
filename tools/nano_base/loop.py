"""Training: one loop, resumable at any saved step, with its curve in a file beside the state.

Nothing random outlives a step: the rows are a function of (seed, step), dropout is not used. So weights, optimiser and the step are the
whole state, and a run that was killed and started again ends with the same weights as one that was not.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

import torch

from twoway.errors import UsageError
from twoway.files import write_whole

from .checkpoint import BEFORE_DECAY, NAME, load_state, save_state, saved_step
from .fast import token_losses
from .gate import measure
from .optimiser import MuonAndAdamW, rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .batches import Batch, Rows
    from .config import NanoConfig
    from .library import Forward

logger = logging.getLogger(__name__)
SAVE_SECONDS = 150.0
LOG_STEPS = 50
PROBES = 12
PROBE_ROWS = 64


def train_step(forward: Forward, batch: Batch, optimiser: MuonAndAdamW, config: NanoConfig, step: int) -> float:
    """Make one optimiser step and return its loss."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=forward.dtype == "bfloat16"):
        losses = token_losses(forward.model, forward.hidden(batch), batch)
    loss = (losses * batch.weights).sum() / batch.weights.sum()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(forward.model.parameters(), config.clip)
    optimiser.step(rate(step, config))
    return float(loss.detach())


def train(
    forward: Forward,
    rows: Rows,
    config: NanoConfig,
    folder: Path,
    *,
    stop: int | None = None,
    seen: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Train to the end of the plan (or to step `stop`), going on from what `folder` holds."""
    model = forward.model
    optimiser = MuonAndAdamW(model, config)
    every = max(1, config.steps // PROBES)

    def note(entry: dict[str, Any]) -> None:
        if is_probed(entry["step"]):
            model.eval()
            entry |= measure(forward, rows, samples=PROBE_ROWS, label="probe")
            model.train()
        _note(folder, entry)
        if seen:
            seen(entry)

    def is_probed(step: int) -> bool:
        return step % every == 0 or step == config.steps

    def make_step(step: int) -> float:
        return train_step(forward, rows.batch(step), optimiser, config, step)

    for step in run_steps(model, optimiser, config, folder, make_step, note, stop=stop, noted=is_probed):
        if step == config.decay_start:
            save_state(folder, model, optimiser, step, BEFORE_DECAY)


def run_steps(
    model: Any,
    optimiser: MuonAndAdamW,
    config: NanoConfig,
    folder: Path,
    make_step: Callable[[int], float],
    note: Callable[[dict[str, Any]], None],
    *,
    name: str = NAME,
    stop: int | None = None,
    noted: Callable[[int], bool] = lambda step: False,
) -> Iterator[int]:
    """Make the steps of a stage, going on from its file `name`, and yield how many are made; the state is saved now and then.

    `note` is given the mean loss since its last call, every `LOG_STEPS` steps, at the end, and after each step that is `noted`.
    """
    step = first = load_state(folder, model, optimiser, name)
    if step:
        logger.info("going on from step %d of %d", step, config.steps)
    model.train()
    last = min(config.steps, stop or config.steps)
    started = saved = time.monotonic()
    window: list[float] = []
    while step < last:
        window.append(make_step(step))
        step += 1
        now = time.monotonic()
        if step % LOG_STEPS == 0 or noted(step) or step == last:
            speed = (step - first) * config.batch / max(now - started, 1e-9)
            entry: dict[str, Any] = {"step": step, "rows": step * config.batch, "loss": round(sum(window) / len(window), 4)}
            entry |= {"rows_per_second": round(speed, 1), "minutes_left": round((config.steps - step) * config.batch / speed / 60, 1)}
            window = []
            note(entry)
        yield step
        if now - saved > SAVE_SECONDS or step == last:
            save_state(folder, model, optimiser, step, name)
            saved = now


def change_length(folder: Path, before: NanoConfig, now: NanoConfig) -> None:
    """Make a run longer or shorter: one whose rate fell already is brought back to where that began."""
    reached = saved_step(folder)
    constant = min(reached, before.decay_start)
    if now.decay_start < constant:
        least = constant * now.batch + now.decay_rows
        raise UsageError(f"{folder} stands at row {constant * now.batch:,}, before its rate falls; ask for --rows {least} or more")
    if reached == constant:
        return
    if not (folder / BEFORE_DECAY).is_file():
        raise UsageError(f"{folder} has no {BEFORE_DECAY}, the state before its rate fell: its length cannot be changed")
    begin_before_fall(folder, folder, constant)


def begin_before_fall(run: Path, folder: Path, step: int) -> None:
    """Let `folder` go on from the state that `run` had at `step`, before its rate fell, with the curve up to there."""
    kept = [entry for entry in read_curve(run) if entry["step"] <= step]
    write_whole(folder / "curve.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept))
    write_whole(folder / NAME, (run / BEFORE_DECAY).read_bytes())


def _note(folder: Path, entry: dict[str, Any]) -> None:
    """Append one line to the curve; a line of a step that is done again after a kill simply comes twice."""
    with (folder / "curve.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """Return the curve, the later line where a step comes twice; a line cut short by a kill is left out."""
    entries: dict[int, dict[str, Any]] = {}
    path = folder / "curve.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            logger.warning("%s: a line cut short by an interrupted run is left out", path)
            continue
        entries[entry["step"]] = entry
    return [entries[step] for step in sorted(entries)]
