"""Rows that are kept out of training: a function of their identities, so they stay out whatever else is in the mixture's epochs.

Each row gets a number out of its source's name and its own number (splitmix64 under a SHA-256 key, millions a second); the lowest
are held out, with all their repetitions. Rows are told apart by identity: a picture that stands in two rows may be held out in one and
trained on in the other.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .mixture import Mixture

# No more than one row in so many, so that little data is not lost to looking at it.
_ONE_IN = 20


def held_out(mixture: Mixture, rows: int) -> NDArray[np.int64]:
    """Return the numbers of up to `rows` rows of a mixture, in order."""
    count = min(rows, len(mixture) // _ONE_IN)
    if count < 1:
        return np.zeros(0, np.int64)
    return np.sort(np.argpartition(draws(mixture), count - 1)[:count]).astype(np.int64)


def draws(mixture: Mixture) -> NDArray[np.uint64]:
    """Return a number for each row of a mixture that looks random and depends on its identity alone."""
    sources = zip(mixture.sources, mixture.tables, strict=True)
    return np.concatenate([_draw(np.asarray(table.numbers), source.label) for source, table in sources])


def without(mixture: Mixture, rows: NDArray[np.int64], held: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of an epoch that are not held out, in their order."""
    return rows if not len(held) else rows[~np.isin(mixture.columns(rows), held)]


def _draw(numbers: NDArray[np.int64], name: str) -> NDArray[np.uint64]:
    """Return a number for each row that looks random and depends on nothing but the row's name."""
    key = np.uint64(int.from_bytes(hashlib.sha256(f"held out\0{name}".encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
