"""The command line's grammar: verbs, options, teaching help, "did you mean", and the options that several verbs have."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from twoway.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from twoway.limits import ReadLimits


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


# Options made from a class of settings: one for each setting, `--group.name` for those of a group. What they are given becomes a
# `key=value` word, so that types, ranges and errors are those of the configuration.


def add_settings(
    parser: argparse.ArgumentParser,
    cls: Any,
    *,
    without: Sequence[str] = (),
    title: str = "settings (or key=value words, or the YAML file)",
) -> None:
    """Declare an option for each setting of a class, a group of options for each group of settings."""
    from twoway.config import settings_of

    _add_options(parser.add_argument_group(title), cls, "", without)
    for name, (group, about) in settings_of(cls).items():
        if name not in without:
            _add_options(parser.add_argument_group(f"settings of {name}: {about}"), group, f"{name}.")


def _add_options(group: argparse._ArgumentGroup, cls: Any, prefix: str, without: Sequence[str] = ()) -> None:
    from twoway.config import describe_type, settings_of

    for name, field in cls.__pydantic_fields__.items():
        if name in without or name in settings_of(cls):
            continue
        option, default = f"--{prefix}{name.replace('_', '-')}", field.default
        said = f" (default: {_as_word(default)})" if isinstance(default, str | int | float) and default != "" else ""
        kinds: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if field.annotation is bool else {"metavar": _metavar(field)}
        about = f"{field.description or describe_type(field.annotation, field.metadata)}{said}".replace("%", "%%")
        group.add_argument(option, dest=f"{SETTING}{prefix}{name}", default=None, help=about, **kinds)


def _metavar(field: Any) -> str:
    """Return what stands for a value: the words that may be chosen, or its kind."""
    from twoway.config import choices

    words = choices(field.annotation)
    return "|".join(map(str, words)) if words else "N" if field.annotation in (int, float, int | None, float | None) else "VALUE"


def _as_word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def setting_words(args: argparse.Namespace) -> list[str]:
    """Return what such options were given as `key=value` words, behind those that stand there as words."""
    given = {name.removeprefix(SETTING): value for name, value in vars(args).items() if name.startswith(SETTING) and value is not None}
    said = [f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given.items()]
    return [*getattr(args, "words", ()), *said]


# Options that several verbs have: how a model is opened, and what becomes of a bad row.

_OPENING = (
    "pooling",
    "attention",
    "processor",
    "template",
    "max_length",
    "min_pixels",
    "max_pixels",
    "device",
    "dtype",
    "attn_implementation",
    "processes",
)
_LIMITS = ("max_line_bytes", "max_characters", "max_page_seconds", "max_page_memory")


def add_opening(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare how a model that gives vectors is opened."""
    parser.add_argument("--pooling", choices=("mean", "last", "eos"), help="for a model that is no sentence-transformers checkpoint")
    parser.add_argument(
        "--attention",
        choices=("two-way", "causal", "mixed"),
        help="for a vision-language model that is no sentence-transformers checkpoint (default: what its layout or its config says)",
    )
    parser.add_argument("--processor", metavar="DIR", help="where the processor is (default: with the model)")
    parser.add_argument(
        "--template",
        choices=("chat", "plain", "bare"),
        help="as a chat, or contents one behind the other, for a model that is no sentence-transformers checkpoint; "
        "bare: plain, a picture without its marks and its tokens numbered as text "
        "(default: bare for VLM2Vec's adapters, plain for others and for MoCa's and CoCoA's checkpoints, else chat)",
    )
    parser.add_argument("--max-length", metavar="N", type=int, help="cut rows at N tokens (default: the model's limit)")
    parser.add_argument(
        "--min-pixels", metavar="N", type=int, help="enlarge smaller pictures to this area (default: as the model's processor)"
    )
    parser.add_argument(
        "--max-pixels", metavar="N", type=int, help="shrink larger pictures to this area (default: as the model's processor)"
    )
    parser.add_argument("--device", default="auto", help="device to run on")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="of the model (default: float32 on a CPU)")
    add_attn_implementation(parser)


