"""Exact nearest neighbours for any number of vectors: products block by block, of which each query keeps the best.

The vectors may be a memory-mapped array on disk; memory holds one block of them, one block of queries, and the best of each query. Ties go
to the earlier vector, so the block size does not change the result.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .shards import cut, quantise, recall, restore, scale_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BLOCK = 65536


def nearest(
    queries: NDArray[Any],
    vectors: NDArray[Any],
    k: int,
    *,
    allowed: Callable[[int, int], NDArray[np.bool_] | None] | None = None,
    device: str | torch.device = "cpu",
    block: int = BLOCK,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return scores and numbers of the `k` nearest vectors of each query, the best first; -1 where there are fewer.

    `allowed(start, stop)` returns for a block of vectors which of them each query may find (queries, vectors); `None` is all.
    """
    asked = torch.from_numpy(np.array(queries, np.float32)).to(device)
    best = torch.full((len(asked), k), -torch.inf, device=device)
    found = torch.full((len(asked), k), -1, dtype=torch.int64, device=device)
    for start in range(0, len(vectors), block):
        part = torch.from_numpy(np.array(vectors[start : start + block], np.float32)).to(device)
        scores = asked @ part.T
        may = allowed(start, start + len(part)) if allowed is not None else None
        if may is not None:
            scores.masked_fill_(torch.from_numpy(~may).to(device), -torch.inf)
        numbers = torch.arange(start, start + len(part), device=device).expand(len(asked), -1)
        # What was kept stands before the block, and a stable sort leaves equal scores in this order.
        scores, numbers = _top(scores, numbers, k)
        order = torch.sort(torch.cat([best, scores], dim=1), dim=1, descending=True, stable=True)
        best = order.values[:, :k]
        found = torch.cat([found, numbers], dim=1).gather(1, order.indices[:, :k])
    found[best == -torch.inf] = -1
    return best.cpu().numpy(), found.cpu().numpy()


def _top(scores: torch.Tensor, numbers: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep the best of a block, equal ones by number."""
    if scores.shape[1] <= k:
        return scores, numbers
    # topk leaves open which of equal scores it takes at its border, so what it finds says only how good one must be.
    border = scores.topk(k, dim=1).values[:, -1:]
    most = int((scores >= border).sum(dim=1).max())
    kept = torch.sort(torch.where(scores >= border, scores, -torch.inf), dim=1, descending=True, stable=True).indices if most > k else None
    chosen = scores.topk(k, dim=1).indices.sort(dim=1).values if kept is None else kept[:, :k]
    return scores.gather(1, chosen), numbers.gather(1, chosen)


# What a shorter or coarser vector costs: the share of the true nearest neighbours that it finds, measured on the
# vectors of a run.

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
