"""Random access to pairs: the finders of documents, with rows read as pairs (`pair_rows`). A row's kind is its task."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from ..content import Document, Place
from ..images import image_size
from .find_parquet import ParquetFinder
from .finders import Base, DiskFinder, JsonlFinder, SamplesFinder
from .pair_rows import PairRow, as_document, pair_of, read_pair
from .tars import TarFinder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .finders import Position
    from .pair_rows import PairForm
    from .rows import ReadOptions


class _Pairs(Base):
    """What finders of pairs share. `task` is that of rows that name none; with `alone`, of all rows."""

    task: str
    alone: bool
    _last: tuple[Position, str] | None = None

    def _document(self, row: object, place: Place, root: Path | None) -> Document:
        """Turn a row into the document that stands for a pair."""
        form = cast("PairForm", self.options.form)
        return self._named(read_pair(row, place, self.options.root or root, form, self.task, self.options.unread, self.options.limits))

    def _named(self, document: Document) -> Document:
        if not self.alone:
            return document
        pair = pair_of(document)
        return as_document(PairRow(self.task, pair.query, pair.positive, pair.negatives, pair.place, pair.others))

    def measure(self, at: Position) -> tuple[int, list[tuple[int, int]]]:
        """See `Finder`; all sides together."""
        found = self.read(at)
        # What the row says of itself is kept for the question that follows.
        self._last = at, pair_of(found).task
        return sum(map(len, found.texts)), [image_size(image, place=found.place, limits=self.options.limits) for image in found.images]

    def kind(self, at: Position) -> str:
        """Return the row's task."""
        return self._last[1] if self._last is not None and self._last[0] == at else pair_of(self.read(at)).task


class JsonlPairs(_Pairs, JsonlFinder):
    """Pairs in JSON lines."""


class ParquetPairs(_Pairs, ParquetFinder):
    """Pairs in Parquet files."""


class TarPairs(_Pairs, TarFinder):
    """Pairs in tars of WebDataset."""


class DiskPairs(_Pairs, DiskFinder):
    """Pairs in a folder of `datasets.save_to_disk`."""


class SamplesPairs(_Pairs, SamplesFinder):
    """Pairs of a view of the shipped samples."""

    def _all(self) -> list[Document]:
        """Make the view."""
        if self._documents is None:
            found = import_module(".samples", __package__).pairs(self.name)
            self._documents = [
                self._named(as_document(PairRow(one.task, one.query, one.positive, place=Place(f"samples:{self.name}", number))))
                for number, one in enumerate(found, 1)
            ]
        return self._documents


def pair_finders(task: str, *, alone: bool = False) -> Mapping[str, Any]:
    """Return what opens pairs, by kind of source (the form in `ReadOptions` is one of pairs); `alone` gives every row the task."""
    made = {"jsonl": JsonlPairs, "parquet": ParquetPairs, "disk": DiskPairs, "samples": SamplesPairs, "tars": TarPairs}

    def make(kind: Any, *given: Any) -> Any:
        finder = kind(*given)
        finder.task, finder.alone = task, alone
        return finder

    def of_copy(copy: ParquetFinder, options: ReadOptions) -> Any:
        return make(ParquetPairs, str(copy.paths[0].parent), options, copy.label, copy.root)

    return {name: partial(make, kind) for name, kind in made.items()} | {"hub copy": of_copy}
