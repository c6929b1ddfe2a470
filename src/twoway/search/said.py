"""What an engine says when it fails, in one line that a user can act on."""

from __future__ import annotations

import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SlowError, TwowayError, UsageError, is_panic
from .lance_whole import first_damaged

if TYPE_CHECKING:
    from collections.abc import Iterator

_FULL = re.compile(r"no space left|os error 28\b|os error 122\b|disk quota|file too large|os error 27\b", re.IGNORECASE)
_FORBIDDEN = re.compile(r"permission denied|read-only file system|os error 13\b|os error 30\b", re.IGNORECASE)
_CODE = re.compile(r",?\s*/\S+\.(?:rs|py):\d+(?::\d+)?")  # where in an engine's own code
_SLOW = re.compile(r"query timeout|deadline|timed? ?out", re.IGNORECASE)
_FILTER = re.compile(r"error parsing|sql parser|error during planning|cannot parse expression", re.IGNORECASE)
_MISSING = re.compile(r"not found|no such file", re.IGNORECASE)
_LONGEST = 300


def is_slow(error: Exception) -> bool:
    """Say whether an engine has stopped because its time was over."""
    return _SLOW.search(str(error)) is not None


@contextmanager
def engine_errors(location: str, doing: str) -> Iterator[None]:
    """Turn anything that an engine raises into one line; our own errors and an interrupt pass."""
    try:
        yield
    except (TwowayError, MemoryError):
        raise
    except BaseException as error:
        # Engines written in Rust raise panics that are no Exception; an interrupt and its like pass.
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise _error(location, doing, f"{type(error).__name__}: {error}") from error


def _error(location: str, doing: str, said: str) -> TwowayError:
    """Return what a user is told."""
    first = " ".join(_CODE.sub("", said).split())[:_LONGEST]
    if _FULL.search(said):
        return TwowayError(
            f"no space left on the disk while {doing} {location}; what it held before is whole; free some space and run the same again"
        )
    if _FORBIDDEN.search(said):
        return TwowayError(f"no permission while {doing} {location}; it needs to be readable, and writable to change it")
    if _SLOW.search(said):
        return SlowError(f"{location} did not answer in the time that {doing} may take; ask for less at a time, or later")
    if _FILTER.search(said):
        return UsageError(f"{location} does not take this filter, which is more than its engine reads; write it in a simpler way ({first})")
    here = not location.startswith("milvus")
    if here and not Path(location).exists():
        return TwowayError(f"{location} is not there any more; put it back, or open it where it lies now")
    # An engine fails for many reasons; that it is damaged is said where its own files say so.
    if here and (doing == "opening" or _MISSING.search(said) or first_damaged(Path(location))):
        way = "restore it, or build it anew with 'twoway index … --overwrite'"
        return TwowayError(f"{location} fails while {doing} it, so it may be damaged; {way} ({first})")
    return TwowayError(f"{location} fails while {doing} it, and its files look whole; try again ({first})")
