"""The page that a report is written on: one file, no script, nothing from outside, light and dark."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from twoway.content import ContentError, Text
from twoway.images import open_image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image as PILImage

    from twoway.content import Document

_LARGEST = 224
_QUALITY = 82
_EDGE, _HEAD = 16, 44  # of a drawing in a file of its own
_STYLE = """
:root{color-scheme:light dark;--page:#fbfaf8;--card:#fff;--ink:#1d1d1f;--soft:#66666b;--rule:#e7e5e1;--zero:#a5a29c;
--c0:#2563b8;--c1:#c8571b;--c2:#7a7f87;--c3:#0f8a6b;--good:#0b7a4b;--goodbg:#dcf3e6;--bad:#b3261e;--badbg:#fbe3e0}
@media(prefers-color-scheme:dark){:root{--page:#141416;--card:#1d1d20;--ink:#ececee;--soft:#a0a0a8;--rule:#313136;--zero:#6d6d75;
--c0:#6ea8fe;--c1:#f2935c;--c2:#a3a8b0;--c3:#4cc9a4;--good:#7fe0ae;--goodbg:#163526;--bad:#ff9a91;--badbg:#43201d}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1260px;margin:0 auto;padding:48px 24px 80px}
h1{font-size:30px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:20px;margin:52px 0 6px}h3{font-size:17px;margin:34px 0 4px}
p{max-width:74ch;margin:6px 0 14px}.soft,small,figcaption small{color:var(--soft);font-weight:400}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,350px),1fr));gap:18px;margin-top:16px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(168px,1fr));gap:14px;margin:26px 0 0}
.tile,figure,.card{background:var(--card);border:1px solid var(--rule);border-radius:12px}
.tile{padding:14px 16px}.tile b{display:block;font-size:25px;font-weight:600;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:14px;line-height:1.35;display:block}
figure{margin:0;padding:16px 16px 8px}figcaption{font-weight:600}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:14px;color:var(--soft);margin-top:2px}
.key i{display:inline-block;width:18px;height:3px;border-radius:2px;vertical-align:middle;margin-right:7px}
svg{width:100%;height:auto;display:block;margin-top:8px}svg text{fill:var(--soft);font-size:12.5px;font-variant-numeric:tabular-nums}
.rule{stroke:var(--rule)}.zero{stroke:var(--zero)}.line{fill:none;stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
.dash{stroke-dasharray:7 7}.faintly{fill:none;stroke-width:1;opacity:.3}.band{opacity:.16;stroke:none}
polyline.c0{stroke:var(--c0)}polyline.c1{stroke:var(--c1)}polyline.c2{stroke:var(--c2)}polyline.c3{stroke:var(--c3)}
circle.c0,.band.c0{fill:var(--c0)}circle.c1,.band.c1{fill:var(--c1)}circle.c2,.band.c2{fill:var(--c2)}circle.c3,.band.c3{fill:var(--c3)}
polyline.good{stroke:var(--good)}polyline.bad{stroke:var(--bad)}circle.good{fill:var(--good)}circle.bad{fill:var(--bad)}
.hollow{fill:none;stroke:var(--soft)}svg text.strong{fill:var(--ink);font-weight:600}
figure.rows{max-width:880px;margin-top:16px}svg.rows{min-width:540px}
i.c0{background:var(--c0)}i.c1{background:var(--c1)}i.c2{background:var(--c2)}i.c3{background:var(--c3)}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:16px;margin-top:16px}
.card{padding:14px}.three{display:grid;grid-template-columns:repeat(3,1fr);gap:8px;font-size:12px;color:var(--soft);text-align:center}
.three img{width:100%;aspect-ratio:1;object-fit:contain}img{background:#fff;border-radius:6px;image-rendering:auto;display:block}
.card p{margin:10px 0 0;font-size:14px;overflow-wrap:anywhere}
.case{display:grid;grid-template-columns:76px 1fr;gap:14px;align-items:start;margin:4px 0 12px}
.case img{width:76px;height:76px;object-fit:contain}
.case p{margin:0;font-size:16px;line-height:1.9}.case small{display:block;font-size:12px}
.w{border-radius:4px;padding:1px 4px;white-space:pre-wrap}.yes{background:var(--goodbg);color:var(--good)}
.no{background:var(--badbg);color:var(--bad)}.dull{background:var(--rule);color:var(--ink)}rt{color:var(--ink);font-size:11px;line-height:1.3}
table{border-collapse:collapse;font-size:14px;margin-top:12px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:6px 18px 6px 0;border-bottom:1px solid var(--rule);vertical-align:top;overflow-wrap:break-word}
th{color:var(--soft);font-weight:500}td.n,th.n{text-align:right;white-space:nowrap}td>.w{white-space:nowrap}
@media(max-width:700px){td{min-width:104px}td.n{min-width:0}}.wide{overflow-x:auto}
pre{background:var(--card);border:1px solid var(--rule);border-radius:12px;padding:16px;overflow:auto;font-size:13px;line-height:1.5}
summary{cursor:pointer;font-weight:600;margin-top:14px}
"""


class Markup(str):
    """A cell of a table that is written as it is."""

    __slots__ = ()


def page(title: str, under: str, body: Sequence[str]) -> str:
    """Return the whole file."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(title)}</title>'
    top = f'<h1>{escape(title)}</h1><div class="soft">{escape(under)}</div>'
    return (
        f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body><main>{top}{"".join(body)}</main></body></html>\n'
    )


def svg_file(title: str, shape: tuple[int, int], body: str) -> str:
    """Return a drawing as a file of its own, with the page's colours in light and dark."""
    width, height = shape[0] + 2 * _EDGE, shape[1] + _HEAD + _EDGE
    back = f'<rect class="back" width="{width}" height="{height}"/><text class="strong" x="{_EDGE}" y="{_HEAD - 18}">{escape(title)}</text>'
    style = f"{_STYLE}svg{{width:auto;margin:0}}.back{{fill:var(--card)}}text{{font-family:system-ui,sans-serif}}"
    # A file that is shown as a picture has no style but its own, and is as wide as it says.
    inside = f'<style>{style}</style>{back}<g transform="translate({_EDGE} {_HEAD})">{body}</g>'
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">{inside}</svg>\n'


def section(title: str, said: str, *inside: str) -> str:
    """Return a section; nothing where nothing is inside."""
    if not any(inside):
        return ""
    return f"<section><h2>{escape(title)}</h2><p>{escape(said)}</p>{''.join(inside)}</section>"


def tiles(values: Sequence[tuple[str, str]]) -> str:
    """Return large numbers with what they are."""
    return (
        '<div class="tiles">' + "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in values) + "</div>"
    )


def grid(figures: Sequence[str]) -> str:
    """Lay figures beside each other."""
    found = [one for one in figures if one]
    return f'<div class="grid">{"".join(found)}</div>' if found else ""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; numbers stand on the right."""
    if not rows:
        return ""
    right = [all(isinstance(row[at], int | float) for row in rows) for at in range(len(head))]
    kinds = [' class="n"' if one else "" for one in right]
    top = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(head, kinds, strict=True))
    lines = ["".join(f"<td{kind}>{_cell(one)}</td>" for one, kind in zip(row, kinds, strict=True)) for row in rows]
    return f'<div class="wide"><table><tr>{top}</tr>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'


def folded(title: str, text: str) -> str:
    """Return a text that opens when it is asked for."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>" if text else ""


def img(picture: PILImage.Image, about: str, *, largest: int = _LARGEST, exact: bool = True) -> str:
    """Return a picture inside the page; one that need not be exact is a JPEG, a few kilobytes where many are shown."""
    shown = picture.convert("RGB")
    shown.thumbnail((largest, largest))
    kind = "PNG" if exact else "JPEG"
    with io.BytesIO() as stream:
        shown.save(stream, kind, optimize=True, **({} if exact else {"quality": _QUALITY}))
        code = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/{kind.lower()};base64,{code}" alt="{escape(about)}">'


def badge(text: str, kind: str) -> Markup:
    """Return a word on a ground: `yes`, `no` or `dull`."""
    return Markup(f'<span class="w {kind}">{escape(text)}</span>')


def _cell(value: object) -> str:
    if isinstance(value, Markup):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if isinstance(value, float) else escape(str(value))


# Cases in a report: a query, what it found and what was right, side by side as pictures and words.

_WORDS = 220
_LARGEST_PICTURE = 144
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
    shown = "".join(f'<div class="card"><div class="find">{"".join(map(_case_cell, cells))}</div></div>' for cells in found)
    return f'<div class="list">{shown}</div>' if shown else ""


def _case_cell(cell: Cell) -> str:
    shown = []
    for part in cell.document.parts:
        if isinstance(part, Text):
            text = part.text if len(part.text) <= _WORDS else part.text[:_WORDS].rstrip() + "…"
            shown.append(f"<div>{escape(text)}</div>")
        else:
            try:
                shown.append(img(open_image(part, place=cell.document.place), "picture", largest=_LARGEST_PICTURE, exact=False))
            except ContentError:
                shown.append("<div>a picture that cannot be opened</div>")
    return f'<div class="{"hit" if cell.right else "miss"}"><b>{escape(cell.title)}</b>{"".join(shown)}</div>'
