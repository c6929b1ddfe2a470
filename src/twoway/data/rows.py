"""One row of any table becomes a document: the long form `parts`, or the short form `image` and `text` (the image comes first).

Every reader yields documents and, in the place of a bad row, the `ContentError` that says what is wrong; it never raises for
a row, so that the failure policy decides in one place. Columns besides these three are kept as the document's `meta`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..content import ContentError, Document, Place
from ..errors import UsageError, did_you_mean
from ..images import DEFAULT, Limits

if TYPE_CHECKING:
    from pathlib import Path

Row = Document | ContentError
Rows = Iterator[Row]
COLUMNS = ("parts", "image", "text")
# Turns a row with columns of its own into the parts of a document.
Form = Callable[[Mapping[str, Any]], list[dict[str, Any]]]


@dataclass
class Skip:
    """How many rows, bad ones counted, a reader still has to pass over, without the work of reading them where it can."""

    left: int = 0

    def take(self, rows: int) -> int:
        """Return how many of these rows are passed over."""
        taken = min(self.left, rows)
        self.left -= taken
        return taken


@dataclass(frozen=True)
class ReadOptions:
    """What every reader is told; `root` is the folder that picture paths are relative to and may not leave (default: the file's).

    A `form` reads tables with columns of their own; only random access (`finders`) knows it.
    """

    root: Path | None = None
    dpi: int = 144
    limits: Limits = DEFAULT
    form: Form | None = None
    skip: Skip = field(default_factory=Skip, compare=False)


def require_columns(names: Sequence[str], label: object) -> None:
    """Refuse a table that has none of the columns a document is made of, before any row is read."""
    if not set(names) & set(COLUMNS):
        hint = next((found for name in names if (found := did_you_mean(name, COLUMNS))), "")
        raise UsageError(f"{label} has none of the columns {', '.join(COLUMNS)}{hint} (it has {', '.join(names)})")


def document(row: object, place: Place, root: Path | None, form: Form | None = None) -> Row:
    """Turn one row into a document, or into the error that says why it is none; a `form` reads columns of other names."""
    try:
        if not isinstance(row, Mapping):
            raise ContentError(f"the row is a {type(row).__name__}, not an object with parts, image or text", place)
        if form is not None:
            return _formed(row, place, root, form)
        given = {key: row[key] for key in COLUMNS if row.get(key) is not None}
        if not given:
            hint = next((found for key in row if (found := did_you_mean(str(key), COLUMNS)) and key not in COLUMNS), "")
            raise ContentError(f"the row has neither parts nor image nor text{hint}", place)
        if "parts" in given and len(given) > 1:
            raise ContentError("the row has parts and image or text; put all into parts", place)
        parts = given["parts"] if "parts" in given else [{key: value} for key, value in given.items()]
        meta = {str(key): value for key, value in row.items() if key not in COLUMNS}
        return Document.from_parts(unwrap(parts), place=place, root=root, meta=meta)
    except ContentError as error:
        return error


def _formed(row: Mapping[str, Any], place: Place, root: Path | None, form: Form) -> Document:
    """Let the form read the row; what it raises belongs to the row's place."""
    try:
        return Document.from_parts(unwrap(form(row)), place=place, root=root)
    except ContentError as error:
        raise ContentError(error.reason, place) from error


def unwrap(parts: object) -> object:
    """Take pictures out of the `{"bytes": …, "path": …}` that `datasets` stores them in."""
    if not isinstance(parts, list):
        return parts
    return [_unwrap_part(part) if isinstance(part, Mapping) else part for part in parts]


def _unwrap_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take one picture out; where there are bytes, the path is only the name it once had."""
    image = part.get("image")
    if not isinstance(image, Mapping) or not set(image) <= {"bytes", "path"}:
        return part
    return {**part, "image": image.get("path") if image.get("bytes") is None else image["bytes"]}
