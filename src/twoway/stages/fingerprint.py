"""What a stage's result depends on, as a hash: two jobs of one fingerprint make the same thing, wherever and whenever they run.

A stage of a recipe becomes a `Job`. Its fingerprint is over: what kind of stage it is and its revision, the package's version, its settings
without those that change no result, its data by content, and the fingerprint of what it starts from. Where things lie is not in it, so a
folder may move. Data is hashed by its own files: rows of JSONL, Parquet, PDFs, tables of the samples. Pictures that rows name by path
are not looked at. A stream of the hub, and a model of the hub, stand for themselves by name.

`plan` does no work and asks for no network, so that a study can lay out a grid of recipes and see which jobs are one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from twoway import __version__
from twoway.config import dump
from twoway.data.samples import samples_folder, view
from twoway.data.sources import kind_of
from twoway.errors import TwowayError
from twoway.files import sha256
from twoway.model.source import is_hub_id

from .recipe import START

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from twoway.data.mixture import SourceConfig

    from .kinds import Kind
    from .recipe import Recipe, StageRecipe

_WHOLE, _BLOCK, _BLOCKS = 1 << 30, 1 << 20, 256
_SUFFIXES = {"parquet": (".parquet",), "pdf": (".pdf",)}
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
        problems: list[str] = []
        parts = {
            "stage": stage.kind.name,
            "revision": stage.kind.revision,
            "twoway": __version__,
            "config": settings(stage, nproc),
            "data": [_data(one, found, problems) for one in getattr(stage.config, "data", ())],
            "input": known[stage.source] if base is None else found.model(base, problems),
        }
        job = Job(stage.name, stage.kind, stage.config, stage.source, base, stage.folder, parts, tuple(problems))
        known.setdefault(stage.name, job.fingerprint)
        jobs.append(job)
    return tuple(jobs)


def settings(stage: StageRecipe, nproc: int = 1) -> dict[str, Any]:
    """Return the settings that a stage's result depends on."""
    plain: dict[str, Any] = yaml.safe_load(dump(stage.config))
    kept = {key: value for key, value in plain.items() if key not in stage.kind.free and key != "data"}
    if kept.get("shards", 0) is None:
        kept["shards"] = nproc  # that is what it then is
    return kept


def data_identity(source: SourceConfig) -> str:
    """Return what tells the content of a source from other content."""
    kind, argument = kind_of(source.spec)
    if kind == "hub":
        return source.spec
    if kind == "samples":
        view(argument)
        home = samples_folder()
        return f"samples:{argument} {_files(home, [*home.glob('*.parquet'), home / 'manifest.json'])}"
    place = Path(argument)
    if place.is_file():
        return _sum(place)
    files = [path for path in place.rglob("*") if path.is_file() and path.suffix.lower() in _SUFFIXES.get(kind, (path.suffix.lower(),))]
    return _files(place, files)


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
        self._look: dict[str, Callable[[Any], str]] = {"model": of_model, "data": of_data}
        self._seen: dict[tuple[str, Any], tuple[str, str | None]] = {}

    def model(self, model: str, problems: list[str]) -> str:
        return self._find("model", model, model, problems)

    def data(self, source: SourceConfig, problems: list[str]) -> str:
        return self._find("data", source.spec, source, problems)

    def _find(self, what: str, key: str, given: Any, problems: list[str]) -> str:
        if (what, key) not in self._seen:
            try:
                self._seen[what, key] = self._look[what](given), None
            except TwowayError as error:
                self._seen[what, key] = f"not here: {key}", str(error)
        found, problem = self._seen[what, key]
        if problem:
            problems.append(problem)
        return found


def _data(source: SourceConfig, found: _Remembered, problems: list[str]) -> dict[str, Any]:
    said = {"name": source.label, "weight": source.weight, "cap": source.cap, "template": source.template}
    return said | {"content": found.data(source, problems)}


def _files(home: Path, files: Any) -> str:
    """Hash files with their names within a folder."""
    sums = sorted((str(path.relative_to(home)), _sum(path)) for path in files if path.exists())
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest()


def _sum(path: Path) -> str:
    """Hash a file; of one that is larger than a gibibyte, its size and blocks all through it, the first and last among them."""
    size = path.stat().st_size
    if size <= _WHOLE or path.suffix == ".safetensors":
        return sha256(path)
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_BLOCKS):
            file.seek((size - _BLOCK) * number // (_BLOCKS - 1))
            found.update(file.read(_BLOCK))
    return found.hexdigest()
