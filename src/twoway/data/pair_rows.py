"""One row of contrastive data: what is asked, what answers it, and what does not although it looks like it.

Each side is a document: texts and pictures in any order. A row of a table says its sides in columns (`query`, `positive`, `negatives` and
the like, see `columns`), or a ready mapping of a public data set does (`pair_formats`).

A pair goes through tables and mixtures as one document with all its parts, so that everything that counts characters and looks at pictures'
headers serves pairs too; the pair itself lies in its `meta`, and `pair_of` takes it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as PILImage

from ..content import ContentError, Document, Place, Text
from ..errors import UsageError, did_you_mean
from ..images import DEFAULT, Limits
from .rows import COLUMNS, Watched, parts_of_messages, parts_of_row, unwrap

if TYPE_CHECKING:
    from collections import Counter

_PAIR = "pair"
# What the two sides of a row may be called.
QUERIES, POSITIVES = ("query", "anchor", "question", "sentence1"), ("positive", "positives", "answer", "sentence2")
_NEGATIVES = "negative"
# A side may stand in several columns: `query_image` and `query_text`, say.
BESIDE = ("", "_image", "_images", "_text")


# What Python may give where a document is asked for (`document_of`).
Content = Document | str | bytes | Path | PILImage.Image | Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class Sides:
    """The sides of a row before they are checked: each a list of parts, `others` right answers besides the first."""

    query: Any
    positives: Sequence[Any]
    negatives: Sequence[Any] = ()
    task: str | None = None


# Turns a row with columns of its own into sides.
PairForm = Callable[[Mapping[str, Any]], Sides]


@dataclass(frozen=True)
class PairRow:
    """A query, its answer, and wrong answers. `others` are further right answers: taken in turn, and never counted as wrong."""

    task: str
    query: Document
    positive: Document
    negatives: tuple[Document, ...] = ()
    place: Place | None = field(default=None, compare=False)
    others: tuple[Document, ...] = ()

    @property
    def documents(self) -> tuple[Document, ...]:
        """All sides, the query first."""
        return (self.query, self.positive, *self.others, *self.negatives)


def pair_of(document: Document) -> PairRow:
    """Return the pair that a document stands for."""
    found = document.meta.get(_PAIR)
    if not isinstance(found, PairRow):
        raise ContentError("the row is a document and no pair of query and positive", document.place)
    return found


def named_sides(document: Document) -> Mapping[str, tuple[Document, ...]]:
    """Return the sides of a row by their names; a row that is no pair has its text alone."""
    pair = document.meta.get(_PAIR)
    if not isinstance(pair, PairRow):
        return {"text": (document,)}
    return {"query": (pair.query,), "positive": (pair.positive, *pair.others), "negative": pair.negatives}


def as_document(pair: PairRow) -> Document:
    """Return the document that stands for a pair."""
    return Document(tuple(part for one in pair.documents for part in one.parts), pair.place, {_PAIR: pair})


def read_pair(
    row: object,
    place: Place,
    root: Path | None,
    form: PairForm,
    task: str = "",
    unread: Counter[str] | None = None,
    limits: Limits = DEFAULT,
) -> Document:
    """Turn one row into the document that stands for a pair, or raise a `ContentError`; `task` is that of rows that name none."""
    try:
        if not isinstance(row, Mapping):
            raise ContentError(f"the row is a {type(row).__name__}, not an object with query and positive")
        watched = Watched(row)
        sides = form(watched)
        query = _side(sides.query, "query", place, root, limits)
        if not sides.positives:
            raise ContentError("the row has no positive: nothing answers its query")
        first, *others = (_side(one, "positive", place, root, limits) for one in sides.positives)
        negatives = tuple(_side(one, f"negative {number}", place, root, limits) for number, one in enumerate(sides.negatives, 1))
    except ContentError as error:
        raise ContentError(error.reason, place) from error
    for number, negative in enumerate(negatives, 1):
        if negative in (first, *others):
            raise ContentError(f"negative {number} is the positive itself", place)
    pair = PairRow(sides.task or task, query, first, negatives, place, tuple(others))
    if unread is not None:
        unread.update(watched.unread(pictures=any(one.images for one in pair.documents)))
    return as_document(pair)


def columns(row: Mapping[str, Any]) -> Sides:
    """Read the columns that most data sets have: query (or anchor), positive (or positives), negative, negatives, negative_1 and so on.

    A side is a text, a picture, a list of parts or of chat messages, or an object with the columns of a document (`rows`); `positives` and
    `negatives` are lists of sides. A picture and a text may also stand in columns of their own: `query_image` (or `query_images`) and
    `query_text`.
    """
    query = _first(row, QUERIES)
    if query is None:
        hint = next((found for key in row if (found := did_you_mean(str(key), QUERIES)) and key not in QUERIES), "")
        raise ContentError(f"the row has no query (columns {', '.join(QUERIES)}){hint}; it has {', '.join(map(str, row))}")
    positives = row["positives"] if isinstance(row.get("positives"), list | tuple) else [_first(row, POSITIVES)]
    negatives: list[Any] = []
    for key in row:
        if key == "negatives" and row[key] is not None:
            if not isinstance(row[key], list | tuple):
                raise ContentError("negatives is a list of sides; a single one goes into the column negative")
            negatives += row[key]
        elif key == _NEGATIVES or (key.startswith(f"{_NEGATIVES}_") and key.removeprefix(f"{_NEGATIVES}_").isdigit()):
            negatives.append(row[key])
    negatives.append(_beside(row, _NEGATIVES))
    task = row.get("task")
    return Sides(query, [one for one in positives if one is not None], [one for one in negatives if one is not None], task or None)


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first of these columns that holds something, pictures and texts in columns of their own included."""
    for name in names:
        if row.get(name) is not None:
            beside = _beside(row, name) or {}
            pictures = {kind: value for kind, value in beside.items() if kind != "text"}
            return row[name] if not pictures else pictures | {"text": row[name]}
        if (beside := _beside(row, name)) is not None:
            return beside
    return None


