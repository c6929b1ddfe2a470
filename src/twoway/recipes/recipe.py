"""A recipe: a base model and stages in order, each with its configuration. It is only read here.

    base: samples/base
    data: [{spec: samples:pretrain}]     # a top-level key is for every stage that has it
    stages:
      convert:
      warm-up: {stage: pretrain, max_steps: 100}
      tuned: {stage: finetune, from: warm-up, recipe: other.yaml}

The more specific setting wins: defaults, top-level keys, a stage's `recipe:` file, a stage's own keys; then the command line,
`*.key=value` for every stage that has the key and `stage.key=value` for one. `key=value` sets a top-level key.

A file without `stages` is a recipe of one stage: of the one that knows all its keys.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from twoway.config import Given, build, layer, put_words, read_tree
from twoway.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from twoway.data.config import SourceConfig

    from .stages import StageKind

    Find = Callable[[str], tuple[StageKind, Path]]  # the name of a stage -> its kind and its folder

START = "base"  # the key of the recipe's model, and its name in `from`
_STAGES, _EVERY = "stages", "*"
_OWN = ("stage", "from", "folder", "recipe")  # keys of a stage that are not its configuration's
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class StageRecipe:
    """One stage: what is done, from what, into which folder, with what configuration."""

    name: str
    kind: StageKind
    source: str  # the name of an earlier stage; or `base`; or a hub id or folder
    folder: str  # within the folder of the run
    config: Any


@dataclass(frozen=True)
class Recipe:
    """Stages in the order they are done."""

    name: str
    base: str
    stages: tuple[StageRecipe, ...]


def read_recipe(path: str | Path, words: Sequence[str] = (), *, kinds: Mapping[str, StageKind] | None = None) -> Recipe:
    """Read a recipe and the words over it; `kinds` are the stages that there are."""
    return recipe_of(read_tree(path), Path(path).stem, Path(path).parent, words, kinds=kinds)


def known_kinds(kinds: Mapping[str, StageKind] | None = None) -> Mapping[str, StageKind]:
    """Return these stages, or, where none are given, all that there are."""
    if kinds is None:
        from . import stages as known  # the stages themselves, which are heavy

        return known.KINDS
    return kinds


def recipe_of(tree: Given, name: str, home: Path, words: Sequence[str] = (), *, kinds: Mapping[str, StageKind] | None = None) -> Recipe:
    """Read a recipe from a tree; files that it names are relative to `home`."""
    kinds = known_kinds(kinds)
    if _STAGES not in (tree.children or {}):
        tree = _of_one(tree, kinds)
    listed = (tree.children or {})[_STAGES]
    if not listed.children:
        raise UsageError(f"{listed.where}: stages are names with what each does (stages: {{convert: …, pretrain: …}}), not {listed.shown}")
    given = {key: _group(key, stage) for key, stage in listed.children.items()}
    shared, every, each = _sort_words(words, given)
    whole = layer(dataclasses.replace(tree, children={key: one for key, one in (tree.children or {}).items() if key != _STAGES}), shared)
    made = {key: _kind(key, layer(stage, each[key]), kinds) for key, stage in given.items()}
    _require_known(whole, made.values(), beside=(START, _STAGES))
    _require_known(every, made.values())
    stages: list[StageRecipe] = []
    for number, (key, stage) in enumerate(given.items(), 1):
        config, own = _config(made[key], stage, whole, every, each[key], home)
        source = own.get("from") or _before(stages)
        _require_source(source, stages, given, f"{stage.where}: {key}")
        require_made(config, {one.name: one.kind for one in stages}, f"{stage.where}: {key}")
        stages.append(StageRecipe(key, made[key], source, own.get("folder") or f"{number}-{key}", config))
    _require_own_folders(stages, listed)
    return Recipe(name, _base(whole, stages), tuple(stages))


def _of_one(tree: Given, kinds: Mapping[str, StageKind]) -> Given:
    """Make a recipe of one stage out of a stage's settings."""
    keys = set(tree.children or {}) - {START}
    fitting = [name for name, kind in kinds.items() if keys <= kind.shared] or [name for name, kind in kinds.items() if keys <= kind.keys]
    fitting = [name for name in fitting if not kinds[name].named] or fitting
    if len(fitting) != 1 or not keys:
        what = f"its keys fit {' and '.join(fitting)}" if fitting and keys else "no stage has all of its keys"
        example = f"stages: {{{fitting[0] if fitting else next(iter(kinds))}: {{recipe: {Path(tree.where).name}}}}}"
        raise UsageError(f"{tree.where} has no stages, and {what}; write what each stage does ({example})")
    children = tree.children or {}
    stage = Given(tree.where, children={key: one for key, one in children.items() if key != START})
    root = {key: one for key, one in children.items() if key == START}
    return dataclasses.replace(tree, children={**root, _STAGES: Given(tree.where, children={fitting[0]: stage})})


