"""Configuration: a frozen dataclass says what there is; a YAML file, `key=value` words and options fill it; everything else is an error.

    @settings
    class Train:
        model: str
        learning_rate: float = Field(default=2e-6, gt=0, description="peak of the learning rate")

    load(Train, "train.yaml", ["learning_rate=1e-5"])

YAML 1.1 guesses types by look, which bites: `no` is a boolean, `1e-5` is text, `12:30` is a number and `010` is eight. Here the declared
type decides: `1e-5` is a number where one is asked for, `no` for a text asks for quotes, and sixty-based and octal numbers do not exist.
Aliases are refused, so that a key has one place and a short file cannot unfold into a huge one.

pydantic checks values. It takes longer to import than all of a command's `--help`, so it waits for the first value.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
import os
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, Union, cast, dataclass_transform, get_args, get_origin

from .errors import UsageError, did_you_mean, other_name

if TYPE_CHECKING:
    from collections.abc import Callable

    import yaml
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import CoreSchema, ErrorDetails

Config = TypeVar("Config")
Function = TypeVar("Function", bound="Callable[..., Any]")


# A class of settings.

BOUNDS = ("ge", "gt", "le", "lt")


class Range:
    """The range of a number inside a type: `Annotated[float, Range(ge=0, le=1)]`."""

    def __init__(self, **bounds: float) -> None:
        self.bounds = bounds

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        """Put the bounds to the number's schema."""
        return cast("CoreSchema", {**handler(source), **self.bounds})


def Field(  # noqa: N802 - as pydantic's, which reads it
    *, default: Any = MISSING, default_factory: Any = MISSING, description: str = "", metavar: str = "", short: str = "", **bounds: float
) -> Any:
    """Declare a setting: its default, its range (`ge`, `gt`, `le`, `lt`), and what it is about.

    `metavar` is what stands for its value in a command's help, `short` a short name of its option.
    """
    if unknown := bounds.keys() - {*BOUNDS}:
        raise TypeError(f"a setting has no {', '.join(sorted(unknown))} (there are: {', '.join(BOUNDS)})")
    words = {name: text for name, text in (("metavar", metavar), ("short", short)) if text}
    return dataclasses.field(default=default, default_factory=default_factory, metadata={"description": description, **words, **bounds})


@dataclass_transform(frozen_default=True, field_specifiers=(Field, dataclasses.field))
def settings(cls: type[Config]) -> type[Config]:
    """Make a frozen dataclass that pydantic checks, whose errors are ours in one line; unknown keys are errors.

    A subclass that gives a field another default or type keeps its range and its description. What concerns two fields is checked in
    `__post_init__`, which raises a `ValueError` or a `UsageError`; in its words settings stand in backticks, and the command line shows
    them as options. The validator is built when the first object is.
    """
    hints = cls.__annotations__ = inspect.get_annotations(cls, eval_str=True)
    for name, inherited in getattr(cls, "__dataclass_fields__", {}).items():
        own = cls.__dict__.get(name, MISSING)
        if name in hints and not isinstance(own, dataclasses.Field):
            setattr(cls, name, dataclasses.field(default=own, metadata=inherited.metadata))
    if "__post_init__" in cls.__dict__:
        setattr(cls, "__post_init__", _with_value_errors(cls.__dict__["__post_init__"]))  # noqa: B010 - a type checker knows none
    made: Any = dataclass(frozen=True)(cls)
    made.__pydantic_config__ = {"extra": "forbid"}
    names = [field.name for field in dataclasses.fields(made)]

    @wraps(made.__init__)
    def init(self: Config, *args: Any, **values: Any) -> None:
        from pydantic_core import ArgsKwargs, ValidationError

        if len(args) > len(names):
            raise TypeError(f"{cls.__name__} takes {len(names)} settings, not {len(args)}")
        values = dict(zip(names, args, strict=False)) | values
        try:
            _adapter(made).validator.validate_python(ArgsKwargs((), values), self_instance=self)
        except ValidationError as error:
            raise UsageError(_in_one_line(made, error, _of_python(values))) from error

    made.__init__ = init
    found: type[Config] = made
    return found


