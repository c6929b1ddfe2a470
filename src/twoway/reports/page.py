"""The page that a report is written on: one file, no script, nothing from outside, light and dark.

Python prepares numbers, rows of tables and charts. A Jinja2 template lays them out with the layout and macros of `templates/`; that of a
method, a study or a recipe lies beside the code that fills it (`report.html`). Whatever data holds is escaped.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from twoway.content import ContentError, Media
from twoway.files import write_whole
from twoway.images import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image as PILImage

    from twoway.content import Document

REPORT = "report.html"
_LARGEST = 224
_LARGEST_IN_CASES = 144
_QUALITY = 82
_CHARACTERS = 220  # of a text in a case


class Badge(NamedTuple):
    """A word on a coloured ground: `yes`, `no` or `dull`; a cell of a table may be one."""

    text: str
    kind: str


@dataclass(frozen=True)
class CaseDocument:
    """One document of a case (the query, or what it found), and whether it is a right answer."""

    title: str
    document: Document
    right: bool = False

    def contents(self) -> Iterator[tuple[str, str]]:
        """Return each part: its kind, and its text or the picture's address."""
        for part in self.document.parts:
            if not isinstance(part, Media):
                yield "text", shortened(part.value, _CHARACTERS)
                continue
            try:
                preview = part.preview(self.document.place, DEFAULT)
            except ContentError:
                yield "text", f"{part.key} that cannot be opened"
            else:
                yield "image", data_uri(preview, largest=_LARGEST_IN_CASES, exact=False)


def write_page(path: Path, template: str, title: str, subtitle: str = "", **values: object) -> None:
    """Fill a template that extends `page.html`, and write the file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render(template, title=title, subtitle=subtitle, **values))


def render(template: str, **values: object) -> Markup:
    """Fill a template, named by its path within the package."""
    return Markup(_TEMPLATES.get_template(template).render(**values))  # noqa: S704, escaped by the template


def data_uri(picture: PILImage.Image, largest: int = _LARGEST, *, exact: bool = True) -> str:
    """Return a picture as an address that holds it; one that need not be exact is a JPEG, a few kilobytes where many are shown."""
    shown = picture.convert("RGB")
    shown.thumbnail((largest, largest))
    kind = "PNG" if exact else "JPEG"
    with io.BytesIO() as stream:
        shown.save(stream, kind, optimize=True, **({} if exact else {"quality": _QUALITY}))
        return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def shortened(text: str, length: int) -> str:
    """Cut a text that is longer."""
    return text if len(text) <= length else text[:length].rstrip() + "…"


def number_columns(rows: Sequence[Sequence[object]]) -> list[bool]:
    """Say which columns of a table hold numbers alone."""
    return [all(isinstance(value, int | float) for value in column) for column in zip(*rows, strict=True)]


def format_cell(value: object) -> str:
    """Write a value of a table."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else str(value)


def markdown_cell(value: object) -> str:
    """Write a value of a table in Markdown."""
    return str(value).replace("|", "\\|").replace("\n", " ")


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]),
    autoescape=select_autoescape(("html", "svg")),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.filters |= {
    "cell": format_cell,
    "data_uri": data_uri,
    "markdown_cell": markdown_cell,
    "number_columns": number_columns,
    "shortened": shortened,
}
