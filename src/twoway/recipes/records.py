"""Records of a run: what a stage's result depends on, what it was made with, and the state of each job."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import twoway
from twoway import __version__
from twoway.config import defaults, plain_values
from twoway.data.dataset import source_files, source_kind
from twoway.data.sources.samples import samples_folder, view
from twoway.errors import TwowayError, UsageError
from twoway.files import disk_errors, sha256, write_whole
from twoway.limits import SHOWN, ReadLimits
from twoway.models.loading import is_hub_id, versions

from .recipe import PREFIX, START, made_by, models_of, named, sources_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from twoway.data.config import SourceConfig

    from .recipe import Recipe, StageRecipe
    from .stages import StageKind


# What a stage's result depends on, as a hash: two jobs with the same fingerprint make the same result, wherever and
# whenever they run.
#
# A stage of a recipe becomes a `Job`. Its fingerprint covers the kind of stage and its revision, the package's
# version, its settings without those that do not change results, its data by content, and the fingerprint of its
# starting point. Paths are not part of it, so a folder may move. Data is hashed by its own files: rows of JSONL,
# Parquet, PDFs, tables of the samples. Pictures that rows name by path are not read. A stream or a model of the hub
# is identified by its name.
#
# `plan` runs nothing and needs no network, so a study can lay out a grid of recipes and find equal jobs.

_WHOLE, _BLOCK, _BLOCKS = 64 << 20, 1 << 20, 32
# Of a model's folder: what decides what it computes, and not a trainer's logs and checkpoints.
_MODEL = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "heads/*", "*_*/*.json", "*_*/*.safetensors")
_NOT_MODEL = ("run.json", "training.json")


@dataclass(frozen=True)
class Job:
    """A stage of a recipe, ready to run. `problems` lists what prevents it."""

    name: str
    kind: StageKind
    config: Any
    source: str  # the name of the job it starts from, or a model
    base: str | None  # the model, where it is no job's
    folder: str
    parts: Mapping[str, Any]  # what the fingerprint is over
    problems: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """The hash of everything that the result depends on."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def plan_jobs(
    recipe: Recipe,
    *,
    nproc: int = 1,
    taken: Mapping[str, str] | None = None,
    of_model: Callable[[str], str] | None = None,
    of_data: Callable[[SourceConfig], str] | None = None,
) -> tuple[Job, ...]:
    """Turn a recipe into jobs. `taken` are the fingerprints of stages that are used as they stand, by name."""
    known = dict(taken or {})
    found = _Remembered(of_model or model_identity, of_data or data_identity)
    jobs = []
    for stage in recipe.stages:
        base = recipe.base if stage.source == START else None if stage.source in known else stage.source
        problems = [] if base is not None else _said_twice(stage)
        parts = {
            "stage": stage.kind.name,
            "revision": stage.kind.revision,
            "twoway": __version__,
            "config": result_settings(stage, nproc),
            **{key: _contents(value, found, known, problems) for key, value in _inputs(stage).items()},
            "input": known[stage.source] if base is None else found.model(base, problems),
        }
        job = Job(stage.name, stage.kind, stage.config, stage.source, base, stage.folder, parts, tuple(problems))
        known.setdefault(stage.name, job.fingerprint)
        jobs.append(job)
    return tuple(jobs)


def result_settings(stage: StageRecipe, nproc: int = 1) -> dict[str, Any]:
    """Return the settings that a stage's result depends on."""
    settings: dict[str, Any] = plain_values(stage.config)
    usual = defaults(type(stage.config))
    unsaid = {key for key in stage.kind.later if settings.get(key) == usual.get(key)}
    kept = {key: value for key, value in settings.items() if key not in stage.kind.free | unsaid and key not in _inputs(stage)}
    if kept.get("batches_per_step", 0) is None:
        kept["batches_per_step"] = nproc  # that is what it then is
    # Bounds of what is read decide no result, but for which frames of a video are seen; nothing is said where it is as usual.
    limits, usual_limits = settings.get("limits", {}), defaults(ReadLimits)
    shown = {name: limits[name] for name in SHOWN if name in limits and limits[name] != usual_limits[name]}
    return kept | ({"limits": shown} if shown else {})


def _said_twice(stage: StageRecipe) -> list[str]:
    """Return what is wrong with settings of how a model is read, if the model is that of a stage, which has them stored."""
    said = [name for name in sorted(stage.kind.opening) if getattr(stage.config, name) is not None]
    why = f"for a model that does not say it itself, and that of {stage.source} does; leave it out"
    return [f"{stage.name}: {name} is {why}" for name in said]


def data_identity(source: SourceConfig) -> str:
    """Return what identifies the content of a source."""
    kind, argument = source_kind(source.spec)
    if kind == "hub":
        return source.spec
    if kind == "samples":
        view(argument)
        home = samples_folder()
        return f"samples:{argument} {_files(home, [*home.glob('*.parquet'), home / 'manifest.json'])}"
    if kind == "glob":
        raise UsageError(f"{source.spec} cannot be trained on row by row; name its files one by one, or their folder")
    files = source_files(source.spec)
    return _files(Path(os.path.commonpath([path.absolute().parent for path in files])), [path.absolute() for path in files])


