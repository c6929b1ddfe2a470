"""Random access to the pages of PDFs; a page is measured from its box and its text layer, without being rendered."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from ..content import ContentError, Document, Place
from ..errors import UsageError
from . import pdf
from .finders import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .finders import Position
    from .rows import ReadOptions


class PdfFinder(Base):
    """Pages by file and number. Page 0 stands for a file that cannot be opened."""

    def __init__(self, argument: str, options: ReadOptions) -> None:
        super().__init__(options)
        if options.dpi < 1:
            raise UsageError(f"dpi is a positive number, not {options.dpi}")
        path = Path(argument)
        self.paths = pdf.pdf_files(path) if path.is_dir() else [path]

    def files(self) -> list[Path]:
        """See `Finder`."""
        return self.paths

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        for number, path in enumerate(self.paths):
            try:
                pages = pdf.count_pages(path, self.options.limits)
            except ContentError:
                yield number, 0
                continue
            yield from ((number, page) for page in range(1, pages + 1))

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        found = pdf.page(*self._at(at), self.options)
        if isinstance(found, ContentError):
            raise found
        return found

    def measure(self, at: Position) -> tuple[int, list[tuple[int, int]]]:
        """See `Finder`."""
        (width, height), text = pdf.measure(*self._at(at), self.options)
        return len(text), [(math.ceil(width), math.ceil(height))]

    def _at(self, at: Position) -> tuple[Path, int, Place]:
        """Return file, index and place of a page; of a file that cannot be opened, raise why."""
        path = self.paths[at[0]]
        if not at[1]:
            pdf.count_pages(path, self.options.limits)
        return path, at[1] - 1, Place(str(path), at[1], "page")
