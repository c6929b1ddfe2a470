"""Contents cut into chunks that run through the model together: of nearly one length, and of at most one cost.

Sorted by length, longest first, a chunk takes contents until its budget is full, or until filling the next ones up would cost more than
another run of the model does. So a page at high resolution never pads the short text that asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# The padding tokens that cost what starting another run does: 10 ms of a nano model on a CPU, 30 ms of 3B weights on an accelerator.
SLACK = 128.0


def cut(length: Sequence[float], extra: Sequence[float], budget: float, *, slack: float = SLACK) -> list[list[int]]:
    """Return the numbers of the contents of each chunk; one that is dearer than the budget is a chunk of its own.

    A content costs the longest length of its chunk, and what its pictures cost besides (`extra`).
    """
    chunks: list[list[int]] = []
    longest = spent = padding = 0.0
    for number in sorted(range(len(length)), key=lambda one: (-length[one], one)):
        padding += longest - length[number]
        full = (len(chunks[-1]) + 1) * longest + spent + extra[number] > budget if chunks else True
        if full or padding > slack:
            chunks.append([])
            longest, spent, padding = length[number], 0.0, 0.0
        chunks[-1].append(number)
        spent += extra[number]
    return chunks
