"""Contents cut into chunks that run through the model together: of nearly one length, and of at most one cost.

Sorted by length, longest first, they are cut where padding and the cost of starting a run are least together. So a page at high
resolution never pads the short text that asks for it, and contents of one length share as few runs as their cost allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

# The padding tokens that cost what starting another run does: 10 ms of a nano model on a CPU, 30 ms of 3B weights on an accelerator.
START = 96.0


def cut(length: Sequence[float], extra: Sequence[float], budget: float, *, start: float = START) -> list[list[int]]:
    """Return the numbers of the contents of each chunk; one that is dearer than the budget is a chunk of its own.

    A content costs the longest length of its chunk, and what its pictures cost besides (`extra`); a chunk costs `start` more.
    """
    order = np.lexsort((np.arange(len(length)), -np.asarray(length, np.float64)))
    sizes = np.asarray(length, np.float64)[order]
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(extra, np.float64)[order])])
    # The least cost of the first contents, and where their last chunk begins. A chunk that is too dear stays so as it grows.
    least, begins, low = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64), 0
    for end in range(1, len(order) + 1):
        while low < end - 1 and (end - low) * sizes[low] + sums[end] - sums[low] > budget:
            low += 1
        firsts = np.arange(low, end)
        total = least[low:end] + (end - firsts) * sizes[low:end]
        begins[end] = low + int(total.argmin())
        least[end] = total.min() + start
    chunks: list[list[int]] = []
    end = len(order)
    while end:
        chunks.append(order[begins[end] : end].tolist())
        end = int(begins[end])
    return chunks[::-1]
