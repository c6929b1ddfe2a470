"""The curves of a report, out of the entries of a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .probes import NONE, RIGHT, SHUFFLED, WORD_LOSSES
from .report_chart import Line, chart

if TYPE_CHECKING:
    from collections.abc import Sequence


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
