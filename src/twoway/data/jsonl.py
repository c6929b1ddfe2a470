"""JSON lines: one object a line, picture paths relative to the file; blank lines are passed over but counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..content import ContentError, Place
from ..errors import TwowayError
from .rows import document

if TYPE_CHECKING:
    from .rows import ReadOptions, Row, Rows


def rows(argument: str, options: ReadOptions) -> Rows:
    """Read a file line by line."""
    path = Path(argument)
    root = options.root or path.parent
    try:
        with path.open("rb") as file:
            # Bytes are split, not text: only a newline ends a line, whatever other separators stand inside a string.
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip() and not options.skip.take(1):
                    yield _row(line, Place(str(path), number), root, options)
    except OSError as error:
        raise TwowayError(f"{path} cannot be read ({error.strerror})") from error


def _row(line: bytes, place: Place, root: Path, options: ReadOptions) -> Row:
    """Read one line."""
    value = parse(line, place)
    return value if isinstance(value, ContentError) else document(value, place, root, unread=options.unread)


def parse(line: bytes, place: Place) -> Any:
    """Return the value of one line, or the error that says why it has none."""
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_no_twins)
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
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found
