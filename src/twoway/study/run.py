"""`study`: all jobs of a study in dependency order, some at a time, each once; the same call goes on where an earlier one ended.

A job that fails takes along what needs it, and nothing else. Where a gate does not hold, nothing more is begun: what the arms would score
decides nothing. After each job the study's own page of facts is written anew (`summary`), so that a study which still runs can be read.
"""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from twoway.embedding.shards import alone
from twoway.errors import TwowayError
from twoway.stages.records import read_record, require_run_folder
from twoway.stages.run_report import duration
from twoway.training.checkpoint import FOLDER as CHECKPOINTS
from twoway.training.stop import Stopped

from . import gate, summary
from .chosen import chosen_arms, needed, opened
from .grid import LOGS
from .pace import seconds_left
from .rates import first_rates
from .rates import rates as found_rates
from .taken import take_over
from .workers import Workers, log_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from twoway.stages.kinds import Kind

    from .grid import Grid, Layout
    from .workers import Worker

State = Literal["running", "done", "in part", "failed", "stopped", "not decidable"]


@dataclass(frozen=True)
class StudyResult:
    """How a study ended."""

    out: str
    state: State
    why: str
    done: int
    failed: tuple[tuple[str, str, str], ...]  # what, why, and where its log is

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        failed = [{"job": job, "error": error, "log": log} for job, error, log in self.failed]
        return {"out": self.out, "state": self.state, "why": self.why, "done": self.done, "failed": failed}


def run(
    study: str | Path,
    out: str | Path,
    words: Sequence[str] = (),
    *,
    jobs: int = 1,
    claims: Collection[int] = (),
    kinds: Mapping[str, Kind] | None = None,
    seen: Callable[[Path], object] = lambda _out: None,
) -> StudyResult:
    """Do a study (a YAML file, with `key=value` words over it) in the folder `out`, `jobs` at a time; the same call goes on.

    With `claims`, only what claims of these numbers need. `seen(out)` is called whenever there is a new score, and at the end.
    """
    layout = opened(study, out, words, jobs=jobs, kinds=kinds)
    runner = _Runner(layout, tuple(claims), Workers(jobs, layout.out / LOGS), seen)
    require_run_folder(layout.out, summary.FILE)
    runner.require_possible()
    with alone(layout.out):
        return runner.run()


