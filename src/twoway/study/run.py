"""`study`: all jobs of a study in dependency order, some in parallel, each once; the same call resumes.

If a job fails, only jobs that depend on it are skipped. If a gate fails, no further job starts, because the arms' scores would decide
nothing. After each job the study's summary is written again, so that a running study can be read.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import shutil
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Literal

import yaml

from twoway.config import defaults, plain_values
from twoway.embedding.shards import alone
from twoway.errors import TwowayError
from twoway.evaluation.runner import SEARCH_COSTS
from twoway.files import write_whole
from twoway.processes import Stopped
from twoway.recipes.records import read_record, require_run_folder, surroundings
from twoway.recipes.run import duration
from twoway.training.checkpointing import FOLDER as CHECKPOINTS

from . import grid as study_grid
from .config import rows_read
from .grid import LOGS, base_of, chosen_arms, first_choices, found_choices, needed, opened, seconds_left, take_over, tried

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path

    from twoway.recipes.records import Job, Record
    from twoway.recipes.stages import StageKind

    from .config import Choice, Study
    from .grid import Grid, GridBuilder, GridJob, Run

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


def run_grid(
    study: str | Path,
    out: str | Path,
    words: Sequence[str] = (),
    *,
    jobs: int = 1,
    claims: Collection[int] = (),
    kinds: Mapping[str, StageKind] | None = None,
    seen: Callable[[Path], object] = lambda _out: None,
) -> StudyResult:
    """Run a study (a YAML file, with `key=value` overrides) in the folder `out`, `jobs` at a time; the same call resumes.

    With `claims`, run only what these claims need. `seen(out)` is called for every new score, and at the end.
    """
    layout = opened(study, out, words, jobs=jobs, kinds=kinds)
    runner = _Runner(layout, tuple(claims), Workers(jobs, layout.out / LOGS), seen)
    require_run_folder(layout.out, SUMMARY_FILE)
    runner.require_possible()
    with alone(layout.out):
        return runner.run()


@dataclass
class _Runner:
    """The state of a study that is being done."""

    layout: GridBuilder
    claims: tuple[int, ...]  # those that it is done for now; none: all of it
    workers: Workers
    seen: Callable[[Path], object]
    done: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # key -> why
    verdict: study_grid.GateVerdict = field(default_factory=study_grid.GateVerdict)
    stopped: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Set the attributes that are read often."""
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
                    grid = self._look(self.layout.lay_out(found_choices(self.study, grid)))
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
            fuller = self.layout.lay_out(found_choices(self.study, grid))
            if fuller.tasks.keys() == grid.tasks.keys():
                break
            grid = fuller
        for one in grid.runs:
            take_over(one, grid.tasks[one.evaluate], done=one.evaluate in self.done)
        self.verdict = study_grid.ask_gate(self.study, grid, self.done)
        return grid

    def _begin(self, grid: Grid) -> None:
        """Start all jobs that can start: at first only the gate, and none once a gate has failed."""
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
            whole = self.layout.lay_out(first_choices(self.study) | found_choices(self.study, grid))
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
        facts = Facts(state, self.workers.count, self.verdict, self.failed, self.claims)
        write_study_summary(self.study, grid, self.out, facts)

    def _show(self) -> None:
        """Call `seen`; a page that cannot be made ends no job, and its error is shown when the page is requested."""
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


# Jobs in processes of one thread each: on two cores two of them do more than one of two threads.
#
# A process is forked from a server that has imported the libraries once, runs one job, and writes its output into the
# job's log. It ends when its parent ends, however that ends, so a restarted study never meets a worker of the old
# one.

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Worker:
    """A job that is being done."""

    task: GridJob
    process: ForkServerProcess
    log: Path
    began: float

    @property
    def seconds(self) -> float:
        """How long it has been at it."""
        return time.monotonic() - self.began


