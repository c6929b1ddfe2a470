"""`run`: the stages of a recipe in order, each once (the rule is in `records`).

A stage that fails or is stopped does not affect those before it, and the error names the command that resumes.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shlex
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from twoway.config import gather, plain_values, takes
from twoway.embedding.shards import alone
from twoway.errors import TwowayError, UsageError, did_you_mean
from twoway.files import sha256, write_whole
from twoway.processes import Stopped
from twoway.reports.page import REPORT, write_page
from twoway.training.distributed import launched_externally

from .config import RunConfig
from .recipe import located, named_stages, read_recipe
from .records import STALE, Job, Record, job_state, plan_jobs, read_record, require_run_folder, set_aside, surroundings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .recipe import Recipe
    from .stages import StageKind


@dataclass(frozen=True)
class RunCommand:
    """A command, and the one that resumes it."""

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
        options = [("--start", start), ("--only", self.only), ("--nproc", str(self.nproc) if self.nproc > 1 else None)]
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


@takes(RunConfig)
def run(
    recipe: str | Path,
    out: str | Path,
    words: Sequence[str] = (),
    *,
    config: RunConfig | None = None,
    kinds: Mapping[str, StageKind] | None = None,
    **options: Any,
) -> RunResult:
    """Run the stages of a recipe (a YAML file, with `key=value` overrides) in the folder `out`; the same call resumes.

    `options` are the settings of `RunConfig`.
    """
    config = gather(RunConfig, config, options, run)
    start, only, redo, nproc = config.start, config.only, config.redo, config.nproc
    read, steps = lay_out(recipe, out, words, start=start, only=only, redo=redo, nproc=nproc, kinds=kinds)
    out = Path(out)
    asked = RunCommand(str(recipe), str(out), tuple(words), start, only, redo, nproc)
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
    """Run or resume one job in its folder, and write its record beside the folder."""
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
    return do(replace(step.job, config=located(step.job.config, made_in(steps))), step.base, step.folder, nproc=nproc)


def _seconds(record: Record, began: float) -> float:
    return round(record.seconds + time.monotonic() - began, 2)


def _left(steps: Sequence[Step], number: int) -> str:
    """Describe what is left after a failure."""
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
    """End the run in order on SIGTERM. Call the yielded function after each stage; it raises if a signal has arrived.

    A training stage handles signals itself, and one that gets a signal in its last step has nothing left to stop. So signals are also
    observed here as the system delivers them.
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


# The action for each stage of a recipe: keep, resume, run, run again, or leave alone. Nothing runs here.
#
# The rule: a finished stage is kept, an interrupted one resumes, a missing one runs. A stage is *stale* if its
# settings, its data, the version of the code or its starting point have changed since it was made. It is refused and
# the difference is shown, or with `redo` it runs again, and the old folder goes to `OUT/stale`. With `start` or
# `only` the earlier stages are used as they are, stale or not, and `redo` runs the chosen ones again even if they are
# finished.

SUMMARY = "run.json"
# keep: finished; taken: not selected, and used as it is; leave: not selected, and missing.
Action = Literal["keep", "taken", "leave", "go on", "do", "again"]
DOES = ("go on", "do", "again")


@dataclass(frozen=True)
class Step:
    """A job with what is to be done about it."""

    job: Job
    folder: Path
    base: str
    action: Action
    why: str = ""

    @property
    def said(self) -> str:
        """Say what is done about the stage."""
        way = f"{self.job.base or self.job.source} -> {self.folder.name}"
        said = {
            "keep": "finished, kept",
            "taken": "used as it is" + (f", although {self.why}" if self.why else ""),
            "leave": "not selected",
            "go on": f"resumes, {way}",
            "do": way,
            "again": f"again, {way} ({self.why})",
        }
        return said[self.action]