def folder_identity(folder: Path) -> str:
    """Return what identifies the files of a folder."""
    if not folder.is_dir():
        raise TwowayError(f"there is no folder {folder}")
    return _files(folder, [path for path in folder.rglob("*") if path.is_file()])


def model_identity(model: str) -> str:
    """Return what identifies a model: the content of a folder, or the name on the hub."""
    folder = Path(model)
    if not folder.is_dir():
        if folder.exists() or not is_hub_id(model):
            raise TwowayError(f"no such model: {model} is neither a folder nor a hub id like owner/name")
        return f"hub:{model}"
    found = {path for pattern in _MODEL for path in folder.glob(pattern) if path.is_file() and path.name not in _NOT_MODEL}
    if not found:
        raise TwowayError(f"{model} holds no model")
    return _files(folder, found)


class _Remembered:
    """Looks at each model and each source once, and turns what is wrong with one into a word."""

    def __init__(self, of_model: Callable[[str], str], of_data: Callable[[SourceConfig], str]) -> None:
        self._look: dict[str, Callable[[Any], str]] = {"model": of_model, "data": of_data, "folder": folder_identity}
        self._seen: dict[tuple[str, Any], tuple[str, str | None]] = {}

    def model(self, model: str, problems: list[str]) -> str:
        return self._find("model", model, model, problems)

    def data(self, source: SourceConfig, problems: list[str]) -> str:
        return self._find("data", source.spec, source, problems)

    def folder(self, folder: Path, problems: list[str]) -> str:
        return self._find("folder", str(folder), folder, problems)

    def _find(self, what: str, key: str, given: Any, problems: list[str]) -> str:
        if (what, key) not in self._seen:
            try:
                self._seen[what, key] = self._look[what](given), None
            except TwowayError as error:
                self._seen[what, key] = f"not here: {key}", str(error).partition(" (possible: ")[0]
        found, problem = self._seen[what, key]
        if problem:
            problems.append(problem)
        return found


def _inputs(stage: StageRecipe) -> dict[str, Any]:
    """Return the settings that name what is read: lists of sources, models, and folders."""
    values = {field.name: getattr(stage.config, field.name) for field in dataclasses.fields(stage.config)}
    folders = {key: value for key, value in values.items() if isinstance(value, Path) and key not in stage.kind.free}
    return sources_of(stage.config) | models_of(stage.config) | folders


def _contents(given: Any, found: _Remembered, known: Mapping[str, str], problems: list[str]) -> Any:
    """Return data by what is in it."""
    if isinstance(given, Path):
        return found.folder(given, problems)
    if isinstance(given, str):
        return known[given.removeprefix(PREFIX)] if given.startswith(PREFIX) else found.model(given, problems)
    if isinstance(given[0], str):
        return [_contents(one, found, known, problems) for one in given]
    read, missing = [], []
    for one in given:
        said: list[str] = []
        read.append(_source(one, found, known, said))
        missing += [(one.spec, problem) for problem in said]
    problems += by_reason(missing, len(given))
    return read


def by_reason(missing: Iterable[tuple[str, str]], sources: int) -> list[str]:
    """Describe the problems of sources (their names, and the problem of each) of so many: one line for each reason, with all names."""
    reasons: dict[str, list[tuple[str, str]]] = {}
    for name, problem in missing:
        reasons.setdefault(problem.replace(name, "…").partition("; did you mean")[0], []).append((name, problem))
    lines = []
    for reason, those in reasons.items():
        names = [name for name, _ in those]
        home = os.path.dirname(names[0])
        if home and all(os.path.dirname(name) == home for name in names):
            names = [f"{home}/{os.path.basename(names[0])}", *(os.path.basename(name) for name in names[1:])]
        why = "" if reason == "there is no …" else f" ({reason})"
        many = f"{len(those)} of {sources} sources are not here{why}: {', '.join(names)}"
        lines.append(those[0][1] if len(those) == 1 else many)
    return lines


def _source(given: SourceConfig, found: _Remembered, known: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    maker, source = made_by(given), named(given)
    said = {field.name: getattr(source, field.name) for field in dataclasses.fields(source) if field.name not in ("spec", "root")}
    return said | {"name": source.label, "content": found.data(source, problems) if maker is None else known[maker]}


def _files(home: Path, files: Any) -> str:
    """Hash files with their names within a folder."""
    sums = sorted((str(path.relative_to(home)), _sum(path)) for path in files if path.exists())
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


def _sum(path: Path) -> str:
    """Hash a file; of a large one that is no model's, its size and blocks all through it, the first and last among them."""
    size = path.stat().st_size
    if size <= _WHOLE or path.suffix == ".safetensors":
        return sha256(path)
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_BLOCKS):
            file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
            found.update(file.read(_BLOCK))
    return found.hexdigest()


# The content of a run's folder: each stage's record beside its folder, and the state of its job: done, begun, stale,
# or missing.
#
# `OUT/2-pretrain.json` is the record of `OUT/2-pretrain`. It holds the job's fingerprint with all of its inputs, so a
# stage of another recipe, other data or other settings is recognised, and the difference can be shown. A record is
# written before a stage starts, so an interrupted stage is recognised.

