"""Charts as SVG: lines, values with intervals, and the curves of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from twoway.training.probes import NONE, RIGHT, SHUFFLED, WORD_LOSSES

from .page import svg_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


# Line charts as SVG: round ticks, one legend a chart, colours from the page's style, so that they are right in light
# and in dark.

WIDTH, HEIGHT = 480, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 24, 10, 34
STEP = "step"
_DOTS = 30  # with no more points than this, each is shown


@dataclass(frozen=True)
class Line:
    """One line: points of (step, value), and by how much a value may be off."""

    name: str
    points: Sequence[tuple[float, float]]
    errors: Sequence[float] = ()
    smooth: bool = False  # the points are drawn faintly, and their running mean over them
    dashed: bool = False  # so that a line under it is seen where the two are one


@dataclass(frozen=True)
class _Axes:
    low: float
    high: float
    start: float
    end: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.start) / (self.end - self.start) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - _TOP - _BOTTOM)


def chart(title: str, unit: str, lines: Sequence[Line], *, zero: bool = False, first: int = 0, across: str = STEP) -> str:
    """Return a figure; nothing where no line has a point. `zero` keeps zero in sight, `first` is the first line's colour.

    `across` says what lies along the bottom; steps are whole numbers, anything else may be parted.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    axes, ticks = _axes(lines, zero)
    body = [_grid(axes, ticks, across)]
    for number, line in enumerate(lines, first):
        body.append(_line(axes, line, f"c{number % 4}", across))
    keys = "".join(f'<span><i class="c{number % 4}"></i>{escape(line.name)}</span>' for number, line in enumerate(lines, first))
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(body)}</svg>'
    key = f'<div class="key">{keys}</div>' if len(lines) > 1 else ""
    return f"<figure><figcaption>{escape(title)} <small>{escape(unit)}</small></figcaption>{key}{svg}</figure>"


