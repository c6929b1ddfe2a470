"""mteb's batches as documents: the columns of a row in their order, one part each, pictures as the bytes of their file.

mteb hands a model a loader of batches with every picture decoded. Where a loader stands on a table of `datasets`, the rows are read from
that table instead, when they are needed and undecoded, so that a corpus of pages is never in memory and each row is known by its content.
Which columns count and in which order they follow is as in mteb's own wrapper. An empty text stays: mteb's wrapper embeds it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import datasets
from PIL import Image as PILImage

from ..content import ContentError, Document, Image, Part, Place, Text
from ..errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_READ_AT_ONCE = 64


class Rows(Sequence[Document]):
    """The rows of a table as documents, made anew each time they are asked for."""

    def __init__(self, table: Any, columns: Sequence[str], place: str) -> None:
        self.place = place
        # In the table's order: it is the order of the parts.
        self.table = table.select_columns([name for name in table.column_names if name in columns])
        for name, kind in self.table.features.items():
            if isinstance(kind, datasets.Image):
                self.table = self.table.cast_column(name, datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, at: int) -> Document: ...
    @overload
    def __getitem__(self, at: slice) -> list[Document]: ...
    def __getitem__(self, at: int | slice) -> Document | list[Document]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        return document(self.table[at], Place(self.place, at + 1))

    def __iter__(self) -> Iterator[Document]:
        number = 0
        for batch in self.table.iter(batch_size=_READ_AT_ONCE):
            for row in _rows(batch):
                number += 1
                yield document(row, Place(self.place, number))


def documents(loader: Any, modalities: Sequence[str], place: str) -> Sequence[Document]:
    """Return what a loader of mteb holds; `modalities` are those that the model takes."""
    table = loader.dataset
    names = getattr(table, "column_names", None) or list(getattr(table, "features", ()))
    if not any(name in modalities for name in names):
        raise TwowayError(f"{place}: nothing that the model takes ({', '.join(modalities)}) is among its columns: {', '.join(names)}")
    if isinstance(table, datasets.Dataset) and table.format["type"] is None:
        return Rows(table, modalities, place)
    found: list[Document] = []
    for batch in loader:
        kept = {name: values for name, values in batch.items() if name in modalities}
        found += [document(row, Place(place, len(found) + number)) for number, row in enumerate(_rows(kept), 1)]
    return found


def document(row: Mapping[str, Any], place: Place) -> Document:
    """Return one row as a document; a column that holds a list gives a part for each of its values."""
    parts: list[Part] = []
    for name, value in row.items():
        several = value if isinstance(value, list | tuple) else [value]
        parts += [_part(name, one, place) for one in several]
    return Document(tuple(parts), place)


def _part(name: str, value: Any, place: Place) -> Part:
    if name == "text":
        if not isinstance(value, str):
            raise ContentError(f"the text is a {type(value).__name__}, not a string", place)
        return Text(value)
    if isinstance(value, dict):  # as `datasets` keeps a picture: its bytes, or the path of its file
        source: bytes | Path | PILImage.Image | None = value.get("bytes")
        if source is None and value.get("path"):
            checked = Document.from_parts([{"image": value["path"]}], place=place)
            return checked.images[0]
    else:
        source = value if isinstance(value, PILImage.Image | bytes) else None
    if source is None:
        raise ContentError(f"the row has no picture where one should be (found {type(value).__name__})", place)
    return Image(source)


def _rows(batch: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(batch, values, strict=True))
