"""Memory that a process holds and does not use goes back to the system.

Batches of ever new shapes leave holes in the heap of the C library, and a run on a CPU grows by gigabytes although nothing is kept. Asking
glibc to give free pages back, every few steps, keeps it at what is used; elsewhere there is nothing to ask.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

EVERY = 8  # steps; pages that come back have to be cleared again, so each step would be too often


def give_back(step: int) -> None:
    """Give free pages back to the system, now and then."""
    trim = _trim()
    if trim is not None and step % EVERY == 0:
        trim(0)


@cache
def _trim() -> Any:
    """Return glibc's function, or None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
