"""Pictures as they lie: one file, a folder of them at any depth, or what a pattern matches; each is a document of one part.

They come in the order of their paths. A file is a picture by the ending of its name; one that is broken behind it is a bad row.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from ..content import Document, Image, Place
from .finders import Base
from .rows import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .finders import Position
    from .rows import ReadOptions, Rows


def files(argument: str) -> list[Path]:
    """Return the pictures of a folder or a pattern in a fixed order, or the one file."""
    path = Path(argument)
    if path.is_file():
        return [path]
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(argument, recursive=True))
    return sorted(one for one in found if one.suffix.lower() in SUFFIXES and one.is_file())


def rows(argument: str, options: ReadOptions) -> Rows:
    """Go through the files; none is opened here."""
    found = files(argument)
    for path in found[options.skip.take(len(found)) :]:
        yield document(path)


def document(path: Path) -> Document:
    """Return one picture."""
    return Document((Image(path),), Place(str(path)))


class PicturesFinder(Base):
    """Random access by number; see `finders`."""

    def __init__(self, argument: str, options: ReadOptions) -> None:
        super().__init__(options)
        self.paths = files(argument)

    def files(self) -> list[Path]:
        """See `Finder`."""
        return self.paths

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        yield from ((number, 0) for number in range(len(self.paths)))

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        return document(self.paths[at[0]])
