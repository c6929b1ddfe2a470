"""Charts as SVG: curves, and values with their intervals. Coordinates are computed here; `templates/` draws them.

Colours are classes of the page's style (`c0` to `c3`, `good`, `bad`), so that they are right in light and in dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from .page import render

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 480, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 24, 10, 34
_MOST_DOTS = 30  # with no more points than this, each is shown
_STEP = "step"

_ROW_HEIGHT, _ROWS_END = 25, 30  # of a chart of intervals
_SCALE_WIDTH, _TEXT_WIDTH = 330, 200
_LETTER, _STRONG_LETTER = 7.4, 8.2  # wide, at most, in most fonts
_SHORTEST, _LONGEST = 16, 44  # letters of a name that have room
_NARROWEST = 0.001  # range of values that is drawn, at least


@dataclass(frozen=True)
class Curve:
    """Points of (step, value), and by how much a value may be off."""

    name: str
    points: Points
    errors: Sequence[float] = ()
    smooth: bool = False  # many points are drawn faintly, and their running mean over them
    dashed: bool = False  # so that a curve under it is seen where the two are one

    @property
    def smoothed(self) -> bool:
        """Say whether the running mean is drawn."""
        return self.smooth and len(self.points) > _MOST_DOTS

    def drawn(self) -> Points:
        """Return the points of the strong line."""
        return running_mean(self.points) if self.smoothed else self.points

    def band(self) -> Points:
        """Return the outline of values with their errors: above from left to right, and back below."""
        both = list(zip(self.points, self.errors, strict=True))
        return [(step, value + error) for (step, value), error in both] + [(step, value - error) for (step, value), error in reversed(both)]


@dataclass(frozen=True)
class IntervalRow:
    """One value of a chart of intervals."""

    name: str
    value: float
    low: float
    high: float
    colour: str = "c0"
    dots: Sequence[float] = ()  # what it is the mean of, such as seeds
    band: Sequence[float] | None = None  # low and high, such as what chance gives
    strong: bool = False  # it sums up the others

    @property
    def short_name(self) -> str:
        """Return the name as far as there is room."""
        return self.name if len(self.name) <= _LONGEST else self.name[: _LONGEST - 1] + "…"

    @property
    def name_width(self) -> float:
        """Return how wide the name is, at most."""
        return max(_SHORTEST, len(self.short_name)) * (_STRONG_LETTER if self.strong else _LETTER)

    def values(self) -> Iterator[float]:
        """Return all that is to be within the chart."""
        yield from (self.low, self.high, self.value, *self.dots, *(self.band or ()))

    def text(self, signed: bool) -> str:
        """Write the value with its interval."""
        return format_interval(self.value, self.low, self.high, signed=signed)


@dataclass(frozen=True)
class Scale:
    """Where values lie, in pixels."""

    values: tuple[float, float]
    pixels: tuple[float, float]

    def __call__(self, value: float) -> float:
        """Return where a value lies."""
        share = (value - self.values[0]) / (self.values[1] - self.values[0])
        return round(self.pixels[0] + share * (self.pixels[1] - self.pixels[0]), 1)


def line_chart(
    title: str, unit: str, curves: Sequence[Curve], *, zero: bool = False, first_colour: int = 0, x_label: str = _STEP
) -> Markup:
    """Return a figure; nothing where no curve has a point. `zero` keeps zero in sight.

    `x_label` says what lies along the bottom; steps are whole numbers, anything else may be parted.
    """
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return Markup()
    steps = [step for curve in curves for step, _ in curve.points]
    values = [value for curve in curves for _, value in (curve.band() if curve.errors else curve.points)] + [0.0] * zero
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - abs(low) * 0.1 - 0.01, high + abs(high) * 0.1 + 0.01
    y_ticks = round_ticks(low, high)
    start, end = min(steps), max(steps)
    x = Scale((start, end if end > start else start + 1), (_LEFT, _WIDTH - _RIGHT))
    y = Scale((y_ticks[0], y_ticks[-1]), (_HEIGHT - _BOTTOM, _TOP))
    return render(
        "reports/templates/lines.html",
        title=title,
        unit=unit,
        width=_WIDTH,
        height=_HEIGHT,
        curves=[(curve, f"c{number % 4}") for number, curve in enumerate(curves, first_colour)],
        x=x,
        y=y,
        x_ticks=[tick for tick in round_ticks(*x.values) if start <= tick <= x.values[1] and (tick == round(tick) or x_label != _STEP)],
        y_ticks=y_ticks,
        x_label=x_label,
        most_dots=_MOST_DOTS,
        number=format_tick,
        path=lambda points: " ".join(f"{x(step)},{y(value)}" for step, value in points),
    )


def interval_chart(title: str, unit: str, rows: Sequence[IntervalRow], *, signed: bool = True) -> Markup:
    """Return a figure; nothing where there is no row. `signed` writes numbers with their sign."""
    return render("reports/templates/intervals.html", title=title, unit=unit, **_lay_out(rows, signed)) if rows else Markup()


def interval_file(title: str, rows: Sequence[IntervalRow], *, signed: bool = True) -> str:
    """Return the same as an SVG file of its own, light and dark."""
    return render("reports/templates/intervals_file.svg", title=title, **_lay_out(rows, signed))


def _lay_out(rows: Sequence[IntervalRow], signed: bool) -> dict[str, Any]:
    """Return what the drawing is made from; zero is in sight."""
    values = [0.0, *(value for row in rows for value in row.values())]
    low, high = min(values), max(values)
    ticks = round_ticks(low, high) if high - low > _NARROWEST else round_ticks(low - _NARROWEST, high + _NARROWEST)
    left = round(max(row.name_width for row in rows)) + 12
    x = Scale((ticks[0], ticks[-1]), (left, left + _SCALE_WIDTH))
    size = {"width": left + _SCALE_WIDTH + _TEXT_WIDTH, "height": len(rows) * _ROW_HEIGHT + _ROWS_END, "row_height": _ROW_HEIGHT}
    return {"rows": rows, "signed": signed, "number": format_tick, "ticks": ticks, "x": x, **size}


def running_mean(points: Points) -> list[tuple[float, float]]:
    """Return the mean of each point and those around it, over a twentieth of all."""
    reach = max(1, len(points) // 40)
    values = [value for _, value in points]
    around = [values[max(0, at - reach) : at + reach + 1] for at in range(len(values))]
    return [(step, sum(near) / len(near)) for (step, _), near in zip(points, around, strict=True)]


def round_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from at most `low` to at least `high`."""
    rough = max((high - low) / count, 1e-12)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    start, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(start, max(end, start + 1) + 1)]


def format_tick(value: float) -> str:
    """Write a number of an axis."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.10g}k"
    return f"{value:,.6g}".replace("-", "−") if abs(value) > 1e-9 else "0"


def format_interval(value: float, low: float, high: float, *, signed: bool = True) -> str:
    """Write a value with its interval."""
    form = "+.3f" if signed else ".3f"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]".replace("-", "−")
