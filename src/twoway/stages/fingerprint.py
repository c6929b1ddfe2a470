"""What a stage's result depends on, as a hash: two jobs of one fingerprint make the same thing, wherever and whenever they run.

A stage of a recipe becomes a `Job`. Its fingerprint is over: what kind of stage it is and its revision, the package's version, its settings
without those that change no result, its data by content, and the fingerprint of what it starts from. Where things lie is not in it, so a
folder may move. Data is hashed by its own files: rows of JSONL, Parquet, PDFs, tables of the samples. Pictures that rows name by path
are not looked at. A stream of the hub, and a model of the hub, stand for themselves by name.

`plan` does no work and asks for no network, so that a study can lay out a grid of recipes and see which jobs are one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from twoway import __version__
from twoway.config import dump
from twoway.data.rows import ReadOptions
from twoway.data.samples import samples_folder, view
from twoway.data.sources import kind_of
from twoway.data.table import FINDERS
from twoway.errors import TwowayError, UsageError
from twoway.files import sha256
from twoway.model.source import is_hub_id

from .made_rows import made_by, named, sources_of
from .recipe import START

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from twoway.data.mixture import SourceConfig

    from .kinds import Kind
    from .recipe import Recipe, StageRecipe

_WHOLE, _BLOCK, _BLOCKS = 64 << 20, 1 << 20, 32
# Of a model's folder: what decides what it computes, and not a trainer's logs and checkpoints.
_MODEL = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "heads/*", "*_*/*.json", "*_*/*.safetensors")
_NOT_MODEL = ("run.json", "training.json")


@dataclass(frozen=True)
class Job:
    """A stage of a recipe, ready to be done. `problems` says what stands in its way."""

    name: str
    kind: Kind
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


def plan(
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
            "config": settings(stage, nproc),
            **{key: _contents(value, found, known, problems) for key, value in _inputs(stage).items()},
            "input": known[stage.source] if base is None else found.model(base, problems),
        }
        job = Job(stage.name, stage.kind, stage.config, stage.source, base, stage.folder, parts, tuple(problems))
        known.setdefault(stage.name, job.fingerprint)
        jobs.append(job)
    return tuple(jobs)


def settings(stage: StageRecipe, nproc: int = 1) -> dict[str, Any]:
    """Return the settings that a stage's result depends on."""
    plain: dict[str, Any] = yaml.safe_load(dump(stage.config))
    usual = {field.name: field.default for field in dataclasses.fields(stage.config)}
    unsaid = {key for key in stage.kind.later if plain.get(key) == usual.get(key)}
    kept = {key: value for key, value in plain.items() if key not in stage.kind.free | unsaid and key not in _inputs(stage)}
    if kept.get("shards", 0) is None:
        kept["shards"] = nproc  # that is what it then is
    return kept


def _said_twice(stage: StageRecipe) -> list[str]:
    """Return what is wrong with settings that say how a model is read, where the model is that of a stage, which says it itself."""
    said = [name for name in sorted(stage.kind.opening) if getattr(stage.config, name) is not None]
    why = f"for a model that does not say it itself, and that of {stage.source} does; leave it out"
    return [f"{stage.name}: {name} is {why}" for name in said]


def data_identity(source: SourceConfig) -> str:
    """Return what tells the content of a source from other content."""
    kind, argument = kind_of(source.spec)
    if kind == "hub":
        return source.spec
    if kind == "samples":
        view(argument)
        home = samples_folder()
        return f"samples:{argument} {_files(home, [*home.glob('*.parquet'), home / 'manifest.json'])}"
    if kind not in FINDERS:
        raise UsageError(f"{source.spec} cannot be trained on row by row; name its files one by one, or their folder")
    files = FINDERS[kind](argument, ReadOptions()).files()
    return _files(Path(os.path.commonpath([path.absolute().parent for path in files])), [path.absolute() for path in files])


def folder_identity(folder: Path) -> str:
    """Return what tells the files of a folder from others."""
    if not folder.is_dir():
        raise TwowayError(f"there is no folder {folder}")
    return _files(folder, [path for path in folder.rglob("*") if path.is_file()])


def model_identity(model: str) -> str:
    """Return what tells a model from other models: the content of a folder, the name of one of the hub."""
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
    """Return the settings that name what is read: lists of sources, and folders."""
    values = {field.name: getattr(stage.config, field.name) for field in dataclasses.fields(stage.config)}
    folders = {key: value for key, value in values.items() if isinstance(value, Path) and key not in stage.kind.free}
    return sources_of(stage.config) | folders


def _contents(given: Any, found: _Remembered, known: Mapping[str, str], problems: list[str]) -> Any:
    """Return data by what is in it."""
    if isinstance(given, Path):
        return found.folder(given, problems)
    read, missing = [], []
    for one in given:
        said: list[str] = []
        read.append(_source(one, found, known, said))
        missing += [(one.spec, problem) for problem in said]
    problems += by_reason(missing, len(given))
    return read


def by_reason(missing: Iterable[tuple[str, str]], sources: int) -> list[str]:
    """Say what is wrong with sources (their names, and what is said of each) of so many: one line a reason, with all their names."""
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
