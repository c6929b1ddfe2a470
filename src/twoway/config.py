"""Configuration: a frozen dataclass says what there is, a YAML file and `key=value` words fill it, and everything else is an error."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from .errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable


# The types of a configuration: how bool, int, float, str, Path, Literal, Optional, tuple, list, dict and nested
# dataclasses read YAML.
#
# YAML 1.1 guesses types by look, which bites: `no` is a boolean, `1e-5` is text, `12:30` is a number and `010` is
# eight. Here the declared type decides, and what does not fit it exactly is an error that names place and key. So
# `1e-5` is a number where one is asked for, `no` for a text asks for quotes, and sixty-based and octal numbers do not
# exist.

_INT = re.compile(r"[+-]?(0|[1-9][0-9_]*)$")
_FLOAT = re.compile(r"[+-]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][+-]?[0-9]+)?$|[+-]?\.(inf|Inf|INF)$")
_TRUE, _FALSE = {"true", "yes", "on"}, {"false", "no", "off"}
_TEXT_TAGS = {"str", "timestamp", "value", "merge"}


@dataclass
class Given:
    """A value as it is written: one of scalar, items and children, with its place; `text` is set for the value of a `key=value` word."""

    where: str
    scalar: yaml.ScalarNode | None = None
    items: list[Given] | None = None
    children: dict[str, Given] | None = None
    text: str | None = None

    @property
    def tag(self) -> str:
        """The type that YAML sees in a scalar."""
        return "" if self.scalar is None else str(self.scalar.tag).rsplit(":", 1)[-1]

    @property
    def value(self) -> str:
        """The text of a scalar."""
        return "" if self.scalar is None else str(self.scalar.value)

    @property
    def plain(self) -> bool:
        """Whether a scalar stands without quotes."""
        return self.scalar is not None and self.scalar.style is None

    @property
    def shown(self) -> str:
        """The value in an error's words."""
        if self.scalar is None:
            return "a list" if self.items is not None else "a group of keys"
        return "nothing" if self.tag == "null" else repr(self.value)


def build(cls: Any, given: Given, name: str) -> Any:
    """Fill a dataclass; `name` is its dotted key, empty for the whole configuration."""
    if given.children is None:
        raise _wrong(given, name, f"a group of keys ({', '.join(_fields(cls))})")
    hints, fields, prefix = get_type_hints(cls), _fields(cls), f"{name}." if name else ""
    for key, value in given.children.items():
        if key not in fields:
            raise UsageError(f"{value.where}: unknown key {prefix}{key}{_nearest(cls, key, prefix)}")
    values = {key: read(hints[key], value, prefix + key) for key, value in given.children.items()}
    missing = [f"{prefix}{key} ({describe(hints[key])})" for key, field in fields.items() if key not in values and _required(field)]
    if missing:
        raise UsageError(f"{given.where}: missing {', '.join(missing)}")
    try:
        return cls(**values)
    except (ValueError, UsageError) as error:
        raise UsageError(f"{given.where}: {error}") from error


def read(kind: Any, given: Given, name: str) -> Any:
    """Read one value as the declared type."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(args, given, name)
    if origin is Literal:
        return _choice(args, given, name)
    if dataclasses.is_dataclass(kind):
        return build(kind, given, name)
    if origin in (tuple, list, Sequence):
        return _list(kind, given, name)
    if origin in (dict, Mapping):
        if given.children is None:
            raise _wrong(given, name, describe(kind))
        return {key: read(args[1], value, f"{name}.{key}") for key, value in given.children.items()}
    if kind not in _SCALARS:
        raise TypeError(f"{name}: a configuration cannot hold {kind!r}")
    return _SCALARS[kind](given, name)


def describe(kind: Any) -> str:
    """Say a type in a reader's words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(str(arg).lower() if isinstance(arg, bool) else str(arg) for arg in args)
    if origin in (tuple, list, Sequence):
        if origin is tuple and args[-1] is not Ellipsis:
            return f"a list of {len(args)} ({', '.join(describe(arg) for arg in args)})"
        return f"a list like [..., ...], each {describe(args[0])}"
    if origin in (dict, Mapping):
        return f"names with values, each {describe(args[1])}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path", type(None): "null"}
    return words.get(kind, "a group of keys")


