"""Random access to the pages of PDFs; a page is measured from its box and its text layer, without being rendered."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..content import ContentError, Document, Place
from ..errors import UsageError
from . import pdf
from .finders import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .finders import Position
    from .rows import ReadOptions


class PdfFinder(Base):
    """Pages by file and number; the latest file stays open. Page 0 stands for a file that cannot be opened."""

    _transient = ("_open",)

    def __init__(self, argument: str, options: ReadOptions) -> None:
        super().__init__(options)
        if options.dpi < 1:
            raise UsageError(f"dpi is a positive number, not {options.dpi}")
        path = Path(argument)
        self.paths = pdf.pdf_files(path) if path.is_dir() else [path]
        self._open: tuple[int, Any] | None = None

    def files(self) -> list[Path]:
        """See `Finder`."""
        return self.paths

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        for number in range(len(self.paths)):
            try:
                pages = len(self._file(number))
            except ContentError:
                yield number, 0
                continue
            yield from ((number, page) for page in range(1, pages + 1))

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        file, place = self._file(at[0]), Place(str(self.paths[at[0]]), at[1], "page")
        found = pdf.page(file, at[1] - 1, place, self.options)
        if isinstance(found, ContentError):
            raise found
        return found

    def measure(self, at: Position) -> tuple[int, list[tuple[int, int]]]:
        """See `Finder`."""
        file, place = self._file(at[0]), Place(str(self.paths[at[0]]), at[1], "page")
        (width, height), text = pdf.measure(file, at[1] - 1, place, self.options)
        return len(text), [(math.ceil(width), math.ceil(height))]

    def _file(self, number: int) -> Any:
        """Open a file, and close the one before."""
        self._part()
        if self._open is not None and self._open[0] != number:
            self._open[1].close()
            self._open = None
        if self._open is None:
            found = pdf.open_pdf(self.paths[number])
            if isinstance(found, ContentError):
                raise found
            self._open = number, found
        return self._open[1]
