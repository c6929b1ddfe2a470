"""What is to be done about each stage of a recipe: kept, gone on with, done, done again, or left alone. Nothing is done here.

The rule: what is done is kept, what was cut off goes on, what is not there is done. A stage is *stale* where its settings, its data, the
version of the code or what it starts from are not those that it was made with; it is refused with the difference, or with `redo` done
again, and the old folder goes to `OUT/stale`. With `start` or `only` the stages before are used as they stand, stale or not, and `redo`
does the chosen ones again even where they are done.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from twoway.errors import UsageError, did_you_mean
from twoway.training.ranks import started_by_others

from .fingerprint import Job, plan
from .made_rows import names_of
from .recipe import read_recipe
from .records import STALE, look, read_record, require_run_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .kinds import Kind
    from .recipe import Recipe

SUMMARY = "run.json"
# keep: done already; taken: not asked for, and stands as it is; leave: not asked for, and not there.
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
            "keep": "done before, kept",
            "taken": "stands as it is" + (f", although {self.why}" if self.why else ""),
            "leave": "not asked for",
            "go on": f"goes on, {way}",
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
    kinds: Mapping[str, Kind] | None = None,
) -> tuple[Recipe, tuple[Step, ...]]:
    """Read a recipe and decide about each stage; nothing is done, and nothing is written."""
    if nproc < 1:
        raise UsageError(f"--nproc is at least 1, not {nproc}")
    if started_by_others():
        raise UsageError("run starts its ranks by itself (--nproc N); under torchrun or accelerate launch give the verb of one stage")
    read, out = read_recipe(recipe, words, kinds=kinds), Path(out)
    require_run_folder(out, SUMMARY)
    names = [stage.name for stage in read.stages]
    chosen = _chosen(names, start, only)
    before = [stage for stage in read.stages if stage.name not in chosen]
    records = {stage.name: read_record(out / stage.folder) for stage in before}
    needed = {name for stage in read.stages if stage.name in chosen for name in (stage.source, *names_of(stage.config))}
    for stage in before:
        record = records[stage.name]
        if stage.name in needed and (record is None or record.state != "done" or not (out / stage.folder / stage.kind.marker).exists()):
            raise UsageError(f"{stage.name} is not done in {out}, and is needed; leave out --from and --only, or do it first")
    taken = {name: record.fingerprint for name, record in records.items() if record is not None}
    jobs = plan(read, nproc=nproc, taken=taken)
    steps = tuple(_decide(job, jobs, out, chosen, redo=redo, forced=redo and bool(start or only)) for job in jobs)
    _refuse(steps, redo)
    return read, steps


def rows_in(steps: Sequence[Step]) -> Callable[[str], tuple[str, Path | None]]:
    """Return what tells the place of the rows that a stage has made."""

    def find(name: str) -> tuple[str, Path | None]:
        step = next(one for one in steps if one.job.name == name)
        assert step.job.kind.rows is not None
        return step.job.kind.rows(step.folder)

    return find


def _chosen(names: Sequence[str], start: str | None, only: str | None) -> set[str]:
    """Return the stages that are asked for."""
    if start and only:
        raise UsageError("--from and --only exclude each other")
    for name in (start, only):
        if name and name not in names:
            raise UsageError(f"the recipe has no stage {name!r}{did_you_mean(name, names)} (it has: {', '.join(names)})")
    return {only} if only else set(names[names.index(start) :]) if start else set(names)


def _decide(job: Job, jobs: Sequence[Job], out: Path, chosen: set[str], *, redo: bool, forced: bool) -> Step:
    """Decide about one stage."""
    folder = out / job.folder
    base = job.base or str(out / next(one.folder for one in jobs if one.name == job.source))
    stand = look(job, folder)
    if job.name not in chosen:
        return Step(job, folder, base, "leave" if stand.standing == "new" else "taken", stand.why)
    if stand.standing == "foreign":
        raise UsageError(f"{folder} stands there, and {stand.why}; move it away, or name another OUT")
    if stand.standing == "new":
        return Step(job, folder, base, "do")
    if forced or stand.standing == "stale":
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
        f"{first.folder} was made of something else: {first.why}. --redo does {first.job.name} again{also} (the old folder is kept in "
        f"{first.folder.parent / STALE}); another OUT keeps both; --from takes what stands there as it is"
    )
