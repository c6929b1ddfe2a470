"""From an interval to a word.

A difference smaller than the smallest that counts is treated as none, even where it is sure; one that may be either is not decidable. So
"not seen" is a finding (the difference is at most so small) and never a lack of evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .evidence import Interval

SEEN = "seen"
NOT_SEEN = "not seen"
OPPOSITE = "opposite"
UNDECIDED = "not decidable at this size"
NOT_RUN = "not run"
WORDS = (SEEN, NOT_SEEN, OPPOSITE, UNDECIDED, NOT_RUN)
SMALLEST = 0.01  # a point, where a study says nothing else


@dataclass(frozen=True)
class Verdict:
    """One of `WORDS`, and why."""

    word: str
    why: str


def verdict(found: Interval, smallest: float = SMALLEST) -> Verdict:
    """Return what an interval says of a difference that is claimed to be above zero."""
    if -smallest <= found.low and found.high <= smallest:
        there = " (there is one, but a smaller one)" if found.low > 0 or found.high < 0 else ""
        return Verdict(NOT_SEEN, f"the interval lies within ±{smallest:g}, the smallest difference that counts{there}")
    if found.low > 0:
        return Verdict(SEEN, "the interval lies above zero")
    if found.high < 0:
        return Verdict(OPPOSITE, "the interval lies below zero")
    return Verdict(UNDECIDED, f"the interval holds zero and differences of more than {smallest:g}")
