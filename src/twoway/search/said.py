"""What an engine says when it fails, in one line that a user can act on."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FULL = re.compile(r"no space left|os error 28\b|os error 122\b|disk quota|file too large|os error 27\b", re.IGNORECASE)
_FORBIDDEN = re.compile(r"permission denied|read-only file system|os error 13\b|os error 30\b", re.IGNORECASE)
_CODE = re.compile(r",?\s*/\S+\.(?:rs|py):\d+(?::\d+)?")  # where in an engine's own code
_LONGEST = 300


@contextmanager
def engine_errors(location: str, doing: str) -> Iterator[None]:
    """Turn anything that an engine raises into one line; our own errors and an interrupt pass."""
    try:
        yield
    except (TwowayError, MemoryError):
        raise
    except BaseException as error:
        # Engines written in Rust raise panics that are no Exception; an interrupt and its like pass.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TwowayError(_line(location, doing, f"{type(error).__name__}: {error}")) from error


def _line(location: str, doing: str, said: str) -> str:
    if _FULL.search(said):
        return f"no space left on the disk while {doing} {location}; what it held before is whole; free some space and run the same again"
    if _FORBIDDEN.search(said):
        return f"no permission while {doing} {location}; it needs to be readable, and writable to change it"
    first = " ".join(_CODE.sub("", said).split())[:_LONGEST]
    return (
        f"{location} fails while {doing} it, so it may be damaged; restore it, or build it anew with 'twoway index … --overwrite' ({first})"
    )
