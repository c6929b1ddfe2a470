"""Data that an earlier stage makes: a source `stage:NAME` of a recipe stands for the rows of that stage, wherever they come to lie.

stages:
  mine: {data: [{spec: samples:train}]}
  finetune: {from: base, data: [{spec: "stage:mine"}]}
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from twoway.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from twoway.data.mixture import SourceConfig

    from .kinds import Kind

PREFIX = "stage:"


def sources_of(config: Any) -> dict[str, tuple[SourceConfig, ...]]:
    """Return the settings that are lists of sources."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {key: value for key, value in values.items() if isinstance(value, tuple) and value and hasattr(value[0], "spec")}


def made_by(source: SourceConfig) -> str | None:
    """Return the stage that makes a source, if one does."""
    return source.spec.removeprefix(PREFIX) if source.spec.startswith(PREFIX) else None


def names_of(config: Any) -> set[str]:
    """Return the stages whose rows a configuration reads."""
    return {name for listed in sources_of(config).values() for one in listed if (name := made_by(one)) is not None}


def require_made(config: Any, before: Mapping[str, Kind], where: str) -> None:
    """Refuse rows of a stage that is not done before, or makes none."""
    making = [name for name, kind in before.items() if kind.rows is not None]
    for name in sorted(names_of(config)):
        if name not in making:
            known = f"there are: {', '.join(making)}" if making else "there is none"
            raise UsageError(
                f"{where} reads {PREFIX}{name}, and no stage of that name makes rows before it{did_you_mean(name, making)} ({known})"
            )


def named(source: SourceConfig) -> SourceConfig:
    """Give a source that a stage makes the name of that stage, which it has wherever its rows lie."""
    return source if made_by(source) is None else dataclasses.replace(source, name=source.label.removeprefix(PREFIX))


def located(config: Any, find: Callable[[str], tuple[str, Path | None]]) -> Any:
    """Return the configuration with the places of such rows; `find` gives spec and root of a stage's rows."""
    changed = {key: tuple(_located(listed, find)) for key, listed in sources_of(config).items()}
    return dataclasses.replace(config, **changed) if names_of(config) else config


def _located(listed: Iterable[SourceConfig], find: Callable[[str], tuple[str, Path | None]]) -> Iterable[SourceConfig]:
    for one in listed:
        name = made_by(one)
        if name is None:
            yield one
        else:
            spec, root = find(name)
            yield dataclasses.replace(named(one), spec=spec, root=root)