@dataclass
class _Runner:
    """The state of a study that is being done."""

    layout: Layout
    claims: tuple[int, ...]  # those that it is done for now; none: all of it
    workers: Workers
    seen: Callable[[Path], object]
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # key -> why
    verdict: gate.Verdict = field(default_factory=gate.Verdict)
    stopped: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Name what is looked at all the time."""
        self.study, self.out = self.layout.study, self.layout.out
        self.arms = chosen_arms(self.study, self.claims)

    def require_possible(self) -> None:
        """Refuse a study some of whose data or models are not there, as far as they are needed now."""
        grid = self.layout.lay_out({})
        wanted = needed(grid, self.arms)
        for problem in (problem for key, task in grid.tasks.items() if key in wanted for problem in task.job.problems):
            raise TwowayError(f"{self.study.file}: {problem}")

    def run(self) -> StudyResult:
        """Do what is left to do."""
        grid = self._look(self.layout.lay_out({}))
        self._write(grid, "running")
        said = len(self.done)
        _say(f"{self.study.name}: {len(grid.tasks)} jobs{' and what the rates decide' if grid.waiting else ''}, {said} of them done before")
        try:
            with self._listening():
                while True:
                    self._begin(grid)
                    if not self.workers.busy:
                        break
                    ended = self.workers.ended()
                    for worker, code in ended:
                        self._end(worker, code, grid)
                    grid = self._look(self.layout.lay_out(found_rates(self.study, grid)))
                    self._write(grid, "running")
                    if any(worker.task.job.kind.name == "evaluate" for worker, _ in ended) and not self.stopped:
                        self._show()
        finally:
            self.workers.kill()
        return self._result(grid)

    def _look(self, grid: Grid) -> Grid:
        """See what is done, take over results, and ask the gates; with rates that are known now there may be more to do."""
        while True:
            for key, task in grid.tasks.items():
                if key not in self.done and task.stand.standing == "done":
                    self.done.add(key)
                    # What a stage went through is not needed once it has ended, and is three times its model.
                    shutil.rmtree(task.folder / CHECKPOINTS, ignore_errors=True)
            rates = found_rates(self.study, grid)
            fuller = self.layout.lay_out(rates)
            if fuller.tasks.keys() == grid.tasks.keys():
                break
            grid = fuller
        for one in grid.runs:
            take_over(one, grid.tasks[one.evaluate], done=one.evaluate in self.done)
        self.verdict = gate.ask(self.study, grid, self.done)
        return grid

    def _begin(self, grid: Grid) -> None:
        """Start what can be started: the gate alone at first, nothing once a gate does not hold."""
        asked, wanted = grid.gate, needed(grid, self.arms)
        for key, task in grid.tasks.items():
            if key not in wanted:
                continue
            if not self.workers.free or self.stopped or self.verdict.passed is False:
                return
            open_ = key not in self.done and key not in self.failed and key not in self.workers.busy
            if open_ and all(one in self.done for one in task.needs) and (task is asked or asked.key in self.done):
                self.workers.start(task)
                how = "goes on" if task.stand.standing == "begun" else "begins"
                _say(f"[{len(self.done)}/{len(grid.tasks)}] {task.title} {how}")

    def _end(self, worker: Worker, code: int, grid: Grid) -> None:
        """Take note of how a job ended."""
        task = worker.task
        if task.stand.standing == "done":
            # Of arms whose rate is not known yet, as if it were the first.
            whole = self.layout.lay_out(first_rates(self.study) | found_rates(self.study, grid))
            unasked = whole.tasks.keys() - needed(whole, self.arms)
            left = seconds_left(whole, self.done | unasked | {task.key}, self.workers.count)
            more = f"; about {duration(left)} left" if left is not None else ""
            _say(f"[{len(self.done) + 1}/{len(grid.tasks)}] {task.title}: done in {duration(worker.seconds)}{more}")
        elif not self.stopped:
            record = read_record(task.folder)
            why = record.error if record is not None and record.error else f"it ended with code {code}"
            self.failed[task.key] = why
            _say(f"{task.title} FAILED: {why} ({worker.log})")

    def _write(self, grid: Grid, state: State) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        facts = summary.Facts(state, self.workers.count, self.verdict, self.failed, self.claims)
        summary.write(self.study, grid, self.out, facts)

    def _show(self) -> None:
        """Let it be seen; a page that cannot be made ends no job, and says why when it is asked for."""
        try:
            self.seen(self.out)
        except TwowayError as error:
            _say(f"no report: {error}")

    def _result(self, grid: Grid) -> StudyResult:
        left = grid.tasks.keys() - self.done
        missed = self.arms & set(grid.waiting) or left & needed(grid, self.arms)
        state: State = "failed" if missed else "in part" if left or grid.waiting else "done"
        why = ""
        if self.stopped:
            state = "stopped"
        elif self.verdict.passed is False:
            state, why = "not decidable", self.verdict.why
        self._write(grid, state)
        self._show()
        if self.stopped:
            raise Stopped(self.stopped[0], f"with {len(self.done)} of {len(grid.tasks)} jobs done")
        logs = self.out / LOGS
        failed = [(grid.tasks[key].title, said, str(log_of(logs, grid.tasks[key]))) for key, said in self.failed.items()]
        return StudyResult(str(self.out), state, why, len(self.done), tuple(failed))

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Pass SIGTERM and Ctrl-C on: jobs save and leave, and so does the study."""

        def handle(number: int, _frame: object) -> None:
            self.stopped.append(number)
            if len(self.stopped) == 1:
                _say("stopping: the jobs save what they have")
                self.workers.stop()
            elif len(self.stopped) > 2:
                self.workers.kill()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)


def _say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()
