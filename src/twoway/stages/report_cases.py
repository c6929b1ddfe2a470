"""Cases in a report: a query, what it found and what was right, side by side as pictures and words."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from twoway.content import ContentError, Text
from twoway.images import open_image
from twoway.training.report_page import img

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twoway.content import Document

_WORDS = 220
_LARGEST = 144
STYLE = (
    "<style>.find{display:grid;grid-template-columns:repeat(auto-fill,minmax(128px,1fr));gap:10px;font-size:13px}"
    ".find>div{overflow-wrap:anywhere}.find{align-items:start}.find img{width:100%;max-width:120px;aspect-ratio:1;object-fit:contain}"
    ".list{display:grid;gap:12px;margin-top:16px}.find b{display:block;font-size:12px;color:var(--soft);font-weight:500}"
    ".hit{outline:2px solid var(--good);border-radius:6px;padding:4px}.miss{padding:4px}</style>"
)


@dataclass(frozen=True)
class Cell:
    """One document of a case, and whether it is a right answer."""

    title: str
    document: Document
    right: bool = False


def cases(found: Sequence[Sequence[Cell]]) -> str:
    """Return cases below each other; nothing where there are none. Right answers are framed."""
    shown = "".join(f'<div class="card"><div class="find">{"".join(map(_cell, cells))}</div></div>' for cells in found)
    return f'<div class="list">{shown}</div>' if shown else ""


def _cell(cell: Cell) -> str:
    shown = []
    for part in cell.document.parts:
        if isinstance(part, Text):
            text = part.text if len(part.text) <= _WORDS else part.text[:_WORDS].rstrip() + "…"
            shown.append(f"<div>{escape(text)}</div>")
        else:
            try:
                shown.append(img(open_image(part, place=cell.document.place), "picture", largest=_LARGEST, exact=False))
            except ContentError:
                shown.append("<div>a picture that cannot be opened</div>")
    return f'<div class="{"hit" if cell.right else "miss"}"><b>{escape(cell.title)}</b>{"".join(shown)}</div>'