class Workers:
    """Some jobs at a time."""

    def __init__(self, count: int, logs: Path) -> None:
        self.count, self.logs = count, logs
        self.busy: dict[str, Worker] = {}
        self.stopping = False
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, "twoway.recipes.stages"])

    @property
    def free(self) -> bool:
        """Whether one more can be started."""
        return len(self.busy) < self.count

    def start(self, task: GridJob) -> None:
        """Begin a job."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = log_of(self.logs, task)
        process = self._context.Process(target=_work, args=(task.ready(), task.base, task.folder, log), name=task.title)
        with _one_thread():
            process.start()
        self.busy[task.key] = Worker(task, process, log, time.monotonic())
        if self.stopping:  # the signal came while it was being started
            process.terminate()

    def ended(self, timeout: float | None = None) -> list[tuple[Worker, int]]:
        """Wait until one or more have ended; return them with their exit codes."""
        wait([one.process.sentinel for one in self.busy.values()], timeout)
        done = []
        for key, one in list(self.busy.items()):
            if one.process.exitcode is not None:
                one.process.join()
                done.append((self.busy.pop(key), one.process.exitcode))
        return done

    def stop(self) -> None:
        """Ask all to save and leave."""
        self.stopping = True
        for one in self.busy.values():
            one.process.terminate()

    def kill(self) -> None:
        """End all at once."""
        for one in self.busy.values():
            one.process.kill()
            one.process.join()
        self.busy.clear()


def log_of(logs: Path, task: GridJob) -> Path:
    """Return where a job's output goes."""
    return logs / f"{task.folder.name}.log"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Give processes that start in here one thread; libraries read this once, when they are loaded."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ |= _ONE_THREAD
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(job: Job, base: str, folder: Path, log: Path) -> None:
    """Run one job; the exit code is its result."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with log.open("ab", buffering=0) as file:
        for output in (1, 2):
            os.dup2(file.fileno(), output)
    import torch

    from twoway.recipes.run import do

    torch.set_num_threads(1)
    try:
        do(job, base, folder)
    except Stopped as stopped:
        _leave(stopped.code, str(stopped))
    except TwowayError as error:
        _leave(1, str(error))
    except Exception:
        _leave(1, traceback.format_exc())


def _leave(code: int, said: str) -> None:
    sys.stderr.write(f"{said}\n")
    raise SystemExit(code)


def _end_with_parent() -> None:
    """Wait for the end of the study's own process, then exit at once; a later run resumes from what was saved."""
    parent: Any = multiprocessing.parent_process()
    wait([parent.sentinel])
    os._exit(1)


# The summary of a study, for programs and for the report: `study.json`, `study.yaml` and `gate.json`, written again
# after each job.

SUMMARY_FILE, YAML = "study.json", "study.yaml"
MANY = "many vectors"  # in place of a pooling


@dataclass(frozen=True)
class Facts:
    """How the study's own process goes."""

    state: str
    jobs: int
    verdict: study_grid.GateVerdict
    failed: Mapping[str, str]  # key of a task -> why
    claims: tuple[int, ...] = ()  # those that were asked for, where not all were


