"""What bulk embedding asks of its sources: all rows in a fixed order from any row on, their number, and whether they are still the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.content import escaped
from twoway.data.rows import ReadOptions, Skip
from twoway.data.sources import files_of, kind_of, open_source
from twoway.data.table import FINDERS
from twoway.embedding.shards import Row
from twoway.images import DEFAULT, Limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from twoway.content import ContentError, Document, Image

READ_AHEAD = 16  # rows; a page in memory is several megabytes
# Above this many files or bytes rows are not counted beforehand, since that would open every file or read it whole.
_FILES, _BYTES = 2000, 4 << 30


class Sources:
    """Several sources, one behind the other."""

    def __init__(self, specs: Sequence[str | Path], *, root: str | Path | None, dpi: int, limits: Limits = DEFAULT) -> None:
        self.specs = [str(spec) for spec in specs]
        self.options = ReadOptions(None if root is None else Path(root), dpi, limits)
        self.sources = [open_source(spec, root=root, dpi=dpi, images="lazy", limits=limits) for spec in self.specs]

    def rows(self, skip: int) -> Iterator[Document | ContentError]:
        """Yield every row from one on."""
        left = Skip(skip)
        for source in self.sources:
            yield from source.rows(left)

    def identity(self) -> dict[str, Any]:
        """Return what changes when the data does: files with size and time; of a data set on the hub the name alone."""
        digest = hashlib.sha256()
        for spec in self.specs:
            for path in files_of(spec):
                said = path.stat()
                digest.update(json.dumps([str(path), said.st_size, said.st_mtime_ns]).encode())
        return {"specs": self.specs, "root": str(self.options.root or ""), "dpi": self.options.dpi, "files": digest.hexdigest()}

    def count(self) -> int | None:
        """Count the rows, bad ones too, where that is quick."""
        total = 0
        for spec in self.specs:
            kind, argument = kind_of(spec)
            files = files_of(spec)
            if kind == "images":
                total += len(files)
                continue
            if kind not in FINDERS or len(files) > _FILES or sum(path.stat().st_size for path in files) > _BYTES:
                return None
            total += sum(1 for _ in FINDERS[kind](argument, self.options).scan())
        return total


def row_of(number: int, document: Document) -> Row:
    """Return what is stored beside a document's vector; a file's name or a column that is no Unicode ends no run."""
    place, meta = document.place, dict(document.meta)
    named = meta.get("id")
    name = str(named) if isinstance(named, str | int) and str(named) else str(place or number)
    shown = next((path for path in map(_path, document.images) if path), None)
    return Row(
        escaped(name),
        None if place is None else escaped(place.file),
        None if place is None else place.row,
        "row" if place is None else place.unit,
        "\n".join(document.texts) or None,
        None if shown is None else escaped(shown),
        escaped(json.dumps(meta, ensure_ascii=False, default=_plain, allow_nan=False)),
    )


def _path(image: Image) -> str | None:
    """Return where a picture lies, if it lies anywhere."""
    if not isinstance(image.source, Path):
        return None
    return str(image.source if image.root is None else image.root / image.source)


def _plain(value: object) -> str:
    """Write what JSON has no form for; of bytes the number alone."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)
