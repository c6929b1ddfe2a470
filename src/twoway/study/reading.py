"""From a study's YAML to a `Study`: arms and stages become stages of one recipe, so that every rule of recipes holds here too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from twoway.config import layer, put_words, read_tree
from twoway.config_types import Given, build, read
from twoway.errors import UsageError, did_you_mean
from twoway.stages.evaluate_config import EvaluateConfig
from twoway.stages.recipe import START, known_kinds, recipe_of

from .config import Arm, Before, Claim, Gate, Search, Study

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twoway.stages.kinds import Kind
    from twoway.stages.recipe import StageRecipe

KEYS = ("base", "seeds", "stages", "finetune", "evaluate", "arms", "gate", "smallest", "claims")
_ROWS, _SEEDS, _RATE = "rows", "seeds", "lr"


def read_study(path: str | Path, words: Sequence[str] = (), *, kinds: Mapping[str, Kind] | None = None) -> Study:
    """Read a study file, with `key=value` words over it (`seeds=[1]`, `finetune.rows=64`, `arms.causal.lr=1e-4`)."""
    kinds = known_kinds(kinds)
    path, root = Path(path), read_tree(path)
    put_words(root, words)
    parts = _parts(root)
    stages, arms = _named(parts, "stages"), _named(parts, "arms")
    if not arms:
        raise UsageError(f"{path}: a study has arms, names with what each does (arms: {{causal: {{attention: causal}}}})")
    both = [name for name in arms if name in stages]
    if both:
        raise UsageError(f"{arms[both[0]].where}: {both[0]} is the name of a stage and of an arm")
    shared = parts.get("finetune", Given(str(path), children={}))
    listed = {name: _stage(one) for name, one in stages.items()}
    listed |= {name: _stage(layer(shared, one), "finetune") for name, one in arms.items()}
    beside = {name: _beside(layer(shared, one) if name in arms else one, name) for name, one in (stages | arms).items()}
    base = parts.get("base", Given(str(path), scalar=yaml.ScalarNode("tag:yaml.org,2002:null", "")))
    tree = Given(str(path), children={"base": base, "stages": Given(str(path), children=listed)})
    recipe = recipe_of(tree, path.stem, path.parent, kinds=kinds)
    found = {one.name: _with_rows(one, beside[one.name]) for one in recipe.stages}
    study = Study(
        name=path.stem,
        file=path,
        words=tuple(words),
        base=recipe.base,
        seeds=read(tuple[int, ...], parts["seeds"], _SEEDS) if _SEEDS in parts else (1, 2, 3),
        before=tuple(Before(found[name], beside[name].seeds or (getattr(found[name].config, "seed", 0),)) for name in stages),
        arms=tuple(Arm(found[name], beside[name].search) for name in arms),
        evaluate=build(EvaluateConfig, parts["evaluate"], "evaluate") if "evaluate" in parts else EvaluateConfig(),
        gate=build(Gate, parts["gate"], "gate") if "gate" in parts else Gate(),
        claims=tuple(read(tuple[Claim, ...], parts["claims"], "claims")) if "claims" in parts else (),
        smallest=read(float, parts["smallest"], "smallest") if "smallest" in parts else 0.01,
    )
    study.require_whole()
    return study


@dataclasses.dataclass(frozen=True)
class _Beside:
    """Keys of a stage that are the study's: how many rows, which seeds, how the rate is found."""

    where: str
    rows: int | None
    seeds: tuple[int, ...]
    search: Search | None


def _parts(root: Given) -> dict[str, Given]:
    parts = root.children or {}
    for key, one in parts.items():
        if key not in KEYS:
            raise UsageError(f"{one.where}: a study has no key {key}{did_you_mean(key, KEYS)} (it has: {', '.join(KEYS)})")
    return parts


def _named(parts: Mapping[str, Given], key: str) -> dict[str, Given]:
    """Return a group of names; a name that says nothing stands for what all share."""
    group = parts.get(key)
    if group is None or group.tag == "null":
        return {}
    if group.children is None:
        raise UsageError(f"{group.where}: {key} takes names with what each does, not {group.shown}")
    found = {}
    for name, one in group.children.items():
        if one.children is None and one.tag != "null":
            raise UsageError(f"{one.where}: {key}.{name} takes a group of keys, not {one.shown}")
        found[name] = dataclasses.replace(one, children=one.children or {}, scalar=None)
    return found


def _stage(given: Given, verb: str | None = None) -> Given:
    """Return a stage as a recipe has it; one that does not say what it starts from starts from the base."""
    children = {key: one for key, one in (given.children or {}).items() if key not in (_ROWS, _SEEDS) and not _is_search(key, one)}
    said = {"from": START} | ({"stage": verb} if verb else {})
    if verb and "stage" in children:
        raise UsageError(f"{children['stage'].where}: an arm is a contrastive stage (finetune); other stages stand under stages:")
    for key, text in said.items():
        children.setdefault(key, Given(given.where, scalar=yaml.ScalarNode("tag:yaml.org,2002:str", text)))
    return dataclasses.replace(given, children=children)


def _is_search(key: str, given: Given) -> bool:
    return key == _RATE and given.children is not None


def _beside(given: Given, name: str) -> _Beside:
    children = given.children or {}
    rows, seeds, rate = (children.get(key) for key in (_ROWS, _SEEDS, _RATE))
    return _Beside(
        given.where,
        None if rows is None else read(int, rows, f"{name}.{_ROWS}"),
        () if seeds is None else read(tuple[int, ...], seeds, f"{name}.{_SEEDS}"),
        build(Search, rate, f"{name}.{_RATE}") if rate is not None and _is_search(_RATE, rate) else None,
    )


def _with_rows(stage: StageRecipe, beside: _Beside) -> StageRecipe:
    """Turn rows into steps."""
    if beside.rows is None:
        return stage
    return dataclasses.replace(stage, config=with_rows(stage.config, beside.rows, f"{beside.where}: {stage.name}"))


def with_rows(config: Any, rows: int, where: str) -> Any:
    """Return the configuration with as many steps as `rows` make."""
    each = rows_of_step(config)
    if each is None:
        raise UsageError(f"{where}: rows are counted in steps of a fixed number of rows; set batch_rows beside rows")
    if rows < each or rows % each:
        raise UsageError(
            f"{where}: rows is a multiple of the {each} rows of a step, not {rows} (the next: {max(1, round(rows / each)) * each})"
        )
    return dataclasses.replace(config, max_steps=rows // each)


def rows_of_step(config: Any) -> int | None:
    """Return the rows of a training step, where they are fixed."""
    if (batch := getattr(config, "batch", None)) is not None:
        return int(batch)
    each = getattr(config, "batch_rows", None)
    return None if each is None else int(each) * (config.shards or 1)


def rows_read(config: Any) -> int | None:
    """Return the rows that a stage reads, where they are fixed."""
    each, steps = rows_of_step(config), getattr(config, "max_steps", None)
    return None if each is None or steps is None else each * steps