def _with_value_errors(check: Callable[[Any], None]) -> Callable[[Any], None]:
    """Let pydantic know an error of ours, which it then gives its place."""

    @wraps(check)
    def checked(self: Any) -> None:
        try:
            check(self)
        except UsageError as error:
            raise ValueError(str(error)) from error

    return checked


def defaults(cls: Any) -> dict[str, Any]:
    """Return the defaults of a class of settings by name; a setting that must be given has none."""
    found = {}
    for field in dataclasses.fields(cls):
        if field.default is not MISSING or field.default_factory is not MISSING:
            found[field.name] = field.default if field.default_factory is MISSING else field.default_factory()
    return found


class _NotEmpty:
    """Refuse the empty path, which would silently be the current folder."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        """Check before pydantic does."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.check, handler(source))

    @staticmethod
    def check(value: object) -> object:
        """Refuse it."""
        if value == "":
            raise ValueError("takes a path, not ''")
        return value


# The path of a setting, relative to where the command runs.
SettingPath = Annotated[Path, _NotEmpty()]


class _Seconds:
    """Read a time with its unit as seconds."""

    _UNITS: ClassVar[dict[str, float]] = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
    _TIME = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+) ?(ms|s|min|h)$")

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], CoreSchema]) -> CoreSchema:
        """Read it before pydantic sees a number."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.read, handler(source))

    @classmethod
    def read(cls, value: object) -> object:
        """Return the seconds of a text; anything else is checked as a number."""
        if not isinstance(value, str):
            return value
        if (found := cls._TIME.match(value.strip())) is None:
            raise ValueError(
                f"takes seconds (10), or a number with a unit ({', '.join(f'10{unit}' for unit in cls._UNITS)}), not {value!r}"
            )
        return float(found[1]) * cls._UNITS[found[2]]


# A time: a number is seconds, and a text has a unit.
Seconds = Annotated[float, _Seconds()]


# From text to a tree that knows the line of every key.

DEEPEST = 100  # levels of a configuration; far deeper ones would end in the parser, where the interpreter's own limit stands
_INT = re.compile(r"[+-]?(0|[1-9][0-9_]{0,40})$")
_FLOAT = re.compile(r"[+-]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][+-]?[0-9]+)?$|[+-]?\.(inf|Inf|INF)$")
_CORE = "tag:yaml.org,2002:"
_TRUE = {"true", "yes", "on"}


@dataclass
class Given:
    """What is written, with its place: a list (`items`), a group of keys (`children`), or a value.

    `free` says that `written` may stand for it where text is asked for: of a `key=value` word always, of a file what YAML takes for text.
    `option` is the option that gave it.
    """

    where: str
    value: str | float | bool | None = None
    items: list[Given] | None = None
    children: dict[str, Given] | None = None
    written: str = ""
    free: bool = False
    option: str = ""

    @property
    def is_null(self) -> bool:
        """Whether nothing is written, or `null`."""
        return self.value is None and self.items is None and self.children is None

    @property
    def shown(self) -> str:
        """The value in an error's words."""
        if self.items is not None or self.children is not None:
            return "a list" if self.items is not None else "a group of keys"
        return "nothing" if self.value is None else repr(self.written)

    def plain(self) -> Any:
        """Return Python's own values."""
        if self.items is not None:
            return [item.plain() for item in self.items]
        return self.value if self.children is None else {key: child.plain() for key, child in self.children.items()}


