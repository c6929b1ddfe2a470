"""Line charts as SVG: round ticks, one legend a chart, colours from the page's style, so that they are right in light and in dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

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
