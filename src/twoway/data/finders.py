"""Random access to rows: a reader that lists the positions of its rows once, and finds any of them again without holding the others.

A position is two whole numbers: byte and line of a JSONL file, file and row of Parquet files, file and page of PDFs, row of a saved data
set, number of a sample. A finder can be pickled: what is open or in memory stays behind and is opened again where it is needed.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..content import ContentError, Document, Place
from ..errors import TwowayError
from ..images import image_size
from . import jsonl
from .rows import document, require_columns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from .rows import ReadOptions

Position = tuple[int, int]


class Finder(Protocol):
    """Random access to the rows of one source."""

    def files(self) -> list[Path]:
        """Return the files that the rows come from; where they change, positions are void."""

    def scan(self) -> Iterator[Position]:
        """Go through the positions of all rows, in order."""

    def read(self, at: Position) -> Document:
        """Return the row at a position, its pictures unopened, or raise a `ContentError` that says why it is none."""

    def measure(self, at: Position) -> tuple[int, list[tuple[int, int]]]:
        """Return the characters of the row's texts and (width, height) of its pictures, no pixel decoded."""

    def kind(self, at: Position) -> str:
        """Return which kind of row it is, where a source has several; it is asked right after `measure`."""


class Base:
    """What finders share."""

    _transient: tuple[str, ...] = ()
    _process: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is open or large."""
        return {key: None if key in self._transient else value for key, value in vars(self).items()}

    def _part(self) -> None:
        """Let go of what was open before this process was forked: a file has one place, and two would move it under each other."""
        if self._process != os.getpid():
            vars(self).update(dict.fromkeys(self._transient), _process=os.getpid())

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        raise NotImplementedError

    def measure(self, at: Position) -> tuple[int, list[tuple[int, int]]]:
        """See `Finder`."""
        found = self.read(at)
        return sum(map(len, found.texts)), [image_size(image, place=found.place, limits=self.options.limits) for image in found.images]

    def kind(self, at: Position) -> str:
        """See `Finder`."""
        return ""

    def __init__(self, options: ReadOptions) -> None:
        self.options = options

    def _document(self, row: object, place: Place, root: Path | None) -> Document:
        """Turn a row into a document, or raise."""
        found = document(row, place, self.options.root or root, self.options.form, self.options.unread, limits=self.options.limits)
        if isinstance(found, ContentError):
            raise found
        return found


class JsonlFinder(Base):
    """Lines by their byte."""

    _transient = ("_file",)

    def __init__(self, argument: str, options: ReadOptions) -> None:
        super().__init__(options)
        self.path = Path(argument)
        self._file: BinaryIO | None = None

    def files(self) -> list[Path]:
        """See `Finder`."""
        return [self.path]

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        try:
            with self.path.open("rb") as file:
                yield from ((at, number) for at, number, _ in jsonl.lines(file, self.options.limits.max_line_bytes))
        except OSError as error:
            raise TwowayError(f"{self.path} cannot be read ({error.strerror})") from error

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        self._part()
        try:
            if self._file is None:
                self._file = self.path.open("rb")
            self._file.seek(at[0])
            longest = self.options.limits.max_line_bytes
            line = self._file.readline(longest + 1)
        except OSError as error:
            raise TwowayError(f"{self.path} cannot be read ({error.strerror})") from error
        place = Place(str(self.path), at[1])
        value = jsonl.parse(line.removeprefix(jsonl.BOM) if at[0] == 0 else line, place, longest)
        if isinstance(value, ContentError):
            raise value
        return self._document(value, place, self.path.parent)


class DiskFinder(Base):
    """Rows of a folder that `datasets.save_to_disk` wrote, mapped into memory by `datasets`."""

    _transient = ("_table",)

    def __init__(self, argument: str, options: ReadOptions) -> None:
        super().__init__(options)
        self.path = Path(argument)
        self._table: Any = None

    def files(self) -> list[Path]:
        """See `Finder`."""
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        if self.options.form is None:
            require_columns(self._rows().column_names, self.path)
        yield from ((0, row) for row in range(len(self._rows())))

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        place = Place(str(self.path), at[1] + 1)
        try:
            # As Arrow, because plain rows would come with their pictures decoded.
            row = self._rows()[at[1] : at[1] + 1].to_pylist()[0]
        except (ValueError, ArithmeticError) as error:
            raise ContentError(f"the row cannot be read ({error})", place) from error
        return self._document(row, place, self.path)

    def _rows(self) -> Any:
        """Open the folder."""
        if self._table is None:
            self._table = import_module(".hub", __package__).load_disk(str(self.path)).with_format("arrow")
        return self._table


class SamplesFinder(Base):
    """Rows of a view of the shipped samples, which are small and held in memory."""

    _transient = ("_documents",)

    def __init__(self, argument: str, options: ReadOptions) -> None:
        super().__init__(options)
        self.name = argument
        self._documents: list[Document] | None = None

    def files(self) -> list[Path]:
        """See `Finder`."""
        return []

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        yield from ((0, row) for row in range(len(self._all())))

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        return self._all()[at[1]]

    def _all(self) -> list[Document]:
        """Make the view."""
        if self._documents is None:
            self._documents = list(import_module(".samples", __package__).documents(self.name))
        return self._documents