def write_study_summary(study: Study, grid: Grid, out: Path, facts: Facts) -> None:
    """Write all that is known now."""
    records = {key: read_record(task.folder) for key, task in grid.tasks.items()}
    scores = tried(grid)
    now = surroundings()
    words = [str(study.file), str(out), *study.words, *_asked(facts.claims)]
    causes = {key: cause for key in grid.tasks if (cause := _cause(key, grid, records, facts.failed))}
    whole = {
        "study": study.name,
        "file": str(study.file),
        "command": shlex.join(["twoway", "study", *words]),
        "state": facts.state,
        "base": study.base,
        "seeds": list(study.seeds),
        "suite": getattr(study.evaluate, "suite", None),
        "tasks": list(getattr(study.evaluate, "tasks", ())),
        "smallest": study.smallest,
        "surroundings": now,
        "jobs_at_once": facts.jobs,
        "seconds": round(sum(record.seconds for record in records.values() if record), 1),
        "stages": {one.recipe.name: _stage(one.recipe.name, grid, records) for one in study.before},
        "arms": {arm.name: _arm(arm.name, study, grid, records, causes, scores, out) for arm in study.arms},
        "claims": [asdict(claim) for claim in study.claims],
        "jobs": [_job(task, records[key], facts.failed.get(key), out) for key, task in grid.tasks.items()],
    }
    files = {
        YAML: f"# {whole['command']}\n{resolved(study)}",
        study_grid.GATE_FILE: json.dumps(facts.verdict.as_json(), indent=1, ensure_ascii=False) + "\n",
        SUMMARY_FILE: json.dumps(whole, indent=1, ensure_ascii=False, default=str) + "\n",
    }
    for name, text in files.items():
        if not (out / name).exists() or (out / name).read_text(encoding="utf-8") != text:
            write_whole(out / name, text)


def _asked(claims: Collection[int]) -> list[str]:
    return ["--claims", ",".join(str(one) for one in sorted(set(claims)))] if claims else []


def resolved(study: Study) -> str:
    """Return the study with every setting written out."""
    stages = {
        one.recipe.name: {"stage": one.recipe.kind.name, "from": one.recipe.source, "seeds": list(one.seeds)}
        | {key: value for key, value in plain_values(one.recipe.config).items() if key != "seed"}
        for one in study.before
    }
    arms = {}
    for arm in study.arms:
        said = {key: value for key, value in plain_values(arm.recipe.config).items() if key != "seed"}
        if arm.search is not None:
            usual = defaults(type(arm.search))
            said["learning_rate"] = {key: value for key, value in plain_values(arm.search).items() if value != usual[key] and value != []}
        kind = {"stage": arm.recipe.kind.name} if arm.merges else {}
        scored = {key: value for key, value in plain_values(arm.evaluate).items() if value != plain_values(study.evaluate)[key]}
        arms[arm.name] = {**kind, "from": list(arm.sources) or arm.recipe.source, **said} | ({"evaluate": scored} if scored else {})
    said = {
        "base": study.base,
        "seeds": list(study.seeds),
        "stages": stages,
        "evaluate": plain_values(study.evaluate),
        "arms": arms,
        "gate": plain_values(study.gate),
        "smallest": study.smallest,
        "claims": [{key: value for key, value in plain_values(claim).items() if value not in (None, "", [], {})} for claim in study.claims],
    }
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=120)


def _stage(name: str, grid: Grid, records: Mapping[str, Record | None]) -> dict[str, Any]:
    keys = grid.named.get(name, ())
    if not keys:
        return {"state": "new"}
    task, found = grid.tasks[keys[0]], [records[key] for key in keys]
    states = [record.state if record else "new" for record in found]
    return {
        "stage": task.job.kind.name,
        "from": base_of(task),
        "rows": rows_read(task.job.config),
        "seconds": round(sum(record.seconds for record in found if record) / len(found), 1),
        "state": "done" if set(states) == {"done"} else next(state for state in states if state != "done"),
        "seeds": [getattr(grid.tasks[key].job.config, "seed", None) for key in keys],
        "settings": _told(task),
        "figures": dict(found[0].figures) if found[0] else {},
    }


def _cause(key: str, grid: Grid, records: Mapping[str, Record | None], failed: Mapping[str, str]) -> str:
    """Say which job has failed that a task needs, be it itself."""
    open_ends = [key]
    while open_ends:
        one = open_ends.pop()
        record, title = records[one], grid.tasks[one].title
        if why := failed.get(one) or (record.error if record is not None and record.state == "failed" else None):
            return f"{title} failed: {why}"
        open_ends += grid.tasks[one].needs
    return ""