def load(
    cls: type[Config], path: str | Path | None = None, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> Config:
    """Read settings from a YAML file and from `key=value` words, which win; `a.b=1` reaches into a group.

    `options` are what a command's options were given, by their dotted keys; they win as words do, and errors name them as options.
    """
    root = read_tree(path) if path is not None else Given("the configuration" if options is None else "", children={})
    said = put_words(root, overrides)
    for key, value in (options or {}).items():
        option, names = as_option(key), key.split(".")
        given = [([*names, name], one) for name, one in value.items()] if isinstance(value, dict) else [(names, value)]
        for places, one in given:
            if ".".join(places) in said:
                raise UsageError(f"{option}: {'.'.join(places)} is set twice")
            _place(root, places, _from_option(option, one), "")
    return build(cls, root, options=options is not None)


def fill(cls: type[Config], values: Mapping[str, Any], where: str, *, over: object = None) -> Config:
    """Build settings from Python's own values by the same types, with the same errors, groups as dicts or as their classes.

    They stand over the values of `over`, as words stand over a file; `where` is said in errors.
    """
    tree = _of_values(values, where)
    if over is not None:
        tree = layer(_of_values(plain_values(over), where), tree)
    return build(cls, tree)


def gather(cls: type[Config], config: Config | None, options: Mapping[str, Any], function: Callable[..., Any]) -> Config:
    """Put together what a function was given: settings by name, over a configuration where there is one."""
    known = [name for name in inspect.signature(function).parameters if name != "config"]
    for name in options:
        if name not in known:
            raise UsageError(f"{function.__name__} has no option {name!r}{did_you_mean(name, known)} (there are: {', '.join(known)})")
    return config if config is not None and not options else fill(cls, options, function.__name__, over=config)


def takes(cls: Any) -> Callable[[Function], Function]:
    """Show the settings of a class as keywords of a function that has them as `**options`, where its signature is asked for."""

    def show(function: Function) -> Function:
        own = [one for one in inspect.signature(function).parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        named = {one.name for one in own}
        for field in dataclasses.fields(cls):
            if field.name not in named:
                default = defaults(cls).get(field.name, inspect.Parameter.empty)
                own.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=field.type))
        setattr(function, "__signature__", inspect.Signature(own))  # noqa: B010 - a type checker knows none
        return function

    return show


def build(kind: type[Config], given: Given, name: str = "", *, options: bool = False) -> Config:
    """Read what is written as a class of settings, or as any type that pydantic knows; `name` is its dotted key, empty for a whole file.

    Types are checked strictly, as JSON's: a list fills a tuple and a text a path, and nothing else is converted. Where text is asked for
    and YAML saw something else, the text is put in its place if it may, and all is read again. With `options` errors show the keys that
    are in backticks as options of a command.
    """
    from pydantic import ValidationError

    given = copy.deepcopy(given)
    while True:
        try:
            built: Config = _adapter(cast("Any", kind)).validate_json(json.dumps(given.plain()), strict=True)
            return built
        except ValidationError as error:
            took = [_take_text(_find(given, one["loc"])[2], one["type"]) for one in error.errors(include_url=False)]
            if True not in took:
                raise UsageError(_in_one_line(kind, error, given, name, options=options)) from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _take_text(given: Given, wrong: str) -> bool:
    """Put text in the place of a value where text is asked for, or one of several words, so that `off` needs no quotes."""
    is_word = wrong == "literal_error" and given.items is None and given.children is None
    if isinstance(given.value, str) or not (is_word or (given.free and wrong in ("string_type", "path_type"))):
        return False
    given.value, given.items, given.children = given.written, None, None
    return True


def put_words(root: Given, words: Sequence[str]) -> set[str]:
    """Put `key=value` words into a tree, over what it says; return their keys."""
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
    return seen


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
    import yaml

    return yaml.safe_dump(plain_values(config), sort_keys=False, allow_unicode=True, width=120)


def plain_values(value: Any) -> Any:
    """Return a configuration, or any value of one, as what YAML knows: groups, lists, and plain values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_values(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, Mapping):
        return {key: plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    if getattr(value, "ndim", None) == 0:
        return value.item()  # a number of numpy's or torch's
    return str(value) if isinstance(value, Path) else value


def read_tree(path: str | Path) -> Given:
    """Read a file into a tree that knows the line of every key."""
    import yaml  # not for the classes of settings alone, which `--help` reads

    opening = (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken)
    closing = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
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
            depth += isinstance(token, opening) - isinstance(token, closing)
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
    """Read the value of a `key=value` word; its text is kept for keys that take text, because nobody quotes for YAML in a shell."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = Given(word) if node is None else _tree(node, word, None)
    except (yaml.YAMLError, RecursionError, UsageError):
        node, tree = None, Given(word, value=text)
    unquoted = isinstance(tree.value, str) and getattr(node, "style", None) is None
    return dataclasses.replace(tree, value=text if unquoted else tree.value, written=text, free=True)


def as_option(key: str) -> str:
    """Return how a command spells a setting."""
    return f"--{key.replace('_', '-')}"


