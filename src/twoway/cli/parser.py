"""The command line's grammar: verbs, options, teaching help, and "did you mean"."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, NoReturn

from twoway.errors import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence


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
