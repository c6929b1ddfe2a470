"""Values with their intervals, a row each, as SVG: differences around zero, or scores beside what chance gives."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from .report_chart import number, ticks_of
from .report_page import svg_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CHART, _SAID, _ROW, _END = 330, 200, 25, 30
_LETTER, _STRONG = 7.4, 8.2  # wide, at most, in most fonts
_LEAST = 0.001  # wide is what is drawn, at least
_FEWEST, _LONGEST = 16, 44  # letters of a name that have room


@dataclass(frozen=True)
class Row:
    """One value."""

    name: str
    value: float
    low: float
    high: float
    colour: str = "c0"  # a class of the page: c0 to c3, good, bad
    dots: Sequence[float] = ()  # what it is the mean of, such as seeds
    band: tuple[float, float] | None = None  # such as what chance gives
    strong: bool = False  # it sums up the others
    said: str = ""  # what stands at the right; default: the value and its interval


def intervals(title: str, unit: str, rows: Sequence[Row], *, signed: bool = True) -> str:
    """Return a figure; nothing where there is no row. `signed` writes numbers with their sign and keeps zero in sight."""
    if not rows:
        return ""
    shape, body = _drawn(rows, signed)
    svg = f'<svg class="rows" viewBox="0 0 {shape[0]} {shape[1]}" role="img" aria-label="{escape(title)}">{body}</svg>'
    said = f"<figcaption>{escape(title)} <small>{escape(unit)}</small></figcaption>"
    return f'<figure class="rows">{said}<div class="wide">{svg}</div></figure>'


def intervals_file(title: str, rows: Sequence[Row], *, signed: bool = True) -> str:
    """Return the same as an SVG file of its own, light and dark."""
    shape, body = _drawn(rows, signed)
    return svg_file(title, shape, body)


def spelled(value: float, low: float, high: float, *, signed: bool = True) -> str:
    """Write a value with its interval."""
    form = "+.3f" if signed else ".3f"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]".replace("-", "−")


def _drawn(rows: Sequence[Row], signed: bool) -> tuple[tuple[int, int], str]:
    """Return width and height, and what is inside."""
    values = [value for row in rows for value in (row.low, row.high, row.value, *row.dots, *(row.band or ()))] + [0.0]
    low, high = min(values), max(values)
    ticks = ticks_of(low, high) if high - low > _LEAST else ticks_of(low - _LEAST, high + _LEAST)
    height = len(rows) * _ROW + _END
    room = round(max(max(_FEWEST, min(len(row.name), _LONGEST)) * (_STRONG if row.strong else _LETTER) for row in rows)) + 12
    width = room + _CHART + _SAID

    def x(value: float) -> float:
        return room + (value - ticks[0]) / (ticks[-1] - ticks[0]) * _CHART

    made = []
    for tick in ticks:
        kind = "zero" if abs(tick) < 1e-9 else "rule"
        made.append(f'<line class="{kind}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="0" y2="{height - _END + 4}"/>')
        made.append(f'<text x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{number(tick)}</text>')
    for place, row in enumerate(rows):
        made.append(_row(row, place * _ROW + _ROW / 2, (room, width), x, signed))
    return (width, height), "".join(made)


def _row(row: Row, y: float, sides: tuple[int, int], x: Callable[[float], float], signed: bool) -> str:
    kind = ' class="strong"' if row.strong else ""
    name = row.name if len(row.name) <= _LONGEST else row.name[: _LONGEST - 1] + "…"
    said = row.said or spelled(row.value, row.low, row.high, signed=signed)
    made = [f'<text{kind} x="{sides[0] - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}<title>{escape(row.name)}</title></text>']
    if row.band is not None:
        low, high = x(row.band[0]), x(row.band[1])
        made.append(f'<rect class="band c2" x="{low:.1f}" y="{y - 9:.1f}" width="{max(2.0, high - low):.1f}" height="18"/>')
    made.append(f'<polyline class="line {row.colour}" points="{x(row.low):.1f},{y:.1f} {x(row.high):.1f},{y:.1f}"/>')
    made += [f'<circle class="hollow" cx="{x(dot):.1f}" cy="{y:.1f}" r="2.6"/>' for dot in row.dots]
    size = 5 if row.strong else 4
    made.append(f'<circle class="{row.colour}" cx="{x(row.value):.1f}" cy="{y:.1f}" r="{size}"><title>{escape(said)}</title></circle>')
    made.append(f'<text{kind} x="{sides[1] - _SAID + 12}" y="{y + 4:.1f}">{escape(said)}</text>')
    return "".join(made)