def _int(given: Given, name: str) -> int:
    """Read a whole number in base ten."""
    if given.tag != "int" or not _INT.match(given.value) or len(given.value) > 40:
        raise _wrong(given, name, describe(int))
    return int(given.value.replace("_", ""))


def _float(given: Given, name: str) -> float:
    """Read a number, a whole one too, and in any way of writing the exponent."""
    if not given.plain or not _FLOAT.match(given.value):
        raise _wrong(given, name, describe(float))
    number = float(given.value.lower().replace("_", "").replace(".inf", "inf"))
    if math.isinf(number) and "inf" not in given.value.lower():
        raise _wrong(given, name, "a number that a float can hold")
    return number


def _bool(given: Given, name: str) -> bool:
    """Read true or false."""
    if given.tag != "bool":
        raise _wrong(given, name, describe(bool))
    return given.value.lower() in _TRUE


def _str(given: Given, name: str) -> str:
    """Read text: from a file only what YAML takes for text too, from a word whatever stands behind the equals sign."""
    if given.text is not None and (given.scalar is None or given.plain):
        return given.text
    if given.tag not in _TEXT_TAGS:
        raise _wrong(given, name, "text" + ("; put it in quotes" if given.scalar is not None and given.tag != "null" else ""))
    return given.value


def _path(given: Given, name: str) -> Path:
    """Read a path, relative to where the command runs."""
    text = _str(given, name)
    if not text:
        raise _wrong(given, name, "a path")
    return Path(text)


def _none(given: Given, name: str) -> None:
    """Read null."""
    if given.tag != "null":
        raise _wrong(given, name, "null")


_SCALARS: dict[Any, Callable[[Given, str], Any]] = {bool: _bool, int: _int, float: _float, str: _str, Path: _path, type(None): _none}


def _choice(choices: tuple[Any, ...], given: Given, name: str) -> Any:
    """Read one of a few values; a text choice matches by its letters, so that `off` needs no quotes."""
    for choice in choices:
        if isinstance(choice, str):
            if given.scalar is not None and given.value == choice:
                return choice
            continue
        try:
            if read(type(choice), given, name) == choice:
                return choice
        except UsageError:
            continue
    near = did_you_mean(given.value, [choice for choice in choices if isinstance(choice, str)])
    raise _wrong(given, name, describe(Literal[choices]), near)


def _union(kinds: tuple[Any, ...], given: Given, name: str) -> Any:
    """Read the first type that fits; text comes last, because a word's text fits anything."""
    if type(None) in kinds and given.tag == "null":
        return None
    rest = sorted((kind for kind in kinds if kind is not type(None)), key=lambda kind: kind in (str, Path))
    if len(rest) == 1:
        return read(rest[0], given, name)
    groups = [kind for kind in rest if dataclasses.is_dataclass(kind)]
    if given.children is not None and len(groups) == 1:
        return read(groups[0], given, name)  # its own error names the key
    lists = [kind for kind in rest if get_origin(kind) in (tuple, list, Sequence)]
    if given.items is not None and len(lists) == 1:
        return read(lists[0], given, name)
    for kind in rest:
        try:
            return read(kind, given, name)
        except UsageError:
            continue
    raise _wrong(given, name, " or ".join(describe(kind) for kind in kinds))


def _list(kind: Any, given: Given, name: str) -> Any:
    """Read a list, of any length or, for a tuple of named types, of just theirs."""
    origin, args = get_origin(kind), get_args(kind)
    if given.items is None:
        raise _wrong(given, name, describe(kind))
    kinds = args if origin is tuple and args[-1] is not Ellipsis else (args[0],) * len(given.items)
    if len(kinds) != len(given.items):
        raise _wrong(given, name, describe(kind), f" of {len(given.items)}")
    values = [read(each, item, f"{name}[{number}]") for number, (each, item) in enumerate(zip(kinds, given.items, strict=True), 1)]
    return values if origin is list else tuple(values)


