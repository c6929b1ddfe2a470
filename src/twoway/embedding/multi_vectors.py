"""The vectors of documents that have many each (late interaction): one matrix, and how many of its rows are each document's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class MultiVectors:
    """Vectors of documents, document behind document; each has one at least."""

    flat: Matrix
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, documents: Sequence[Matrix], dim: int) -> MultiVectors:
        """Put the matrices of documents together."""
        flat = np.concatenate(documents) if documents else np.zeros((0, dim), np.float32)
        return cls(flat, np.array([len(one) for one in documents], np.int64))

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, which: int) -> Matrix: ...

    @overload
    def __getitem__(self, which: NDArray[np.int64]) -> MultiVectors: ...

    def __getitem__(self, which: int | NDArray[np.int64]) -> Matrix | MultiVectors:
        """Return the vectors of a document, or several documents with theirs, in this order."""
        if isinstance(which, np.ndarray):
            return MultiVectors.of([self[int(number)] for number in which], self.flat.shape[1])
        end = int(self.ends[which])
        return self.flat[end - int(self.counts[which]) : end]

    def __iter__(self) -> Iterator[Matrix]:
        return (self[number] for number in range(len(self)))

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Return the row behind each document's last."""
        found: NDArray[np.int64] = np.cumsum(self.counts)
        return found

    def maxsim(self, query: Matrix) -> Matrix:
        """Return each document's score for a query: the mean, over the query's vectors, of the product with the document's nearest."""
        if not len(self):
            return np.zeros(0, np.float32)
        products = np.asarray(self.flat, np.float32) @ np.asarray(query, np.float32).T
        best = np.maximum.reduceat(products, self.ends - self.counts, axis=0)
        return np.asarray(best.mean(axis=1), np.float32)