def _group(name: str, stage: Given) -> Given:
    """Return a stage's keys; an empty stage has none."""
    if not _NAME.fullmatch(name) or name == START:
        raise UsageError(f"{stage.where}: a stage cannot be called {name!r}; letters, digits, - and _ make a name")
    if stage.children is None and not stage.is_null:
        raise UsageError(f"{stage.where}: {name} takes a group of keys, not {stage.shown}")
    return dataclasses.replace(stage, children=stage.children or {})


def _sort_words(words: Sequence[str], stages: Iterable[str]) -> tuple[Given, Given, dict[str, Given]]:
    """Sort the words of a command: for the whole recipe, for every stage, for one."""
    root = Given("the command", children={})
    put_words(root, words)
    found = root.children or {}
    apart = {name: found.pop(name, Given("the command", children={})) for name in (_EVERY, *stages)}
    for name, one in apart.items():
        if one.children is None:
            raise UsageError(f"{one.where}: {name} takes keys of its own, {name}.key=value")
    return root, apart.pop(_EVERY), apart


def _kind(name: str, stage: Given, kinds: Mapping[str, StageKind]) -> StageKind:
    """Return what a stage does: its key `stage`, or else its name."""
    said = (stage.children or {}).get("stage")
    verb = build(str, said, "stage") if said is not None else name
    if verb not in kinds:
        raise UsageError(
            f"{(said or stage).where}: there is no stage {verb!r}{did_you_mean(verb, kinds)} (there are: {', '.join(kinds)}; "
            "a stage of another name says what it does: stage: …)"
        )
    if name in {key for kind in kinds.values() for key in kind.shared}:
        raise UsageError(f"{stage.where}: a stage cannot be called {name}, which is a setting; choose another name, and add stage: {verb}")
    return kinds[verb]


def _config(kind: StageKind, stage: Given, whole: Given, every: Given, words: Given, home: Path) -> tuple[Any, dict[str, str]]:
    """Build a stage's configuration out of its layers; return beside it the keys that are the recipe's own."""
    said = layer(stage, words)
    own = {key: build(str, one, key) for key, one in (said.children or {}).items() if key in _OWN}
    layers = [_only(whole, kind.shared - {START})]
    if "recipe" in own:
        layers.append(_included(home / own["recipe"], stage))
    layers += [_without(stage), _only(every, kind.shared), _without(words)]
    tree = Given(stage.where, children={})
    for over in layers:
        tree = dataclasses.replace(layer(tree, over), where=stage.where)
    return build(kind.config, tree, ""), own


def _included(path: Path, stage: Given) -> Given:
    """Read the settings of one stage out of a file of their own."""
    if not path.exists():
        raise UsageError(f"{stage.where}: there is no {path} (recipe: names a file beside this one)")
    tree = read_tree(path)
    if _STAGES in (tree.children or {}):
        raise UsageError(f"{stage.where}: {path} holds stages itself; recipe: names the settings of one stage")
    return tree


def _only(tree: Given, keys: Iterable[str]) -> Given:
    return dataclasses.replace(tree, children={key: one for key, one in (tree.children or {}).items() if key in set(keys)})


def _without(tree: Given) -> Given:
    return dataclasses.replace(tree, children={key: one for key, one in (tree.children or {}).items() if key not in _OWN})


def _require_known(tree: Given, kinds: Iterable[StageKind], beside: Sequence[str] = ()) -> None:
    """Refuse a key that no stage has."""
    kinds = list(kinds)
    known = {key for kind in kinds for key in kind.shared} | set(beside)
    for key, one in (tree.children or {}).items():
        if key not in known:
            own = next((f"; {kind.name} takes it under its own name alone" for kind in kinds if key in kind.keys), "")
            near = own or did_you_mean(key, known) or _inside(key, kinds)
            raise UsageError(f"{one.where}: no stage of this recipe has a key {key}{near}")


def _inside(key: str, kinds: Iterable[StageKind]) -> str:
    """Point to the same key inside a group."""
    for kind in kinds:
        for name, hint in get_type_hints(kind.config).items():
            for one in (hint, *get_args(hint)):
                if dataclasses.is_dataclass(one) and key in {field.name for field in dataclasses.fields(one)}:
                    return f"; did you mean {name}.{key}?"
    return ""


def _before(stages: Sequence[StageRecipe]) -> str:
    """Return the latest stage that makes a model, or the model of the recipe."""
    return next((one.name for one in reversed(stages) if one.kind.makes_model), START)


