"""What a shorter or coarser vector costs: the share of the true nearest neighbours that it finds, measured on the vectors of a run."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np

from twoway.embedding.precision import cut, quantise, recall, restore, scale_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS, QUERIES, LEAST, K = 5000, 500, 50, 10


class Sample:
    """A fair sample of whole vectors, of a bounded number (Vitter's algorithm R)."""

    def __init__(self, dim: int, precision: str, *, normal: bool, seed: int = 0) -> None:
        self.dim, self.precision, self.normal = dim, precision, normal
        self.kept: list[tuple[int, NDArray[np.float32]]] = []
        self.seen = 0
        self._draw = random.Random(seed)

    def add(self, number: int, vector: NDArray[np.float32]) -> None:
        """Show a vector."""
        self.seen += 1
        if len(self.kept) < ROWS + QUERIES:
            self.kept.append((number, vector))
        elif (place := self._draw.randrange(self.seen)) < len(self.kept):
            self.kept[place] = (number, vector)

    def measure(self) -> dict[str, float]:
        """Return recall at 10 by form, against whole float32 vectors; empty where there are too few rows to say anything."""
        if len(self.kept) < LEAST:
            return {}
        # Each once, because twins would count as neighbours found.
        vectors = np.unique(np.stack([vector for _, vector in self.kept]), axis=0)
        if len(vectors) < LEAST:
            return {}
        order = np.random.default_rng(0).permutation(len(vectors))
        queries = vectors[order[: min(QUERIES, len(vectors) // 5)]]
        rows = vectors[order[len(queries) :]]
        width = vectors.shape[1]
        forms = [
            (self.dim, self.precision),
            *((dim, kind) for dim in self._lengths(width) for kind in ("float32", "float16", "int8", "binary")),
        ]
        found: dict[str, float] = {}
        for dim, kind in forms:
            if kind == "binary" and dim % 8:
                continue
            short = [cut(one, dim, normal=self.normal) for one in (queries, rows)]
            scale = scale_of(short[1])
            stored = [restore(quantise(one, kind, scale), kind, scale) for one in short]
            found[f"{dim} x {kind}"] = recall(queries, rows, (stored[0], stored[1]), K)
        return found

    def _lengths(self, width: int) -> list[int]:
        """Return the whole length, the chosen one, and half of it."""
        return list(dict.fromkeys([width, self.dim, max(1, self.dim // 2)]))