def lay_out(
    recipe: str | Path,
    out: str | Path,
    words: Sequence[str] = (),
    *,
    start: str | None = None,
    only: str | None = None,
    redo: bool = False,
    nproc: int = 1,
    kinds: Mapping[str, StageKind] | None = None,
) -> tuple[Recipe, tuple[Step, ...]]:
    """Read a recipe and decide about each stage; nothing is done, and nothing is written."""
    if nproc < 1:
        raise UsageError(f"--nproc is at least 1, not {nproc}")
    if launched_externally():
        raise UsageError("run starts its ranks by itself (--nproc N); under torchrun or accelerate launch give the verb of one stage")
    read, out = read_recipe(recipe, words, kinds=kinds), Path(out)
    require_run_folder(out, SUMMARY)
    names = [stage.name for stage in read.stages]
    chosen = _chosen(names, start, only)
    before = [stage for stage in read.stages if stage.name not in chosen]
    records = {stage.name: read_record(out / stage.folder) for stage in before}
    needed = {name for stage in read.stages if stage.name in chosen for name in (stage.source, *named_stages(stage.config))}
    for stage in before:
        record = records[stage.name]
        if stage.name in needed and (record is None or record.state != "done" or not (out / stage.folder / stage.kind.marker).exists()):
            raise UsageError(f"{stage.name} is not done in {out}, and is needed; leave out --start and --only, or do it first")
    taken = {name: record.fingerprint for name, record in records.items() if record is not None}
    jobs = plan_jobs(read, nproc=nproc, taken=taken)
    steps = tuple(_decide(job, jobs, out, chosen, redo=redo, forced=redo and bool(start or only)) for job in jobs)
    _refuse(steps, redo)
    return read, steps


def made_in(steps: Sequence[Step]) -> Callable[[str], tuple[StageKind, Path]]:
    """Return what finds the kind and the folder of a stage by its name."""
    made = {one.job.name: (one.job.kind, one.folder) for one in steps}
    return made.__getitem__


def _chosen(names: Sequence[str], start: str | None, only: str | None) -> set[str]:
    """Return the selected stages."""
    if start and only:
        raise UsageError("--start and --only exclude each other")
    for name in (start, only):
        if name and name not in names:
            raise UsageError(f"the recipe has no stage {name!r}{did_you_mean(name, names)} (it has: {', '.join(names)})")
    return {only} if only else set(names[names.index(start) :]) if start else set(names)


def _decide(job: Job, jobs: Sequence[Job], out: Path, chosen: set[str], *, redo: bool, forced: bool) -> Step:
    """Decide about one stage."""
    folder = out / job.folder
    base = job.base or str(out / next(one.folder for one in jobs if one.name == job.source))
    stand = job_state(job, folder)
    if job.name not in chosen:
        return Step(job, folder, base, "leave" if stand.standing == "new" else "taken", stand.why)
    if stand.standing == "foreign":
        raise UsageError(f"{folder} exists already, and {stand.why}; move it away, or name another OUT")
    if stand.standing == "new":
        return Step(job, folder, base, "do")
    if stand.standing == "stale" or (forced and stand.standing == "done"):
        return Step(job, folder, base, "again", stand.why or "asked for")
    return Step(job, folder, base, "keep" if stand.standing == "done" else "go on")


def _refuse(steps: Sequence[Step], redo: bool) -> None:
    """Refuse stages that are stale, unless they may be done again."""
    stale = [step for step in steps if step.action == "again"]
    if not stale or redo:
        return
    first, others = stale[0], [step.job.name for step in stale[1:]]
    also = f", and with it {', '.join(others)}" if others else ""
    raise UsageError(
        f"{first.folder} was made of something else: {first.why}. --redo runs {first.job.name} again{also} (the old folder is kept in "
        f"{first.folder.parent / STALE}); another OUT keeps both; --start uses what is there unchanged"
    )


# What a whole run leaves in its folder: `recipe.yaml` with every setting, `run.json` for programs, and `report.html`
# on one page.
#
# `recipe.yaml` is a recipe again: it gives the same jobs, with nothing left to defaults.

RECIPE = "recipe.yaml"
# Key figures of training stages that a reader looks for first; others come behind them.
_FIRST = ("steps", "loss", "rows_per_second", "memory_mb")
_MOST = 12