def _require_source(source: str, stages: Sequence[StageRecipe], given: Iterable[str], where: str) -> None:
    """Refuse a stage that is not done before, one that makes no model, and a name that is none."""
    before = {one.name: one for one in stages}
    if source in before and not before[source].kind.makes_model:
        raise UsageError(f"{where} cannot start from {source}, which makes no model; name another stage (from: …)")
    if source in before or source == START:
        return
    if source in given:
        raise UsageError(f"{where} cannot start from {source}, which is not done before it")
    if "/" not in source and not Path(source).exists():
        near = did_you_mean(source, [START, *before])
        raise UsageError(f"{where} starts from {source!r}, which is not a stage before it, a folder or an owner/name of the hub{near}")


def _require_own_folders(stages: Sequence[StageRecipe], listed: Given) -> None:
    taken: dict[str, str] = {}
    for one in stages:
        if not _NAME.fullmatch(one.folder):
            raise UsageError(f"{listed.where}: the folder of {one.name} is a plain name, not {one.folder!r}")
        if one.folder in taken:
            raise UsageError(f"{listed.where}: {taken[one.folder]} and {one.name} have one folder, {one.folder}")
        taken[one.folder] = one.name


def _base(whole: Given, stages: Sequence[StageRecipe]) -> str:
    """Return the model that the recipe starts from."""
    said = (whole.children or {}).get(START)
    if said is not None:
        return str(build(str, said, START))
    if any(one.source == START for one in stages):
        raise UsageError(f"{whole.where}: no base is named; say what to start from (base: samples/base, or base=… behind the recipe)")
    return ""


# What an earlier stage makes: a source `stage:NAME` of a recipe stands for the rows of that stage, and a model
# `stage:NAME` for its model, wherever they come to lie.
#
# stages:
#   mine: {data: [{spec: samples:train}]}
#   finetune: {from: base, data: [{spec: "stage:mine"}]}
#   merge: {models: ["stage:pretrain"]}

PREFIX = "stage:"


def sources_of(config: Any) -> dict[str, tuple[SourceConfig, ...]]:
    """Return the settings that are lists of sources."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {key: value for key, value in values.items() if isinstance(value, tuple) and value and hasattr(value[0], "spec")}


def made_by(source: SourceConfig) -> str | None:
    """Return the stage that makes a source, if one does."""
    return source.spec.removeprefix(PREFIX) if source.spec.startswith(PREFIX) else None


def models_of(config: Any) -> dict[str, str | tuple[str, ...]]:
    """Return the settings that name a model, or several."""
    named = [field.name for field in dataclasses.fields(config) if field.metadata.get("metavar") == "MODEL"]
    return {key: value for key in named if (value := getattr(config, key))}


def named_stages(config: Any) -> set[str]:
    """Return the stages whose rows or models a configuration reads."""
    return _rows_of(config) | {one.removeprefix(PREFIX) for one in _each_model(config) if one.startswith(PREFIX)}


def _rows_of(config: Any) -> set[str]:
    return {name for listed in sources_of(config).values() for one in listed if (name := made_by(one)) is not None}


def _each_model(config: Any) -> Iterable[str]:
    return (one for value in models_of(config).values() for one in ([value] if isinstance(value, str) else value))


def require_made(config: Any, before: Mapping[str, StageKind], where: str) -> None:
    """Refuse rows or the model of a stage that is not done before, or makes none."""
    rows = _rows_of(config)
    for name in sorted(named_stages(config)):
        what = "rows" if name in rows else "a model"
        making = [one for one, kind in before.items() if (kind.rows is not None if name in rows else kind.makes_model)]
        if name not in making:
            known = f"there are: {', '.join(making)}" if making else "there is none"
            raise UsageError(
                f"{where} reads {PREFIX}{name}, and no stage of that name makes {what} before it{did_you_mean(name, making)} ({known})"
            )


def named(source: SourceConfig) -> SourceConfig:
    """Give a source that a stage makes the name of that stage, independent of its folder."""
    return source if made_by(source) is None else dataclasses.replace(source, name=source.label.removeprefix(PREFIX))


def located(config: Any, find: Find) -> Any:
    """Return the configuration with the places of such rows and models."""
    if not named_stages(config):
        return config
    changed: dict[str, Any] = {key: tuple(_rows(one, find) for one in listed) for key, listed in sources_of(config).items()}
    for key, value in models_of(config).items():
        changed[key] = _model(value, find) if isinstance(value, str) else tuple(_model(one, find) for one in value)
    return dataclasses.replace(config, **changed)


def _rows(source: SourceConfig, find: Find) -> SourceConfig:
    name = made_by(source)
    if name is None:
        return source
    kind, folder = find(name)
    assert kind.rows is not None
    spec, root = kind.rows(folder)
    return dataclasses.replace(named(source), spec=spec, root=root)


def _model(model: str, find: Find) -> str:
    return str(find(model.removeprefix(PREFIX))[1]) if model.startswith(PREFIX) else model
