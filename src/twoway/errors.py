"""Errors that a user meets: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST_WORD = 200


class TwowayError(Exception):
    """The thing failed; the message is the whole story and is shown without a traceback (exit code 1)."""


class UsageError(TwowayError):
    """The command or the call was used wrongly (exit code 2)."""


class BusyError(UsageError):
    """Somebody else is at work there; the same will do once they are done."""


class SlowError(TwowayError):
    """It was given a time and did not end in it."""


def with_extra(extra: str) -> str:
    """Return the command that installs an extra; the package is on no index, so it is one for a clone."""
    return f"in the clone of twoway, run: pip install -e '.[{extra}]'"


def is_panic(error: BaseException) -> bool:
    """Say whether an error is a panic of a library written in Rust, which is no `Exception` and stops nothing but the call that met it."""
    return not isinstance(error, Exception) and type(error).__name__ == "PanicException"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest known word, or an empty string where nothing is near."""
    if len(word) > _LONGEST_WORD:
        return ""  # nobody means that by mistake, and comparing costs more than its length
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
