"""Stages that write a file instead of training, and recipes of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml

from twoway.config import Field, settings
from twoway.data.config import SourceConfig
from twoway.recipes.stages import StageKind

SHARED = ("stages",)


@settings
class Group:
    a: int = 0
    b: int = 0


@settings
class MakeConfig:
    width: int = 8


@settings
class TrainConfig:
    seed: int = 0
    steps: int = 4
    learning_rate: float = 1.0
    dataloader_num_workers: int = 1  # changes no result
    data: tuple[SourceConfig, ...] = ()
    group: Group = Field(default_factory=Group)


@settings
class ScoreConfig:
    seed: int = 0
    tasks: tuple[str, ...] = ()


class Log:
    """What the stages did, and where one is to break off: `broken[folder]` is raised after half of the steps."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []  # folder, what it starts from, first step
        self.broken: dict[str, BaseException] = {}
        self.configs: dict[str, Any] = {}


LOG = Log()


def _run(name: str, steps: int, base: str, out: Path, config: Any) -> dict[str, Any]:
    """Work step by step, and go on where an earlier call broke off."""
    out.mkdir(parents=True, exist_ok=True)
    so_far = out / "steps"
    begin = int(so_far.read_text()) if so_far.exists() else 0
    LOG.calls.append((out.name, Path(base).name, begin))
    for step in range(begin, steps):
        if out.name in LOG.broken and step == steps // 2:
            raise LOG.broken.pop(out.name)
        so_far.write_text(str(step + 1))
    LOG.configs[out.name] = config
    (out / "made.json").write_text(json.dumps({"stage": name, **dataclasses.asdict(config)}, default=str))
    return {"steps": steps, "loss": 0.5}


def _kind(name: str, config: type, *, makes_model: bool = True) -> StageKind:
    def run(base: str, out: Path, given: Any, nproc: int) -> dict[str, Any]:
        return _run(name, getattr(given, "steps", 1), base, out, given)

    return StageKind(name, config, run, marker="made.json", makes_model=makes_model, free=frozenset({"dataloader_num_workers"}))


@settings
class GatherConfig:
    many: int = 3


def _gathered(folder: Path) -> tuple[str, Path | None]:
    return f"jsonl:{folder / 'made.json'}", folder


@settings
class JoinConfig:
    models: tuple[str, ...] = Field(default=(), metavar="MODEL")
    judge: str | None = Field(default=None, metavar="MODEL")


JOIN = _kind("join", JoinConfig)
GATHER = dataclasses.replace(_kind("gather", GatherConfig, makes_model=False), rows=_gathered)
KINDS = {one.name: one for one in (_kind("make", MakeConfig), _kind("train", TrainConfig), _kind("score", ScoreConfig, makes_model=False))}


def write(folder: Path, stages: dict[str, Any], **shared: Any) -> Path:
    """Write a recipe; its base is a folder that holds a model, as far as a hash can tell."""
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"base": str(base), **shared, "stages": stages}, sort_keys=False))
    return path
