"""What a run says: one line a logged step in `log.jsonl`, a bar in a terminal or now and then a line, and a tracker where asked for.

Speed is measured over the steps since the last entry, memory is the most so far. A resumed run first takes away the lines of steps that it
is going to do again, so that every step is in the file once.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from twoway.errors import TwowayError, UsageError, with_extra
from twoway.files import write_whole

from .precision import peak_rate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .config import TrackerName

LOG = "log.jsonl"
QUIET_SECONDS = 10.0


class Meter:
    """Adds steps up into log entries."""

    def __init__(self, device: torch.device, dtype: str = "float32", ranks: int = 1) -> None:
        self.device, self.dtype, self.ranks = device, dtype, ranks
        self._start()

    def _start(self) -> None:
        self._sums: Counter[str] = Counter()
        self._began = time.monotonic()
        self._steps = 0

    def add(self, numbers: Mapping[str, float]) -> None:
        """Add one step's sums, over all ranks."""
        self._sums.update(numbers)
        self._steps += 1

    def entry(self, step: int, total: int, losses: Mapping[str, float]) -> dict[str, Any]:
        """Return what happened since the last entry; `losses` are the weights by name."""
        sums, seconds = self._sums, max(time.monotonic() - self._began, 1e-9)
        entry: dict[str, Any] = {"step": step, "dtype": self.dtype}
        means = {name: sums[f"sum {name}"] / count for name in losses if (count := sums[f"count {name}"])}
        entry["loss"] = sum(losses[name] * mean for name, mean in means.items())
        entry |= means | {f"{name}_targets": int(sums[f"count {name}"]) for name in losses}
        watched = [(name, sums[f"weight {name}"]) for key in sums if (name := key.removeprefix("measure ")) != key]
        entry |= {name: round(sums[f"measure {name}"] / weight, 6) for name, weight in watched if weight}
        entry |= {"rows": int(sums["rows"]), "tokens": int(sums["tokens"]), "rows_per_second": round(sums["rows"] / seconds, 2)}
        entry |= {"tokens_per_second": round(sums["tokens"] / seconds, 1), "memory_mb": round(peak_memory(self.device) / 2**20)}
        entry |= {"padding": round(sums["padding"] / max(sums["padding"] + sums["tokens"], 1), 4)}
        if sums["work"]:
            # What the average rank waits for the slowest, and how much of what the ranks could do was done.
            entry["imbalance"] = round(1 - sums["work"] / sums["longest"], 4)
            entry["peak_share"] = round(sums["work"] / seconds / (peak_rate(self.device, self.dtype) * self.ranks), 4)
        entry |= {"seconds_left": round((total - step) * seconds / max(self._steps, 1), 1)}
        self._start()
        return entry


def peak_memory(device: torch.device) -> int:
    """Return the most memory used so far, in bytes: of the accelerator, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class TrainingLog:
    """Writes entries to the file, the terminal and a tracker; of several ranks the first alone has one."""

    def __init__(self, out: Path, *, start: int, total: int, tracker: TrackerName = "none") -> None:
        self.path, self.total = out / LOG, total
        # What was measured before the first step is measured anew where nothing was saved.
        kept = [line for line in read_log(out) if line["step"] <= start] if start else []
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._tracker = open_tracker(tracker, out, start)
        self._spoke = 0.0
        self._bar = _bar() if sys.stderr.isatty() else None
        if self._bar is not None:
            self._task = self._bar.add_task("training", total=total, completed=start, said="")
            self._bar.start()

    def write(self, entry: dict[str, Any]) -> None:
        """Write one entry."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise TwowayError(f"{self.path} cannot be written ({error.strerror}); the last checkpoint stands") from error
        if self._tracker is not None:
            numbers = {name: value for name, value in entry.items() if isinstance(value, int | float) and name != "step"}
            self._tracker.write(entry["step"], numbers)
        if "rows_per_second" in entry:
            self._say(entry)

    def _say(self, entry: dict[str, Any]) -> None:
        said = format_entry(entry)
        if self._bar is not None:
            self._bar.update(self._task, completed=entry["step"], said=said)
        elif time.monotonic() - self._spoke > QUIET_SECONDS or entry["step"] == self.total:
            self._spoke = time.monotonic()
            left = f", {_duration(entry['seconds_left'])} left" if entry["step"] < self.total else ""
            sys.stderr.write(f"step {entry['step']:,} of {self.total:,}: {said}{left}\n")

    def close(self) -> None:
        """Leave the terminal in order."""
        if self._bar is not None:
            self._bar.stop()
        if self._tracker is not None:
            self._tracker.close()


def format_entry(entry: Mapping[str, Any]) -> str:
    """Say an entry in one line."""
    names = [name for key in entry if (name := key.removesuffix("_targets")) != key and name in entry]
    losses = ", ".join(f"{name} {entry[name]:.3f}" for name in names)
    speed = f"{entry['rows_per_second']:,.1f} rows/s, {entry['tokens_per_second']:,.0f} tokens/s"
    share = f", {entry['peak_share']:.0%} of peak" if "peak_share" in entry else ""
    return f"loss {entry['loss']:.3f} ({losses}), {speed}{share}, padding {entry['padding']:.0%}, {entry['memory_mb']:,} MB"


def read_log(out: Path) -> list[dict[str, Any]]:
    """Return the entries of a run's log."""
    return read_lines(out / LOG)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines, if it is there; a line cut short by a kill is left out."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{hours:.1f} h"


def _bar() -> Progress:
    columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[said]}"))
    return Progress(*columns, console=Console(stderr=True))


# Trackers: where a run's numbers go beside `log.jsonl`. TensorBoard is written into the run's folder; the others are
# those of accelerate.
#
# TensorBoard is opened here and not by accelerate, because a resumed run takes away the events of steps that it does
# again.


class Tracker(Protocol):
    """Takes numbers."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Note the numbers of a step."""

    def close(self) -> None:
        """Come to the end."""


def require_tracker(name: TrackerName) -> None:
    """Refuse a tracker whose package is not here, before any work."""
    if name == "tensorboard":
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise UsageError(f"report_to=tensorboard needs the package tensorboard; {with_extra('train')}") from error
    elif name != "none" and find_spec(name) is None:
        raise UsageError(f"report_to={name} needs the package {name}: pip install {name}")


def open_tracker(name: TrackerName, out: Path, start: int) -> Tracker | None:
    """Open a tracker for the run in `out`, which goes on after step `start`."""
    if name == "none":
        return None
    return _TensorBoard(out, start) if name == "tensorboard" else _Accelerates(name, out)


class _TensorBoard:
    def __init__(self, out: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Accelerates:
    """A tracker of accelerate; the folder of the run gives it its name."""

    def __init__(self, name: str, out: Path) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[name]
        where: dict[str, Any] = {"logging_dir": str(out)} if kind.requires_logging_directory else {}
        self._tracker = kind(out.resolve().name, **where)
        self._tracker.start()

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._tracker.log(dict(numbers), step=step)

    def close(self) -> None:
        self._tracker.finish()