def add_attn_implementation(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Declare which attention kernel a model uses."""
    parser.add_argument(
        "--attn-implementation",
        metavar="NAME",
        help="attention kernel: auto, sdpa, eager, flex_attention, flash_attention_2 or flash_attention_3, or one for each part, "
        "such as tower=flash_attention_2,language=sdpa (default: flash_attention_2 where it is installed and can be used, else sdpa)",
    )


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Declare in how many processes a model embeds."""
    parser.add_argument("--processes", metavar="N", type=int, help="embed in N processes, each with a GPU of its own (default: all GPUs)")


def opening(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was said of it, as `open_embedder` takes it."""
    return {name: value for name in _OPENING if (value := getattr(args, name, None)) is not None}


def words(given: str | None, name: str) -> str | None:
    """Return words of the command line as the text they are, though the system says that it knows ASCII alone (`LC_ALL=C`).

    Names of files stay as they came: they are bytes, and go back to the system as they are.
    """
    try:
        return None if given is None else os.fsencode(given).decode("utf-8")
    except UnicodeError as error:
        raise UsageError(f"{name} holds bytes that are no text in UTF-8; write it in UTF-8") from error


def print_table(console: Console, table: Table) -> None:
    """Print a table that breaks no word of a header and no number, or a few lines for each row where the terminal has no room for that."""
    from rich.text import Text

    widest = []
    for column in table.columns:
        shown = [Text.from_markup(str(cell)).plain for cell in (column.header, *column.cells)]
        column.width = max(map(len, " ".join(shown if column.justify == "right" else shown[:1]).split()), default=1)
        column.overflow = "fold"
        widest.append(max(len(line) for text in shown for line in text.split("\n")))
    room = console.width - 1 - sum((column.width or 0) + 3 for column in table.columns)
    for column, most in zip(table.columns, widest, strict=True):
        more = max(0, min(room, most - (column.width or 0)))
        column.width, room = (column.width or 0) + more, room - more
    if room >= 0:
        console.print(table)
        return
    console.print(table.title or "", style="italic")
    headers = [" ".join(str(column.header).split()) for column in table.columns]
    for first, *cells in zip(*(column.cells for column in table.columns), strict=True):
        said = [f"{header} {' '.join(str(cell).split())}".strip() for header, cell in zip(headers[1:], cells, strict=True) if str(cell)]
        console.print(f"{first}\n  {'; '.join(said)}")


def json_text(found: Any) -> str:
    """Return JSON for standard output, in letters that its encoding has."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    return json.dumps(found, ensure_ascii=plain, indent=2) + "\n"


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Declare what is read of a row; names and defaults are those of `images.ReadLimits`, which `--help` does not wait for."""
    group = parser.add_argument_group("what is read of a row; one that has more is a bad row")
    for option, unit, what in (
        ("--max-line-bytes", "BYTES", "of a line of JSONL (default: 32 MiB)"),
        ("--max-characters", "N", "of one text (default: 1,048,576)"),
        ("--max-page-seconds", "SECONDS", "of a processor, for one page of a PDF (default: 30)"),
        ("--max-page-memory", "BYTES", "of the process that renders pages (default: 2 GiB)"),
    ):
        group.add_argument(option, metavar=unit, type=int, help=what)


def limits(args: argparse.Namespace) -> ReadLimits:
    """Return what was said of it."""
    from twoway.limits import ReadLimits

    return ReadLimits(**{name: value for name in _LIMITS if (value := getattr(args, name)) is not None})


def add_on_bad(parser: argparse.ArgumentParser | argparse._ArgumentGroup, *, listed: str = "bad-rows.jsonl") -> None:
    """Declare what becomes of a bad row."""
    parser.add_argument(
        "--on-bad",
        choices=("fail", "skip"),
        default="fail",
        help=f"a bad row stops the run (fail), or is left out, counted and listed in {listed} (skip); default: %(default)s",
    )