def _beside(row: Mapping[str, Any], name: str) -> Any:
    """Return the side that stands in `NAME_image` or `NAME_images`, and `NAME_text`."""
    given = {kind: row.get(f"{name}{kind}") for kind in BESIDE if kind}
    given = {kind.removeprefix("_"): value for kind, value in given.items()}
    return {kind: value for kind, value in given.items() if value is not None} or None


def _side(value: Any, name: str, place: Place, root: Path | None, limits: Limits) -> Document:
    """Check one side."""
    try:
        return Document.from_parts(unwrap(parts_of(value)), place=place, root=root, max_characters=limits.max_characters)
    except ContentError as error:
        raise ContentError(f"{name}: {error.reason}", place) from error


def document_of(value: object, place: Place | None = None) -> Document:
    """Return what Python gives as a document: one as it is; a text, a picture, a list of parts, or an object with a document's columns."""
    if isinstance(value, Document):
        return value
    try:
        return Document.from_parts(unwrap(parts_of(value)), place=place)
    except ContentError as error:
        raise ContentError(error.reason, place) from error


def documents_of(values: object) -> Iterator[Document]:
    """Return documents out of what `document_of` takes; a single one, whose letters or parts would be taken for several, is refused."""
    if isinstance(values, str | bytes | Mapping | Document) or not isinstance(values, Iterable):
        raise UsageError(f"several documents are expected, not a single {type(values).__name__}; put it into a list")
    return (one if isinstance(one, Document) else document_of(one, Place("documents", number)) for number, one in enumerate(values, 1))


def parts_of(value: Any) -> list[Any]:
    """Return the parts of a side, however it is written."""
    if value is None:
        raise ContentError("it is null")
    if isinstance(value, str | Text):
        return [{"text": value if isinstance(value, str) else value.text}]
    if isinstance(value, Mapping) and set(value) <= {"bytes", "path"}:
        return [{"image": value}]
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in COLUMNS]
        if unknown:
            raise ContentError(f"it has the unknown key {unknown[0]!r}{did_you_mean(str(unknown[0]), COLUMNS)}")
        return list(parts_of_row(value))
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping) and "role" in value[0]:
        return parts_of_messages(value, [])
    if isinstance(value, list | tuple):
        return [part for one in value for part in parts_of(one)]
    return [{"image": value}]
