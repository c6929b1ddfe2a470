"""Configuration: a frozen dataclass says what there is, a YAML file and `key=value` words fill it, and everything else is an error.

Two steps: text becomes a tree that knows the line of every key (here), and the dataclass's types read the tree (`config_types`).
Aliases are refused, so that a key has one place and a short file cannot unfold into a huge one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .config_types import Given, build
from .errors import UsageError

DEEPEST = 100  # levels of a configuration; far deeper ones would end in the parser, where the interpreter's own limit stands
_OPENING = (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)

Config = TypeVar("Config")


def load(cls: type[Config], path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a dataclass from a YAML file and from `key=value` words, which win; `a.b=1` reaches into a nested dataclass."""
    root = read_tree(path) if path is not None else Given("the configuration", children={})
    put_words(root, overrides)
    built: Config = build(cls, root, "")
    return built


def fill(cls: type[Config], values: Mapping[str, Any], where: str, *, over: object = None) -> Config:
    """Build a dataclass from Python's own values by the same types, with the same errors, groups as dicts or as their dataclasses.

    They stand over the values of `over`, as words stand over a file; `where` is said in errors.
    """
    tree = _of_values(values, where)
    if over is not None:
        tree = layer(_of_values(_plain(over), where), tree)
    built: Config = build(cls, tree, "")
    return built


def _of_values(values: Mapping[str, Any], where: str) -> Given:
    """Turn Python's values into a tree, each through the YAML that it would be written as."""
    children = {}
    for key, value in values.items():
        try:
            node = yaml.compose(yaml.safe_dump(_plain(value), allow_unicode=True), Loader=yaml.SafeLoader)
        except yaml.representer.RepresenterError as error:
            raise UsageError(f"{where}: {key} cannot be of the type {type(error.args[-1]).__name__}") from error
        assert node is not None  # null is written out
        children[key] = _tree(node, where, None)
    return Given(where, children=children)


def put_words(root: Given, words: Sequence[str]) -> None:
    """Put `key=value` words into a tree, over what it says."""
    seen: set[str] = set()
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise UsageError(f"{word!r} is not of the form key=value")
        if key in seen:
            raise UsageError(f"{word}: {key} is set twice")
        seen.add(key)
        _place(root, key.split("."), _from_word(word, text), word)


def layer(under: Given, over: Given) -> Given:
    """Lay one tree over another: groups of keys are joined, and of anything else the upper one stands."""
    if under.children is None or over.children is None:
        return over
    joined = dict(under.children)
    for key, value in over.children.items():
        joined[key] = layer(joined[key], value) if key in joined else value
    return dataclasses.replace(over if over.children else under, children=joined)


def dump(config: object) -> str:
    """Return the whole configuration as YAML, defaults included; `load` reads it back to an equal object."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True, width=120)


def read_tree(path: str | Path) -> Given:
    """Read a file into a tree that knows the line of every key."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start + 1})") from error
    except OSError as error:
        raise UsageError(f"the configuration {path} cannot be read ({error.strerror})") from error
    try:
        depth = 0
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > DEEPEST:
                raise UsageError(f"{path}: invalid YAML (nested too deeply)")
            if isinstance(token, yaml.AliasToken):
                raise UsageError(f"{path}:{token.start_mark.line + 1}: aliases (*{token.value}) are not read; write the value out")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = Given(str(path), children={}) if node is None else _tree(node, str(path), str(path))
    except yaml.MarkedYAMLError as error:
        raise UsageError(f"{path}{_line(error)}: invalid YAML ({error.problem})") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: invalid YAML ({str(error).splitlines()[0]})") from error
    if tree.children is None:
        raise UsageError(f"{path}: a configuration is keys with values, not {tree.shown}")
    return dataclasses.replace(tree, where=str(path))


def _from_word(word: str, text: str) -> Given:
    """Read the value of a `key=value` word; its plain text is kept for keys that take text, because nobody quotes for YAML in a shell."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = Given(word, scalar=yaml.ScalarNode("tag:yaml.org,2002:null", "")) if node is None else _tree(node, word, None)
    except (yaml.YAMLError, RecursionError, UsageError):
        tree = Given(word, scalar=yaml.ScalarNode("tag:yaml.org,2002:str", text))
    return dataclasses.replace(tree, text=text)


def _tree(node: yaml.Node, where: str, file: str | None) -> Given:
    """Turn nodes into a tree of places; within a file a place is its line, within a word the word."""
    if isinstance(node, yaml.SequenceNode):
        return Given(where, items=[_tree(item, _at(item, where, file), file) for item in node.value])
    if isinstance(node, yaml.ScalarNode):
        return Given(where, scalar=node)
    children: dict[str, Given] = {}
    for key, value in node.value:
        place = _at(key, where, file)
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{place}: a key is a single word, not a list or a group")
        if key.value in children:
            raise UsageError(f"{place}: {key.value} is there twice (first at {children[key.value].where})")
        children[key.value] = _tree(value, place, file)
    return Given(where, children=children)


def _place(root: Given, names: Sequence[str], value: Given, word: str) -> None:
    """Put the value of a word into the tree, over what the file says there."""
    for name in names[:-1]:
        children = root.children if root.children is not None else {}
        root = children.setdefault(name, Given(word, children={}))
        if root.children is None:
            # `a: null` in the file, `a.b=1` in the word: the word wins.
            root.where, root.scalar, root.items, root.text, root.children = word, None, None, None, {}
    if root.children is not None:
        root.children[names[-1]] = value


def _at(node: yaml.Node, where: str, file: str | None) -> str:
    """Return the place of a node."""
    return where if file is None else f"{file}:{node.start_mark.line + 1}"


def _line(error: yaml.MarkedYAMLError) -> str:
    """Return the line of a syntax error, where it is known."""
    return f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""


def _plain(value: Any) -> Any:
    """Turn a configuration into what YAML knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if getattr(value, "ndim", None) == 0:
        return value.item()  # a number of numpy's or torch's
    return str(value) if isinstance(value, Path) else value