def _from_option(option: str, value: Any) -> Given:
    """Read what an option was given: a text as a `key=value` word's, true or false, or a list or a group of these."""
    if isinstance(value, list):
        return Given("", items=[_from_option(option, item) for item in value], option=option)
    if isinstance(value, dict):
        return Given("", children={key: _from_option(option, item) for key, item in value.items()}, option=option)
    if isinstance(value, bool):
        return Given("", value, written=str(value).lower(), option=option)
    try:
        text = os.fsencode(value).decode("utf-8")  # a system that knows ASCII alone (`LC_ALL=C`) gives bytes
    except UnicodeError as error:
        raise UsageError(f"{option} holds bytes that are not text in UTF-8; write it in UTF-8") from error
    if not text:
        return Given("", text, option=option)
    return dataclasses.replace(_from_word("", text), option=option)


def _tree(node: yaml.Node, where: str, file: str | None) -> Given:
    """Turn nodes into a tree of places; within a file a place is its line, within a word the word."""
    import yaml

    if not node.tag.startswith(_CORE) or "python/" in node.tag:
        raise UsageError(f"{_at(node, where, file)}: tags ({node.tag.replace(_CORE, '!!')}) are not read; write the value without it")
    if isinstance(node, yaml.SequenceNode):
        return Given(where, items=[_tree(item, _at(item, where, file), file) for item in node.value])
    if isinstance(node, yaml.ScalarNode):
        return Given(where, _scalar(node), written=node.value, free=node.tag == f"{_CORE}str")
    children: dict[str, Given] = {}
    for key, value in node.value:
        place = _at(key, where, file)
        if not isinstance(key, yaml.ScalarNode):
            raise UsageError(f"{place}: a key is a single word, not a list or a group")
        if key.value in children:
            raise UsageError(f"{place}: {key.value} is there twice (first at {children[key.value].where})")
        children[key.value] = _tree(value, place, file)
    return Given(where, children=children)


def _scalar(node: yaml.ScalarNode) -> str | float | bool | None:
    """Read a scalar: numbers in base ten and in any usual way of writing an exponent; what is no value of another type is text."""
    text, tag = str(node.value), node.tag.removeprefix(_CORE)
    if tag == "null":
        return None
    if node.style is not None:
        return text
    if tag == "bool":
        return text.lower() in _TRUE
    if tag == "int" and _INT.match(text):
        return int(text.replace("_", ""))
    if tag != "int" and _FLOAT.match(text):
        number = float(text.lower().replace("_", "").replace(".inf", "inf"))
        return text if math.isinf(number) and "inf" not in text.lower() else number
    return text


def _place(root: Given, names: Sequence[str], value: Given, word: str) -> None:
    """Put the value of a word into the tree, over what the file says there."""
    for name in names[:-1]:
        children = root.children if root.children is not None else {}
        root = children.setdefault(name, Given(word, children={}))
        if root.children is None:
            # `a: null` in the file, `a.b=1` in the word: the word wins.
            root.where, root.value, root.items, root.children, root.free = word, None, None, {}, False
    if root.children is not None:
        root.children[names[-1]] = value


def _of_values(values: Mapping[str, Any], where: str) -> Given:
    """Turn Python's values into a tree, each through the YAML that it would be written as."""
    import yaml

    children = {}
    for key, value in values.items():
        try:
            node = yaml.compose(yaml.safe_dump(plain_values(value), allow_unicode=True), Loader=yaml.SafeLoader)
        except yaml.representer.RepresenterError as error:
            raise UsageError(f"{where}: {key} cannot be of the type {type(error.args[-1]).__name__}") from error
        assert node is not None  # null is written out
        children[key] = _tree(node, where, None)
    return Given(where, children=children)


def _at(node: yaml.Node, where: str, file: str | None) -> str:
    """Return the place of a node."""
    return where if file is None else f"{file}:{node.start_mark.line + 1}"


def _line(error: yaml.MarkedYAMLError) -> str:
    """Return the line of a syntax error, where it is known."""
    return f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""


# An error of pydantic in one line: where it is written, its key, what is allowed, and what stands there.


