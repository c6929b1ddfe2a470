"""The command line's grammar: verbs, options, teaching help, "did you mean", and the options that several verbs have."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from twoway.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .verbs import Verb

SETTING = "setting."  # before the name of an option's setting


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keep examples as they are written, and name every default that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = (
            action.default is None or isinstance(action.default, bool) or action.default in ([], ())
        )  # 1 == True, so a number is not looked for among them
        if silent or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest right word, and exit with 2."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Forbid abbreviations: a shortened option that works today clashes with a new one tomorrow."""
        kwargs.setdefault("formatter_class", _Help)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, the nearest word, and where help is."""
        choice = re.match(r"argument [^:]*: invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            known = [word.strip(" '") for word in choice.group(2).split(",")]
            near = did_you_mean(choice.group(1), known)
            message = f"unknown {self._what(message)} {choice.group(1)!r}{near} (there are: {', '.join(known)})"
        sys.stderr.write(f"{self.prog}: {message}; see '{self.prog} --help'\n")
        sys.exit(2)

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse, and name the nearest option for one that is unknown."""
        parsed, rest = self.parse_known_args(args, namespace)
        if hasattr(parsed, "words"):
            # argparse takes the `key=value` words that stand together with the other arguments; those behind an option are found here.
            parsed.words = [*parsed.words, *(word for word in rest if "=" in word and not word.startswith("-"))]
            rest = [word for word in rest if word not in parsed.words]
        if rest:
            speaker = getattr(parsed, "_parser", self)
            known = [option for action in speaker._actions for option in action.option_strings]
            word = next((word for word in rest if word.startswith("-")), rest[0])
            near = did_you_mean(word.partition("=")[0], known) if word.startswith("-") else ""
            kind = "option" if word.startswith("-") else "argument"
            speaker.error(f"unknown {kind} {word!r}{near}")
        return parsed

    @staticmethod
    def _what(message: str) -> str:
        """Return the word for the argument a message is about."""
        name = message.partition(":")[0].removeprefix("argument ").split("/")[-1]
        return "verb" if name.lower() == "verb" else f"value for {name}:"


def add_verb(parser: Parser, verb: Verb, run: Any, config: Any) -> None:
    """Declare what a verb takes; its usage line names what must be given."""
    parser.set_defaults(_run=run, _parser=parser, _verb=verb, _config=config)
    given = [parser.add_argument(*names, **how) for names, how in verb.arguments]
    shown = {None: "{}", "?": "[{}]", "*": "[{} ...]", "+": "{} [{} ...]"}
    places = [one for one in given if not one.option_strings]
    parts = [shown.get(one.nargs, "{}").replace("{}", str(one.metavar)) for one in places if isinstance(one.nargs, str | None)]
    parts += [f"{one.option_strings[-1]} {one.metavar}" for one in given if one.required and one.option_strings]
    parser.usage = " ".join(["%(prog)s [OPTIONS]", *parts])
    if config is not None:
        add_settings(parser, config, file=verb.file, words=any(one.dest == "words" for one in places))


def read_settings(args: argparse.Namespace) -> Any:
    """Return the settings that a command was given: a file's, and over them those of `key=value` words and of options."""
    from twoway.config import load

    verb: Verb = args._verb
    file, words = (args.recipe if verb.file else None), (args.words if verb.file and "words" in args else ())
    return load(args._config, file, words, given_settings(args, args._config))


# Options made from a class of settings: one for each setting, `--group.name` for those of a group. Types, ranges and errors are those of
# the configuration.


