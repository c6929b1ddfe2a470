"""`run`: the stages of a recipe one after the other, each once (the rule stands in `steps`).

A stage that fails, or is stopped, leaves those before it as they are, and the error names the command that goes on.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.embedding.shards import alone
from twoway.errors import TwowayError, UsageError
from twoway.files import sha256
from twoway.training.stop import Stopped

from .made_rows import located
from .records import Record, read_record, set_aside
from .run_report import duration, write_summary
from .steps import DOES, lay_out, rows_in
from .surroundings import surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .fingerprint import Job
    from .kinds import Kind
    from .steps import Step


@dataclass(frozen=True)
class Asked:
    """A command, and the one that goes on after it."""

    recipe: str
    out: str
    words: tuple[str, ...]
    start: str | None
    only: str | None
    redo: bool
    nproc: int

    def command(self, failed: str | None = None) -> str:
        """Return the command; after a failure of a stage where all was done again, from that stage on."""
        start = failed if failed and self.redo and self.start else self.start
        options = [("--from", start), ("--only", self.only), ("--nproc", str(self.nproc) if self.nproc > 1 else None)]
        said = [word for name, value in options if value for word in (name, value)] + ["--redo"] * self.redo
        return shlex.join(["twoway", "run", self.recipe, self.out, *self.words, *said])


@dataclass(frozen=True)
class RunResult:
    """What a run did."""

    out: str
    stages: tuple[dict[str, Any], ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"out": self.out, "stages": list(self.stages)}


def run(
    recipe: str | Path,
    out: str | Path,
    words: Sequence[str] = (),
    *,
    start: str | None = None,
    only: str | None = None,
    redo: bool = False,
    nproc: int = 1,
    kinds: Mapping[str, Kind] | None = None,
) -> RunResult:
    """Do the stages of a recipe (a YAML file, with `key=value` words over it) in the folder `out`; the same call goes on."""
    read, steps = lay_out(recipe, out, words, start=start, only=only, redo=redo, nproc=nproc, kinds=kinds)
    out = Path(out)
    asked = Asked(str(recipe), str(out), tuple(words), start, only, redo, nproc)
    missing = [f"{step.job.name}: {problem}" for step in steps if step.action in DOES for problem in step.job.problems]
    if missing:
        raise TwowayError(f"{missing[0]}" + (f" (and {len(missing) - 1} more like it: --dry-run lists all)" if len(missing) > 1 else ""))
    with alone(out), _stopping() as look:
        write_summary(read, steps, out, asked.command(), nproc)
        for number, step in enumerate(steps, 1):
            _say(f"[{number}/{len(steps)}] {step.job.name}: {step.said}")
            if step.action not in DOES:
                continue
            try:
                record = _do(step, steps, nproc)
            except TwowayError as error:
                write_summary(read, steps, out, asked.command(), nproc)
                if isinstance(error, Stopped):
                    raise
                kind = UsageError if isinstance(error, UsageError) else TwowayError
                raise kind(f"stage {step.job.name}: {error}; {_left(steps, number)}{asked.command(step.job.name)}") from error
            except Exception as error:
                error.add_note(f"stage {step.job.name} failed; {_left(steps, number)}{asked.command(step.job.name)}")
                raise
            finally:
                gc.collect()
            _say(f"[{number}/{len(steps)}] {step.job.name}: done in {duration(record.seconds)}")
            write_summary(read, steps, out, asked.command(), nproc)
            if number < len(steps):
                look(f"after {step.job.name}")
    return RunResult(str(out), tuple(_result(step) for step in steps))


def do(job: Job, base: str, folder: Path, *, nproc: int = 1) -> Record:
    """Do one job in its folder, or go on with it, and keep its record beside the folder."""
    before = read_record(folder)
    known = before if before is not None and before.fingerprint == job.fingerprint else None
    record = known or Record(job.kind.name, job.fingerprint, dict(job.parts))
    record = replace(record, state="begun", error=None, calls=record.calls + 1, surroundings=surroundings(nproc))
    record.write(folder)
    began = time.monotonic()
    try:
        figures = job.kind.run(base, folder, job.config, nproc)
    except BaseException as error:
        stopped = isinstance(error, Stopped | KeyboardInterrupt)
        said = str(error) if isinstance(error, TwowayError) else f"{type(error).__name__}: {error}"
        replace(record, state="begun" if stopped else "failed", seconds=_seconds(record, began), error=said).write(folder)
        raise
    made = folder / job.kind.marker
    if not made.exists():
        raise TwowayError(f"{job.kind.name} ended without {made}, which says that it is done")
    record = replace(record, state="done", seconds=_seconds(record, began), figures=dict(figures), made=sha256(made))
    record.write(folder)
    return record


def _do(step: Step, steps: Sequence[Step], nproc: int) -> Record:
    if step.action == "again":
        _say(f"  {step.folder} goes to {set_aside(step.folder)}, which may be deleted")
    return do(replace(step.job, config=located(step.job.config, rows_in(steps))), step.base, step.folder, nproc=nproc)


def _seconds(record: Record, began: float) -> float:
    return round(record.seconds + time.monotonic() - began, 2)


def _left(steps: Sequence[Step], number: int) -> str:
    """Say what stands after a failure."""
    done = [str(step.folder) for step in steps[: number - 1] if step.action != "leave"]
    return (f"{', '.join(done)} {'stands' if len(done) == 1 else 'stand'}; " if done else "") + "go on with: "


def _result(step: Step) -> dict[str, Any]:
    record = read_record(step.folder)
    about = {} if record is None else {key: value for key, value in asdict(record).items() if key in ("state", "seconds", "figures")}
    return {"name": step.job.name, "stage": step.job.kind.name, "folder": str(step.folder), "action": step.action, **about}


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _stopping() -> Iterator[Callable[[str], None]]:
    """End the run in order on SIGTERM. What this gives is to be called after each stage, and raises where a signal came meanwhile.

    A stage that trains listens itself, and one that is told in its last step has nothing left to stop. So signals are also seen as the
    system delivers them, whoever handles them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda _where: None
        return

    def handle(number: int, _frame: object) -> None:
        raise Stopped(number, "within a stage")

    def look(where: str) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in os.read(reading, 4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    raise Stopped(number, where)

    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    known, before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False), signal.signal(signal.SIGTERM, handle)
    try:
        yield look
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.set_wakeup_fd(known)
        os.close(reading)
        os.close(writing)
