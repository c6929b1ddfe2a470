"""A PDF file or a folder of them: a page is a document of two parts, its picture and then its text (none, where it has no text).

A page so large that its picture would pass the pixel bound is rendered at the resolution that just fits: that is a choice of
resolution for a drawing, not a change of data. An encrypted or broken file is one bad row, a broken page too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..content import ContentError, Document, Place
from ..errors import UsageError

if TYPE_CHECKING:
    from .rows import ReadOptions, Row, Rows

_POINTS_PER_INCH = 72
# What a text layer holds besides text: control characters, lone surrogates, and PDFium's marks for hyphens and unknown glyphs.
_NO_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def pdf_files(folder: Path) -> list[Path]:
    """Return the PDFs below a folder in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".pdf" and path.is_file())


def rows(argument: str, options: ReadOptions) -> Rows:
    """Render page by page; only one page is in memory at a time."""
    if options.dpi < 1:
        raise UsageError(f"dpi is a positive number, not {options.dpi}")
    path = Path(argument)
    for file in pdf_files(path) if path.is_dir() else [path]:
        yield from _pages(file, options)


def open_pdf(file: Path) -> Any:
    """Open one file, or return the error that says why not."""
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(file)
    except (pypdfium2.PdfiumError, OSError) as error:
        locked = "password" in str(error).lower()
        reason = "the PDF is encrypted; save it without a password" if locked else f"the PDF is broken ({error})"
        return ContentError(reason, Place(str(file)))
    if not len(pdf):
        pdf.close()
        return ContentError("the PDF has no pages", Place(str(file)))
    return pdf


def page(pdf: Any, index: int, place: Place, options: ReadOptions) -> Row:
    """Return one page as a document, or the error that says why it is none."""
    import pypdfium2

    try:
        picture, text = _page(pdf, index, place, options, render=True)
    except ContentError as error:
        return error
    except (pypdfium2.PdfiumError, ValueError, OSError, MemoryError) as error:
        return ContentError(f"the page is broken ({error})", place)
    parts: list[dict[str, Any]] = [{"image": picture}, *([{"text": text}] if text else [])]
    return Document.from_parts(parts, place=place, meta={"page": index + 1, "pages": len(pdf)})


def measure(pdf: Any, index: int, place: Place, options: ReadOptions) -> tuple[tuple[float, float], str]:
    """Return the width and height that a page is rendered at, before they are rounded up, and its text; nothing is rendered."""
    import pypdfium2

    try:
        size, text = _page(pdf, index, place, options, render=False)
    except (pypdfium2.PdfiumError, ValueError, OSError, MemoryError) as error:
        raise ContentError(f"the page is broken ({error})", place) from error
    return size, text


def _pages(file: Path, options: ReadOptions) -> Rows:
    """Open one file and go through its pages."""
    pdf = open_pdf(file)
    if isinstance(pdf, ContentError):
        if not options.skip.take(1):
            yield pdf
        return
    try:
        for index in range(options.skip.take(len(pdf)), len(pdf)):
            yield page(pdf, index, Place(str(file), index + 1, "page"), options)
    finally:
        pdf.close()


def _page(pdf: Any, index: int, place: Place, options: ReadOptions, *, render: bool) -> tuple[Any, str]:
    """Render one page, or say at what size it would be rendered, and read its text layer."""
    page = pdf[index]
    try:
        width, height = page.get_size()
        if width <= 0 or height <= 0:
            raise ContentError(f"the page has no area ({width:g} x {height:g} points)", place)
        scale = min(options.dpi / _POINTS_PER_INCH, _fitting(width, height, options.limits.max_pixels))
        picture = page.render(scale=scale).to_pil().convert("RGB") if render else (width * scale, height * scale)
        layer = page.get_textpage()
        try:
            text = _NO_TEXT.sub("", layer.get_text_bounded().replace("\r\n", "\n").replace("\r", "\n")).strip()
        finally:
            layer.close()
    finally:
        page.close()
    return picture, text


def _fitting(width: float, height: float, max_pixels: int) -> float:
    """Return the largest scale at which a page keeps to the bound, although each side is rounded up: (ws + 1)(hs + 1) = bound."""
    area, sides = width * height, width + height
    return float(((sides**2 + 4 * area * (max_pixels - 1)) ** 0.5 - sides) / (2 * area))