Standing = Literal["done", "begun", "stale", "foreign", "new"]
STALE = "stale"  # where folders go whose stage is done again
_SHOWN = 4


@dataclass(frozen=True)
class Record:
    """What is known of a stage that was begun."""

    stage: str
    fingerprint: str
    parts: Mapping[str, Any]
    state: Literal["begun", "failed", "done"] = "begun"
    seconds: float = 0.0  # of work, over all calls
    calls: int = 0
    made: str | None = None  # hash of the file that says the stage is done
    figures: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    surroundings: Mapping[str, Any] = field(default_factory=dict)  # versions, git state and machine of the latest call

    def write(self, folder: Path) -> None:
        """Write the record beside the folder of its stage."""
        with disk_errors():
            folder.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place(folder), json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Stand:
    """The state of a job: what exists, and why it is not the wanted result."""

    standing: Standing
    record: Record | None = None
    why: str = ""


def place(folder: Path) -> Path:
    """Return where the record of a stage's folder is."""
    return folder.with_name(f"{folder.name}.json")


def read_record(folder: Path) -> Record | None:
    """Read the record of a stage's folder; `None` where there is none."""
    path = place(folder)
    if not path.exists():
        return None
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TwowayError(f"{path} is not a record of a stage ({error}); move it and {folder} away, or name another OUT") from error


def job_state(job: Job, folder: Path) -> Stand:
    """Return the state of a job in its folder."""
    record = read_record(folder)
    if record is None:
        return Stand("foreign", None, "nothing says what made it") if folder.exists() else Stand("new")
    if not folder.exists():
        return Stand("new", record if record.fingerprint == job.fingerprint else None)
    if record.fingerprint != job.fingerprint:
        return Stand("stale", record, difference(record.parts, job.parts, job.base or job.source))
    if record.state != "done":
        return Stand("begun", record)
    marker = folder / job.kind.marker
    if not marker.exists() or sha256(marker) != record.made:
        return Stand("stale", record, f"{marker.name} is not the one that the stage wrote")
    return Stand("done", record)


def set_aside(folder: Path) -> Path:
    """Move a stage's folder and record aside, where nothing reads them; nothing is deleted."""
    home = folder.parent / STALE
    with disk_errors():
        home.mkdir(exist_ok=True)
    number = 1
    while (home / f"{folder.name}-{number}").exists() or place(home / f"{folder.name}-{number}").exists():
        number += 1
    target = home / f"{folder.name}-{number}"
    if folder.exists():
        shutil.move(folder, target)
    if place(folder).exists():
        shutil.move(place(folder), place(target))
    return target


def difference(old: Mapping[str, Any], new: Mapping[str, Any], source: str) -> str:
    """Say in words what a stage was made of and is not made of now; `source` is what it starts from."""
    before, after = _flat(old), _flat(json.loads(json.dumps(new)))
    said = []
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) == after.get(key):
            continue
        if key == "input":
            said.append(f"{source}, which it starts from, has changed")
        elif key.startswith("data.") and key.endswith(".content"):
            said.append(f"the rows of {key.removeprefix('data.').removesuffix('.content')} have changed")
        else:
            said.append(f"{key.removeprefix('config.')} was {_shown(before, key)} and is {_shown(after, key)}")
    more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return "; ".join(said[:_SHOWN]) + more


def require_run_folder(out: Path, marker: str) -> None:
    """Refuse a folder that holds something else than a run."""
    if out.exists() and (
        not out.is_dir() or (any(not path.name.startswith(".") for path in out.iterdir()) and not (out / marker).exists())
    ):
        raise UsageError(f"{out} exists already and is not a run of a recipe; choose another folder")


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by dotted name; sources of data go by theirs."""
    if isinstance(tree, list) and tree and all(isinstance(one, dict) and "name" in one for one in tree):
        tree = {one["name"]: one for one in tree}
    if isinstance(tree, dict) and tree:
        return {key: value for part, below in tree.items() for key, value in _flat(below, f"{name}.{part}" if name else part).items()}
    return {name: tree}


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False) if key in leaves else "not there"


# What a result was made with: versions, the state of the code in git, and the machine.


def surroundings(nproc: int = 1) -> dict[str, Any]:
    """Return all that is not in a recipe and may show in a result."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "device": device, "threads": torch.get_num_threads(), "ranks": nproc}
    return {"versions": versions() | {"python": platform.python_version()}, "git": git_state(), "machine": machine}


@cache
def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Return commit and whether files differ from it; `None` where the package does not run from a checkout."""
    home = folder or Path(twoway.__file__).parent
    commit = _git(home, "rev-parse", "HEAD")
    # A package that is installed inside somebody's repository is no part of it.
    if commit is None or _git(home, "ls-files", "--error-unmatch", "." if folder else "__init__.py") is None:
        return None
    return {"commit": commit, "dirty": bool(_git(home, "status", "--porcelain", "--untracked-files=normal", "--", "."))}


def _git(home: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603, S607
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