def _in_one_line(kind: Any, error: ValidationError, root: Given, name: str = "", *, options: bool = False) -> str:
    """Say the first of the errors: keys that there are not, wrong values (inside a group before the group), missing keys."""
    order = {"unexpected_keyword_argument": 0, "missing": 2}
    found = [(order.get(one["type"], 1), one, *_find(root, one["loc"], name)) for one in error.errors(include_url=False)]
    first = min(found, key=lambda each: each[0])
    same = [each for each in found if each[0] == first[0] and each[1]["loc"][:1] == first[1]["loc"][:1]]
    _, chosen, parts, path, given = max(same, key=lambda each: (len(each[2]), each[1]["type"] == "value_error"))
    said = _say(kind, chosen, parts, path, given)
    if chosen["type"] == "value_error":
        said = re.sub(r"`([\w.]+)`", lambda found: as_option(found[1]) if options else found[1], said)
    return f"{given.where}: {said}" if given.where else said


def _find(root: Given, loc: Sequence[str | int], name: str = "") -> tuple[list[str | int], str, Given]:
    """Return what stands at the place of an error, its keys and numbers, and its dotted name; names of types in the place are left out."""
    parts: list[str | int] = []
    for part in loc:
        if root.children is not None and part in root.children:
            name, root = f"{name}.{part}" if name else str(part), root.children[str(part)]
        elif root.items is not None and isinstance(part, int) and part < len(root.items):
            name, root = f"{name}[{part + 1}]", root.items[part]
        else:
            continue
        parts.append(part)
        name = root.option or name
    return parts, name, root


def _say(kind: Any, error: ErrorDetails, parts: list[str | int], path: str, given: Given) -> str:
    """Say what is wrong with what is given at a path."""
    if error["type"] == "unexpected_keyword_argument":
        prefix, dot, unknown = path.rpartition(".")
        return f"unknown key {path}{_nearest(_groups(_type_at(kind, parts[:-1])[0])[0], unknown, prefix + dot)}"
    hint, bounds = _type_at(kind, parts)
    key = error["loc"][-1] if error["loc"] else ""
    if error["type"] == "missing" and isinstance(key, str):
        field = next(_fields(group)[key] for group in _groups(hint) if key in _fields(group))
        return f"missing {f'{path}.' if path else ''}{key} ({about(field)})"
    if error["type"] == "value_error":
        said = str(error["ctx"]["error"])
        return f"{path} {said}" if said.startswith("takes ") else said
    more = ""
    if error["type"] in ("string_type", "path_type") and not given.is_null and given.shown == repr(given.written):
        more = "; put it in quotes"
    words = [word for kind in _kinds(hint) if get_origin(kind) is Literal for word in get_args(kind) if isinstance(word, str)]
    near = did_you_mean(given.written, words) if words else ""
    count = f" of {len(given.items)}" if given.items is not None and error["type"] in ("too_long", "missing") else ""
    return f"{path} takes {describe_type(hint, bounds)}{more}, not {given.shown}{count}{near}"


def _of_python(value: object) -> Given:
    """Return values of Python's as an error shows them."""
    if isinstance(value, Mapping):
        return Given("", children={str(key): _of_python(one) for key, one in value.items()})
    if isinstance(value, list | tuple):
        return Given("", items=[_of_python(one) for one in value])
    if dataclasses.is_dataclass(value):
        return Given("", children={})
    return Given("", value=None if value is None else str(value), written=str(value))