def running(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the mean of each point and those around it, over a twentieth of all."""
    reach = max(1, len(points) // 40)
    values = [value for _, value in points]
    around = [values[max(0, at - reach) : at + reach + 1] for at in range(len(values))]
    return [(step, sum(near) / len(near)) for (step, _), near in zip(points, around, strict=True)]


def ticks_of(low: float, high: float, many: int = 5) -> list[float]:
    """Return round numbers from at most `low` to at least `high`."""
    rough = max((high - low) / many, 1e-12)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough * 0.999)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(start, max(end, start + 1) + 1)]


def number(value: float) -> str:
    """Write a number of an axis."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.10g}k"
    return f"{value:,.6g}".replace("-", "−") if abs(value) > 1e-9 else "0"


def _axes(lines: Sequence[Line], zero: bool) -> tuple[_Axes, list[float]]:
    values = []
    for line in lines:
        offs = line.errors or [0.0] * len(line.points)
        values += [value + sign * off for (_, value), off in zip(line.points, offs, strict=True) for sign in (-1, 1)]
    steps = [step for line in lines for step, _ in line.points]
    low, high = min(values + [0.0] * zero), max(values + [0.0] * zero)
    if high - low < 1e-9:
        low, high = (low - abs(low) * 0.1 - 0.01, high + abs(high) * 0.1 + 0.01)
    ticks = ticks_of(low, high)
    start, end = min(steps), max(steps)
    return _Axes(ticks[0], ticks[-1], start, end if end > start else start + 1), ticks


def _grid(axes: _Axes, ticks: Sequence[float], across: str) -> str:
    made = []
    for tick in ticks:
        y, kind = axes.y(tick), "zero" if abs(tick) < 1e-9 else "rule"
        made.append(f'<line class="{kind}" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        made.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in ticks_of(axes.start, axes.end):
        if axes.start <= tick <= axes.end and (tick == round(tick) or across != STEP):
            made.append(f'<text x="{axes.x(tick):.1f}" y="{HEIGHT - _BOTTOM + 18}" text-anchor="middle">{number(tick)}</text>')
    made.append(f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 2}" text-anchor="end" class="faint">{escape(across)}</text>')
    return "".join(made)


def _line(axes: _Axes, line: Line, colour: str, across: str) -> str:
    made = []
    if line.errors:
        both = list(zip(line.points, line.errors, strict=True))
        upper = [(step, value + off) for (step, value), off in both]
        lower = [(step, value - off) for (step, value), off in reversed(both)]
        made.append(f'<polygon class="band {colour}" points="{_path(axes, [*upper, *lower])}"/>')
    points = line.points
    if line.smooth and len(points) > _DOTS:
        made.append(f'<polyline class="faintly {colour}" points="{_path(axes, points)}"/>')
        points = running(points)
    made.append(f'<polyline class="line {colour}{" dash" * line.dashed}" points="{_path(axes, points)}"/>')
    if len(points) <= _DOTS:
        for step, value in points:
            said = escape(f"{line.name}: {value:.4g} at {across} {number(step)}")
            made.append(f'<circle class="{colour}" cx="{axes.x(step):.1f}" cy="{axes.y(value):.1f}" r="3.5"><title>{said}</title></circle>')
    return "".join(made)


def _path(axes: _Axes, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{axes.x(step):.1f},{axes.y(value):.1f}" for step, value in points)


# Values with their intervals, a row each, as SVG: differences around zero, or scores beside what chance gives.

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


# The curves of a report, out of the entries of a log.


def line(log: Sequence[dict[str, Any]], key: str, name: str, *, smooth: bool = False, dashed: bool = False) -> Line:
    """Return the line of a number over the steps that have it, with its errors where all of them have one."""
    here = [entry for entry in log if key in entry]
    errors = [entry[f"{key}_error"] for entry in here if f"{key}_error" in entry]
    points = [(entry["step"], float(entry[key])) for entry in here]
    return Line(name, points, errors if len(errors) == len(points) else (), smooth, dashed)


def gap_charts(log: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the right picture and the right caption save."""
    words = [line(log, f"words_gap_{SHUFFLED}", "over another picture"), line(log, f"words_gap_{NONE}", "over no picture")]
    return [
        chart("What the right picture saves", "nats a word; above zero it helps", words, zero=True),
        chart(
            "What the right caption saves",
            "squared error of a masked patch; above zero it helps",
            [line(log, f"patches_gap_{SHUFFLED}", "over another caption")],
            zero=True,
            first=3,
        ),
    ]


def held_charts(log: Sequence[dict[str, Any]]) -> list[str]:
    """Return the losses on held-out rows."""
    words = ((RIGHT, "right picture"), (SHUFFLED, "another picture"), (NONE, "no picture"))
    return [
        chart("Words", "nats", [line(log, f"words_{key}", name) for key, name in words]),
        chart("Words said right", "share", [line(log, f"words_{key}_accuracy", name) for key, name in words], zero=True),
        chart(
            "Masked patches",
            "mean squared error",
            [line(log, f"patches_{RIGHT}", "right caption"), line(log, f"patches_{SHUFFLED}", "another caption", dashed=True)],
        ),
    ]


def training_charts(log: Sequence[dict[str, Any]]) -> list[str]:
    """Return the losses in training."""
    loss = next((name for name in WORD_LOSSES if any(name in entry for entry in log)), WORD_LOSSES[0])
    return [
        chart("Words" if loss == "clm" else "Masked words", "nats", [line(log, loss, "words", smooth=True)]),
        chart("Masked patches", "mean squared error", [line(log, "mae", "patches", smooth=True)], first=3),
    ]


def speed_charts(log: Sequence[dict[str, Any]]) -> list[str]:
    """Return how fast it went."""
    return [
        chart("Throughput", "tokens a second", [line(log, "tokens_per_second", "tokens", smooth=True)], zero=True),
        chart("Padding", "share of positions", [line(log, "padding", "padding", smooth=True)], zero=True, first=2),
    ]