def _waits(
    name: str, study: Study, grid: Grid, causes: Mapping[str, str], tries: Mapping[str, Mapping[Choice, float | None]]
) -> str | None:
    """Say why an arm has no runs yet: its rate is not known, maybe because a try has failed, or none gave a number."""
    if name not in grid.waiting:
        return None
    search = study.arm(name).search
    of = name if search is None or search.like is None else search.like
    why = next((causes[key] for key in grid.trials.get(of, {}).values() if key in causes), "")
    if not why and None not in tries.get(of, {}).values():
        why = "with none of those that were tried is the score a number"
    return f"{'its learning rate' if of == name else f'the learning rate of {of}'} is not known{f': {why}' if why else ' yet'}"


def _arm(
    name: str,
    study: Study,
    grid: Grid,
    records: Mapping[str, Record | None],
    causes: Mapping[str, str],
    tries: Mapping[str, Mapping[Choice, float | None]],
    out: Path,
) -> dict[str, Any]:
    arm, scores = study.arm(name), tries.get(name)
    runs = [one for one in grid.runs if one.arm == name]
    task = grid.tasks[runs[0].finetune] if runs else None
    first = study.trained(name)
    own = next((grid.tasks[one.finetune] for one in grid.runs if one.arm == first.name), None)
    config = first.recipe.config if own is None else own.job.config
    chain = [grid.tasks[key] for key in grid.chains.get(name, ())]
    rows = [rows_read(one.job.config) for one in chain]
    return {
        "from": first.recipe.source if own is None else own.job.source,
        "merges": [one.name for one in study.merged(arm)],
        "attention": getattr(config, "attention", None),
        "pooling": MANY if getattr(config, "late_interaction", None) else getattr(config, "pooling", None) or "mean",
        "learning_rate": None if arm.merges or (arm.search and task is None) else getattr(config, "learning_rate", None),
        "rates": None if not scores else {choice.label(alone=not arm.sources): score for choice, score in scores.items()},
        "rows": None if arm.merges else rows_read(config),
        "settings": {} if task is None else _told(task),
        "before": {
            "stages": [one.job.name for one in chain],
            "rows": sum(one for one in rows if one),
            "seconds": round(sum(record.seconds for one in chain if (record := records[one.key])), 1),
        },
        "waits": _waits(name, study, grid, causes, tries),
        "runs": [_run(one, records, causes, out) for one in runs],
    }


def _run(one: Run, records: Mapping[str, Record | None], causes: Mapping[str, str], out: Path) -> dict[str, Any]:
    both = {name: records[key] for name, key in (("finetune", one.finetune), ("evaluate", one.evaluate))}
    last = both["evaluate"] or both["finetune"]
    state = "done" if one.results.exists() else "new" if last is None else "begun" if last.state == "done" else last.state
    return {
        "seed": one.seed,
        "stage_seeds": one.stage_seeds,
        "file": str(one.results.relative_to(out)),
        "state": state,
        "seconds": {name: record.seconds for name, record in both.items() if record},
        "search": {key: value for key, value in (both["evaluate"].figures if both["evaluate"] else {}).items() if key in SEARCH_COSTS},
        "error": (last.error if last else None) or (None if state == "done" else causes.get(one.evaluate)),
    }


def _told(task: GridJob) -> dict[str, Any]:
    """Return the settings of a stage that are not its defaults."""
    usual = plain_values(task.job.kind.config())
    said = {key: value for key, value in plain_values(task.job.config).items() if value != usual.get(key)}
    return {key: value for key, value in said.items() if key not in task.job.kind.free}


def _job(task: GridJob, record: Record | None, failed: str | None, out: Path) -> dict[str, Any]:
    log = log_of(out / LOGS, task)
    return {
        "name": task.title,
        "kind": task.job.kind.name,
        "state": "failed" if failed else record.state if record else "new",
        "rows": rows_read(task.job.config),
        "seconds": record.seconds if record else 0.0,
        "error": failed or (record.error if record else None),
        "log": str(log.relative_to(out)) if log.exists() else None,
        "folder": str(task.folder.relative_to(out)),
    }
