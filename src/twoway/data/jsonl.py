"""JSON lines: one object a line, picture paths relative to the file; blank lines are passed over but counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..content import ContentError, Place
from ..errors import TwowayError
from .rows import document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from .rows import ReadOptions, Row, Rows

BOM = b"\xef\xbb\xbf"
_PIECE = 1 << 20


def rows(argument: str, options: ReadOptions) -> Rows:
    """Read a file line by line."""
    path = Path(argument)
    root = options.root or path.parent
    try:
        with path.open("rb") as file:
            for _, number, line in lines(file, options.limits.max_line_bytes):
                if not options.skip.take(1):
                    yield _row(line, Place(str(path), number), root, options)
    except OSError as error:
        raise TwowayError(f"{path} cannot be read ({error.strerror})") from error


def lines(file: BinaryIO, longest: int) -> Iterator[tuple[int, int, bytes]]:
    """Go through the lines that are not blank: the byte that a line begins at, its number, and what it holds.

    Of a line above the bound one byte more than that is given, so that `parse` refuses it, and the rest is passed over in pieces. Bytes are
    split, not text: only a newline ends a line, whatever other separators stand inside a string.
    """
    at, number = 0, 0
    while line := file.readline(longest + 1):
        number += 1
        size = len(line)
        if size > longest and not line.endswith(b"\n"):
            while more := file.readline(_PIECE):
                size += len(more)
                if more.endswith(b"\n"):
                    break
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            yield at, number, line
        at += size


def _row(line: bytes, place: Place, root: Path, options: ReadOptions) -> Row:
    """Read one line."""
    value = parse(line, place, options.limits.max_line_bytes)
    return value if isinstance(value, ContentError) else document(value, place, root, unread=options.unread, limits=options.limits)


def parse(line: bytes, place: Place, longest: int) -> Any:
    """Return the value of one line, or the error that says why it has none."""
    if len(line) > longest:
        return ContentError(f"the line is longer than {longest:,} bytes; cut it into several rows", place)
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        return ContentError(f"the line is not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1})", place)
    except json.JSONDecodeError as error:
        return ContentError(f"invalid JSON ({error.msg} at column {error.colno})", place)
    except (ValueError, RecursionError) as error:
        return ContentError(f"invalid JSON ({error})", place)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that has a key twice, of which JSON would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {next(key for key in counts if counts[key] > 1)!r} is there twice")
    return found


def _no_constant(name: str) -> None:
    """Refuse what Python writes and JSON does not have."""
    raise ValueError(f"{name} is no JSON; write null")
