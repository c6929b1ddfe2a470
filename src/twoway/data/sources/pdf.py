"""A PDF file or a folder of them: a page is a document of two parts, its picture and then its text (none, where it has no text).

A page so large that its picture would pass the pixel bound is rendered at the resolution that just fits: that is a choice of
resolution for a drawing, not a change of data. An encrypted or broken file is one bad row, a broken page too.

PDFium runs in a child process with bounds (`sandbox`): a page may draw itself, or a few lines may ask for a billion strokes.
"""

from __future__ import annotations

import math
import os
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from PIL import Image as PILImage

from twoway.content import ContentError, Document, Place
from twoway.errors import UsageError
from twoway.sandbox import SANDBOX, BoundError, SandboxError

from .readers import MediaSize, Reader, RowSize, files_below

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twoway.data.rows import ReadOptions
    from twoway.limits import Limits

    from .formats import Converter
    from .readers import Position

_POINTS_PER_INCH = 72
_OPEN_FILES = 4
# What a text layer holds besides text: control characters, lone surrogates, and PDFium's marks for hyphens and unknown glyphs.
_NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def count_pages(file: Path, limits: Limits) -> int:
    """Return the number of pages of a file, or raise what says why it has none."""
    try:
        pages, _ = _call("child_pages", file, limits)
    except SandboxError as error:
        raise ContentError(str(error), Place(str(file))) from error
    if not pages:
        raise ContentError("the PDF has no pages", Place(str(file)))
    return int(pages)


def page(file: Path, index: int, place: Place, options: ReadOptions) -> Document:
    """Return one page as a document, or raise what says why it is none."""
    try:
        (pages, size, text), pixels = _page(file, index, options, render=True)
        picture = PILImage.frombytes("RGB", tuple(size), pixels)
        parts: list[dict[str, Any]] = [{"image": picture}, *([{"text": text}] if text else [])]
        return Document.from_parts(parts, place=place, meta={"page": index + 1, "pages": pages}, limits=options.limits)
    except SandboxError as error:
        raise ContentError(str(error), place) from error


def page_size(file: Path, index: int, place: Place, options: ReadOptions) -> tuple[tuple[float, float], str]:
    """Return the width and height that a page is rendered at, before they are rounded up, and its text; nothing is rendered."""
    try:
        (_, (width, height), text), _ = _page(file, index, options, render=False)
    except SandboxError as error:
        raise ContentError(str(error), place) from error
    if text:
        Document.from_parts([{"text": text}], place=place, limits=options.limits)
    return (width, height), text


def _page(file: Path, index: int, options: ReadOptions, *, render: bool) -> tuple[Any, bytes]:
    """Ask for one page."""
    limits = options.limits
    request = {"dpi": options.dpi, "max_pixels": limits.max_pixels, "max_characters": limits.max_characters, "render": render}
    return _call("child_page", file, limits, index=index, **request)


def _call(name: str, file: Path, limits: Limits, **given: Any) -> tuple[Any, bytes]:
    """Have a function of this module done in the child process."""
    try:
        given["file"] = str(file.absolute())  # the child stays in the folder that it began in
        return SANDBOX.call(f"{__name__}:{name}", given, seconds=limits.max_page_seconds, memory=limits.max_page_memory)
    except BoundError as error:
        raise SandboxError(f"the {'page' if 'index' in given else 'PDF'} {error}") from error


# What follows runs in the child process.

_open: OrderedDict[tuple[str, int, int], Any] = OrderedDict()


def child_pages(file: str) -> tuple[int, bytes]:
    """Return the number of pages."""
    return len(_opened(file)), b""


def child_page(file: str, index: int, dpi: int, max_pixels: int, max_characters: int, *, render: bool) -> tuple[Any, bytes]:
    """Render one page, or say at what size it would be rendered, and read its text layer."""
    import pypdfium2

    pdf = _opened(file)
    try:
        page = pdf[index]
        try:
            width, height = page.get_size()
            if width <= 0 or height <= 0:
                raise ContentError(f"the page has no area ({width:g} x {height:g} points)")
            scale = min(dpi / _POINTS_PER_INCH, _fitting(width, height, max_pixels))
            picture = page.render(scale=scale).to_pil().convert("RGB") if render else None
            layer = page.get_textpage()
            try:
                text = _NO_TEXT.sub("", layer.get_text_bounded().replace("\r\n", "\n").replace("\r", "\n")).strip()
            finally:
                layer.close()
        finally:
            page.close()
    except (pypdfium2.PdfiumError, ValueError, OSError) as error:
        raise ContentError(f"the page is broken ({error})") from error
    size = picture.size if picture is not None else (width * scale, height * scale)
    return (len(pdf), size, text[: max_characters + 1]), b"" if picture is None else picture.tobytes()


def _opened(file: str) -> Any:
    """Open a file, or find it open; the latest few stay so."""
    import pypdfium2

    try:
        stat = os.stat(file)
        key = file, stat.st_size, stat.st_mtime_ns
        if key not in _open:
            _open[key] = pypdfium2.PdfDocument(file)
    except (pypdfium2.PdfiumError, OSError) as error:
        locked = "password" in str(error).lower()
        message = getattr(error, "strerror", None) or error
        reason = "the PDF is encrypted; save it without a password" if locked else f"the PDF is broken ({message})"
        raise ContentError(reason) from error
    _open.move_to_end(key)
    while len(_open) > _OPEN_FILES:
        _open.popitem(last=False)[1].close()
    return _open[key]


def _fitting(width: float, height: float, max_pixels: int) -> float:
    """Return the largest scale at which a page keeps to the bound, although each side is rounded up: (ws + 1)(hs + 1) = bound."""
    area, sides = width * height, width + height
    return float(((sides**2 + 4 * area * (max_pixels - 1)) ** 0.5 - sides) / (2 * area))


class PdfReader(Reader[Document]):
    """Pages by file and number; one page is in memory at a time. Page 0 stands for a file that cannot be opened."""

    suffixes, in_folders, has_columns = (".pdf",), "PDFs", False

    def __init__(self, source: str, options: ReadOptions, convert: Converter[Document]) -> None:
        super().__init__(source, options, convert)
        if options.dpi < 1:
            raise UsageError(f"dpi is a positive number, not {options.dpi}")
        self.paths = files_below(self.path, self.suffixes)

    def files(self) -> list[Path]:
        """See `Reader`."""
        return self.paths

    def positions(self) -> Iterator[Position]:
        """See `Reader`."""
        for number, path in enumerate(self.paths):
            try:
                pages = count_pages(path, self.options.limits)
            except ContentError:
                yield number, 0
                continue
            yield from ((number, page) for page in range(1, pages + 1))

    def read(self, at: Position) -> Document:
        """See `Reader`."""
        return page(*self._at(at), self.options)

    def measure(self, at: Position) -> RowSize:
        """See `Reader`; a page is measured from its box and its text layer, and is not rendered."""
        (width, height), text = page_size(*self._at(at), self.options)
        return RowSize(len(text), [MediaSize(0, math.ceil(width), math.ceil(height), 1)], "")

    def _at(self, at: Position) -> tuple[Path, int, Place]:
        """Return file, index and place of a page; of a file that cannot be opened, raise why."""
        path = self.paths[at[0]]
        if not at[1]:
            count_pages(path, self.options.limits)
        return path, at[1] - 1, Place(str(path), at[1], "page")