def _wrong(given: Given, name: str, wanted: str, more: str = "") -> UsageError:
    """Say that a value does not fit."""
    return UsageError(f"{given.where}: {name} takes {wanted}, not {given.shown}{more}")


def _fields(cls: Any) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields that a configuration may set."""
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


# Settings by the names that other trainers have for them, each with where it may be here, the likeliest first.
_ELSEWHERE: dict[str, tuple[str, ...]] = {
    "batch_size": ("global_batch_size", "batch_rows", "budget"),
    "batch": ("global_batch_size", "batch_rows", "budget"),
    "per_device_train_batch_size": ("global_batch_size", "batch_rows", "budget"),
    "train_batch_size": ("global_batch_size", "batch_rows", "budget"),
    "gradient_accumulation_steps": ("shards",),
    "lr": ("learning_rate",),
    "epochs": ("num_train_epochs",),
    "num_epochs": ("num_train_epochs",),
    "warmup": ("warmup_steps",),
    "warmup_ratio": ("warmup_steps",),
    "clip": ("max_grad_norm",),
    "gradient_clipping": ("max_grad_norm",),
    "beta1": ("adam_beta1",),
    "beta2": ("adam_beta2",),
    "log_steps": ("logging_steps",),
    "save_total": ("save_total_limit",),
    "workers": ("dataloader_num_workers",),
    "num_workers": ("dataloader_num_workers",),
    "prefetch": ("dataloader_prefetch_factor",),
    "prefetch_factor": ("dataloader_prefetch_factor",),
    "pin_memory": ("dataloader_pin_memory",),
    "log": ("report_to",),
    "keep": ("load_best_model_at_end",),
    "compile": ("torch_compile",),
    "bf16": ("dtype",),
    "fp16": ("dtype",),
    "torch_dtype": ("dtype",),
    "mixed_precision": ("dtype",),
    "max_seq_length": ("max_length",),
    "max_len": ("max_length",),
    "cutoff_len": ("max_length",),
    "r": ("lora.rank",),
    "lora_r": ("lora.rank",),
    "lora_rank": ("lora.rank",),
    "lora_alpha": ("lora.alpha",),
    "lora_dropout": ("lora.dropout",),
    "use_dora": ("lora.dora",),
    "scale": ("loss.temperature",),
    "num_hard_negatives": ("hard_negatives",),
    "num_negatives": ("hard_negatives", "choice.negatives"),
    "train_group_size": ("hard_negatives",),
    "mlm_probability": ("mask.words",),
    "mask_ratio": ("mask.patches",),
    "matryoshka_dims": ("loss.dims",),
    "dataset_name": ("data",),
    "train_file": ("data",),
    "train_data": ("data",),
}


def _nearest(cls: Any, key: str, prefix: str) -> str:
    """Point to the same key inside a group, to what another trainer's name means here, or to the nearest key; else list the keys."""
    places = _places(cls)
    inside = [place for place in places if place.rpartition(".")[2] == key and place != key]
    known = [place for place in _ELSEWHERE.get(key, ()) if place in places]
    if found := [*inside, *known]:
        return f"; did you mean {prefix}{found[0]}?"
    fields = _fields(cls)
    near = did_you_mean(key, fields)
    return near.replace("mean ", f"mean {prefix}") if near else f" (known: {', '.join(fields)})"


def _places(cls: Any) -> list[str]:
    """Return the names of all settings, those of groups as group.name."""
    hints, found = get_type_hints(cls), []
    for name in _fields(cls):
        found.append(name)
        for kind in (hints[name], *get_args(hints[name])):
            if dataclasses.is_dataclass(kind):
                found += [f"{name}.{one}" for one in _fields(kind)]
    return found


# Configuration: a frozen dataclass says what there is, a YAML file and `key=value` words fill it, and everything else
# is an error.
#
# Two steps: text becomes a tree that knows the line of every key (here), and the dataclass's types read the tree
# (above). Aliases are refused, so that a key has one place and a short file cannot unfold into a huge one.

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