def duration(seconds: float) -> str:
    """Say a time as people do."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def write_summary(recipe: Recipe, steps: Sequence[Step], out: Path, command: str, nproc: int) -> None:
    """Write what is known of the run now; called before the first stage and after each."""
    records = [read_record(step.folder) for step in steps]
    resolved = resolve(recipe)
    write_whole(out / RECIPE, f"# {command}\n{resolved}")
    now = surroundings(nproc)
    stages = [_entry(step, record) for step, record in zip(steps, records, strict=True)]
    seconds = round(sum(record.seconds for record in records if record), 2)
    done = all(entry["state"] == "done" for entry in stages)
    seeds = {step.job.name: step.job.config.seed for step in steps if hasattr(step.job.config, "seed")}
    summary = {"recipe": recipe.name, "command": command, "base": recipe.base, "done": done, "seconds": seconds, "seeds": seeds}
    write_whole(out / SUMMARY, json.dumps(summary | {"stages": stages} | now, indent=2, ensure_ascii=False) + "\n")
    write_page(
        out / REPORT,
        "recipes/report.html",
        f"{recipe.name} · {out.resolve().name}",
        f"{command}; {'done' if done else 'not done yet'}, {duration(seconds)} of work",
        numbers=_numbers(records, seconds),
        stages=[_stage(step, record) for step, record in zip(steps, records, strict=True)],
        facts=_facts(now),
        settings=resolved,
    )


def resolve(recipe: Recipe) -> str:
    """Return the recipe with every setting written out."""
    stages = {}
    for stage in recipe.stages:
        own = {"stage": stage.kind.name, "from": stage.source, "folder": stage.folder}
        stages[stage.name] = own | plain_values(stage.config)
    return yaml.safe_dump({"base": recipe.base, "stages": stages}, sort_keys=False, allow_unicode=True, width=120)


def _entry(step: Step, record: Record | None) -> dict[str, Any]:
    job = step.job
    about: dict[str, Any] = {"name": job.name, "stage": job.kind.name, "from": job.source, "folder": job.folder}
    if record is None:
        return about | {"fingerprint": job.fingerprint, "state": "to do"}
    kept = {name: getattr(record, name) for name in ("fingerprint", "state", "seconds", "calls", "figures", "error", "surroundings")}
    # A stage that stands there and was made of something else is not this run's.
    return about | kept | ({"wanted": job.fingerprint} if job.fingerprint != record.fingerprint else {})


def _numbers(records: Sequence[Record | None], seconds: float) -> list[tuple[str, str]]:
    done = [record for record in records if record and record.state == "done"]
    numbers = [(f"{len(done)} of {len(records)}", "stages done"), (duration(seconds), "of work, over all calls")]
    figures = _figures(done[-1])[:3] if done else []
    return numbers + [(_format(value), f"{key}, at the end of the last stage done") for key, value in figures]


def _facts(now: dict[str, Any]) -> list[tuple[str, Any]]:
    git = now["git"] or {}
    about_git = [("commit", git.get("commit", "not in git")), ("dirty", git.get("dirty", ""))]
    return [*now["versions"].items(), *now["machine"].items(), *about_git]


def _stage(step: Step, record: Record | None) -> dict[str, Any]:
    """Return what the report says of one stage: its state, its key figures, and a link to its own report."""
    job = step.job
    state = f"{job.kind.name}, from {job.source}, in {job.folder}: {'to do' if record is None else record.state}"
    if record is not None:
        state += f", {duration(record.seconds)} in {record.calls} call{'s' if record.calls != 1 else ''}"
        state += f". {record.error}" if record.error else ""
    figures = [(key, _format(value)) for key, value in _figures(record)[:_MOST]] if record else []
    report = job.kind.report
    there = report is not None and (step.folder / report).exists()
    return {"name": job.name, "state": state, "figures": figures, "report": f"{job.folder}/{report}" if there else None}


def _figures(record: Record) -> list[tuple[str, Any]]:
    """Return a stage's key figures, the usual ones first, without counts of single steps."""
    known = {key: value for key, value in record.figures.items() if not key.endswith(("_targets", "_error", "_rows"))}
    first = [(key, known[key]) for key in _FIRST if key in known]
    return first + [(key, value) for key, value in known.items() if key not in _FIRST]


def _format(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)