def _kinds(hint: Any) -> list[Any]:
    """Return the types of which one is meant, without null."""
    if get_origin(hint) is Annotated:
        return _kinds(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [kind for arg in get_args(hint) for kind in _kinds(arg) if kind is not type(None)]
    return [hint]


def _groups(hint: Any) -> list[Any]:
    """Return those of the types that are classes of settings."""
    return [kind for kind in _kinds(hint) if dataclasses.is_dataclass(kind)]


def _fields(cls: Any) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


def _type_at(hint: Any, parts: Sequence[str | int]) -> tuple[Any, Sequence[Mapping[str, Any]]]:
    """Return type and bounds of what stands at a place; of several types the one that has it."""
    bounds: Sequence[Mapping[str, Any]] = ()
    for part in parts:
        field = next((fields[part] for kind in _groups(hint) if part in (fields := _fields(kind))), None)
        if field is not None:
            hint, bounds = field.type, [field.metadata]
            continue
        origins = (tuple, list, Sequence) if isinstance(part, int) else (dict, Mapping)
        args = next((get_args(kind) for kind in _kinds(hint) if get_origin(kind) in origins), (Any, Any))
        hint, bounds = args[1 if isinstance(part, str) else 0 if args[-1] is Ellipsis else min(part, len(args) - 1)], ()
    return hint, bounds


def settings_of(cls: Any) -> dict[str, tuple[Any, str]]:
    """Return the settings that are groups of settings by name, each with its class and what it is about."""
    found = {}
    for field in dataclasses.fields(cls):
        if _groups(field.type) == _kinds(field.type):
            found[field.name] = _groups(field.type)[0], field.metadata.get("description", "")
    return found


def about(field: dataclasses.Field[Any]) -> str:
    """Say what a setting is about, or what it takes."""
    return field.metadata.get("description") or describe_type(field.type, [field.metadata])


def setting_at(cls: Any, key: str) -> dataclasses.Field[Any]:
    """Return the setting of a dotted key."""
    *groups, name = key.split(".")
    for group in groups:
        cls = settings_of(cls)[group][0]
    return _fields(cls)[name]


def holds(hint: Any, kind: type) -> bool:
    """Say whether several values are meant: in a `tuple`, or by name in a `dict`."""
    return any(get_origin(one) is kind for one in _kinds(hint))


def item_type(hint: Any) -> Any:
    """Return the type of one value: of a list its items', of several types the first that is not null."""
    listed = next((one for one in _kinds(hint) if get_origin(one) is tuple), None)
    return _kinds(hint if listed is None else get_args(listed)[0])[0]


def choices(hint: Any) -> list[Any]:
    """Return the values of which one is meant, where there are only so many."""
    kinds = [get_args(kind) if get_origin(kind) is Literal else None for kind in _kinds(hint)]
    return [] if None in kinds else [choice for kind in kinds for choice in kind or ()]


def describe_type(hint: Any, bounds: Sequence[Mapping[str, Any]] = ()) -> str:
    """Say a type in a reader's words."""
    if get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        bounds = [*bounds, *(one.bounds for one in more if isinstance(one, Range))]
    kinds = _kinds(hint)
    if len(kinds) > 1:
        return " or ".join(describe_type(kind, bounds) for kind in kinds)
    kind, origin, args = kinds[0], get_origin(kinds[0]), get_args(kinds[0])
    if origin is Literal:
        return "one of " + ", ".join(str(arg).lower() if isinstance(arg, bool) else str(arg) for arg in args)
    if origin in (tuple, list, Sequence):
        if origin is tuple and args[-1] is not Ellipsis:
            return f"a list of {len(args)} ({', '.join(describe_type(arg) for arg in args)})"
        return f"a list like [..., ...], each {describe_type(args[0])}"
    if origin in (dict, Mapping):
        return f"names with values, each {describe_type(args[1])}"
    if dataclasses.is_dataclass(kind):
        return f"a group of keys ({', '.join(one.name for one in dataclasses.fields(kind))})"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path", type(None): "null"}
    return words.get(kind, str(kind)) + _bounds(bounds)


def _bounds(bounds: Sequence[Mapping[str, Any]]) -> str:
    """Say the range of a number."""
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    found = [(words[name], one[name]) for one in bounds for name in words if one.get(name) not in (None, math.inf)]
    return "".join(f" {word} {value:,}" if isinstance(value, int) else f" {word} {value:g}" for word, value in found)


def _nearest(cls: Any, key: str, prefix: str) -> str:
    """Point to the same key inside a group, to what another trainer's name means here, or to the nearest key; else list the keys."""
    places = _places(cls)
    inside = [place for place in places if place.rpartition(".")[2] == key and place != key]
    if near := f"; did you mean {inside[0]}?" if inside else other_name(key, places):
        return near.replace("mean ", f"mean {prefix}", 1)
    near = did_you_mean(key, _fields(cls))
    return near.replace("mean ", f"mean {prefix}") if near else f" (known: {', '.join(_fields(cls))})"


def _places(cls: Any) -> list[str]:
    """Return the names of all settings, those of groups as group.name."""
    found = []
    for name, field in _fields(cls).items():
        found += [name, *(f"{name}.{inner}" for group in _groups(field.type) for inner in _fields(group))]
    return found