def add_settings(parser: argparse.ArgumentParser, cls: Any, *, file: bool = False, words: bool = False) -> None:
    """Declare an option for each setting of a class: its own first, then those of its bases, then a group for each group of settings.

    Where a file may have turned a switch on, it has its opposite; and where a command takes `key=value` words, an option of several values
    is given again for each, so that it swallows no word.
    """
    from twoway.config import settings_of

    fields, groups = {field.name: field for field in dataclasses.fields(cls)}, settings_of(cls)
    titles = {cls: f"settings ({'or key=value words, ' if words else ''}or the YAML file)" if file else ""}
    for base in cls.__mro__:
        own = [fields.pop(name) for name in inspect.get_annotations(base) if name in fields and name not in groups]
        title = titles.get(base, (base.__doc__ or "").partition("\n")[0].rstrip("."))
        holder = parser.add_argument_group(title) if own and title else parser
        for field in own:
            _add_option(holder, field, "", file=file, words=words)
    for name, (kind, what) in groups.items():
        group = parser.add_argument_group(f"{name}: {what}")
        for field in dataclasses.fields(kind):
            _add_option(group, field, f"{name}.", file=file, words=words)


def _add_option(parser: argparse._ActionsContainer, field: dataclasses.Field[Any], prefix: str, *, file: bool, words: bool) -> None:
    from twoway.config import about, as_option, holds

    option, default = as_option(prefix + field.name), field.default
    says = isinstance(default, str | int | float) and not isinstance(default, bool) and default != ""
    what = about(field) + (f" (default: {_as_word(default)})" if says else "")
    kind: dict[str, Any] = {"metavar": field.metadata.get("metavar") or _metavar(field)}
    if field.type is bool and file:
        kind, what = {"action": argparse.BooleanOptionalAction}, f"{what} (default: {'on' if default else 'off'})"
    elif field.type is bool and default:
        option, kind, what = f"--no-{option[2:]}", {"action": "store_false"}, f"turn off: {what}"
    elif field.type is bool:
        kind = {"action": "store_true"}
    elif holds(field.type, dict) or (holds(field.type, tuple) and words):
        kind["action"] = "append"
    elif holds(field.type, tuple):
        kind |= {"action": "extend", "nargs": "+"}
    also = [field.metadata["short"]] if "short" in field.metadata else []
    parser.add_argument(*also, option, dest=f"{SETTING}{prefix}{field.name}", default=None, help=what.replace("%", "%%"), **kind)


def _metavar(field: dataclasses.Field[Any]) -> str:
    """Return what stands for a value: the words that may be chosen, or its kind."""
    from twoway.config import choices, holds, item_type

    if holds(field.type, dict):
        return "NAME=VALUE"
    kind = item_type(field.type)
    words = choices(kind)
    return "|".join(map(str, words)) if words else "SPEC" if dataclasses.is_dataclass(kind) else _METAVARS.get(kind, "VALUE")


_METAVARS = {int: "N", float: "X", Path: "PATH", str: "TEXT"}


def _as_word(value: Any) -> str:
    return (
        (f"{value:,}" if value >= 10_000 else str(value))
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def given_settings(args: argparse.Namespace, cls: Any) -> dict[str, Any]:
    """Return what such options were given, by their dotted keys, as `config.load` takes it: of a list of sources each by its spec."""
    from twoway.config import as_option, holds, item_type, setting_at

    found: dict[str, Any] = {}
    for dest, value in vars(args).items():
        key = dest.removeprefix(SETTING)
        if key == dest or value is None:
            continue
        hint = setting_at(cls, key).type
        if holds(hint, dict):
            pairs = [word.partition("=") for word in value]
            if wrong := next((word for word, (name, sign, _) in zip(value, pairs, strict=True) if not (name and sign)), None):
                raise UsageError(f"{as_option(key)} takes NAME=VALUE, not {wrong!r}")
            if again := next((name for number, (name, *_) in enumerate(pairs) if name in {one for one, *_ in pairs[:number]}), None):
                raise UsageError(f"{as_option(key)}: {key}.{again} is set twice")
            value = {name: text for name, _, text in pairs}
        elif holds(hint, tuple) and dataclasses.is_dataclass(item_type(hint)):
            value = [{"spec": spec} for spec in value]
        elif holds(hint, tuple) and item_type(hint) not in (str, Path):
            value = [one for word in value for one in word.split(",")]
        found[key] = value
    return found
