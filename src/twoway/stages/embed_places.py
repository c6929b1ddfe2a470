"""Where each row of a run lies, so that any machine reads any shard by itself: rows are found once, in order, and read by their place.

A place is three whole numbers: the source, and the position that its finder knows the row by. Files are named by path, so every machine
that reads must see them under the same path.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError, Place
from twoway.data.sources import files_of, kind_of
from twoway.data.table import FINDERS
from twoway.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from twoway.content import Document
    from twoway.data.finders import Finder
    from twoway.data.rows import ReadOptions

    from .embed_source import Sources


class Places:
    """The rows of several sources, one behind the other, by their places; it is sent to other machines without what is open in it."""

    def __init__(self, sources: Sources) -> None:
        self.finders: list[tuple[str, Finder]] = []
        for spec in sources.specs:
            self.finders.extend(_finders(spec, sources.options))

    def shards(self, rows: int) -> Iterator[NDArray[np.int64]]:
        """Go through all rows, so many at a time."""
        found = ((number, *at) for number, (_, finder) in enumerate(self.finders) for at in finder.scan())
        while shard := list(itertools.islice(found, rows)):
            yield np.array(shard, np.int64)

    def read(self, places: NDArray[np.int64]) -> Iterator[Document | ContentError]:
        """Read rows, bad ones as the error that says why."""
        for number, *at in places.tolist():
            spec, finder = self.finders[number]
            try:
                yield finder.read((at[0], at[1]))
            except ContentError as error:
                yield error if error.place is not None else ContentError(error.reason, Place(spec))


def _finders(spec: str, options: ReadOptions) -> Iterator[tuple[str, Any]]:
    """Open a source for random access."""
    kind, argument = kind_of(spec)
    if kind == "glob":
        for path in files_of(spec):
            yield from _finders(str(path), options)
    elif kind in FINDERS:
        yield spec, FINDERS[kind](argument, options)
    else:
        raise UsageError(
            f"{spec} is a stream, and Ray's machines read rows by their place; save it with datasets.save_to_disk and name the folder"
        )
