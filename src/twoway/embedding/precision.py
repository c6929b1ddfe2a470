"""How a vector is stored: as numbers of 32 or 16 bits, as whole numbers of 8, or as signs; and what each form finds of the true neighbours.

int8 has one scale for all numbers of all vectors, so a product of two stored vectors is the true one times a constant, in any engine
(a scale for each dimension, as others have it, needs that table at search time). What is beyond the scale is cut. Signs are packed eight to
a byte, the first the highest, as numpy and most engines have it; nearness is the number of equal signs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

Precision = Literal["float32", "float16", "int8", "binary"]
_LARGEST = 127


def require(precision: str, dim: int) -> None:
    """Refuse a form that is not known or does not go with the length of the vectors."""
    known = get_args(Precision)
    if precision not in known:
        raise UsageError(f"unknown precision {precision!r}{did_you_mean(precision, known)} (there are: {', '.join(known)})")
    if precision == "binary" and dim % 8:
        raise UsageError(f"binary vectors are packed eight to a byte, and {dim} is no multiple of 8; choose another --dim")


def scale_of(vectors: Matrix) -> float:
    """Return the scale for int8: the number that the largest whole one stands for."""
    return float(np.abs(vectors).max(initial=0.0)) or 1.0


def cut(vectors: Matrix, dim: int | None, *, normal: bool) -> Matrix:
    """Keep the first numbers of vectors, brought back to length 1 where they had it."""
    if dim is None or dim >= vectors.shape[1]:
        return vectors
    kept = vectors[:, :dim]
    return kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12) if normal else kept


def quantise(vectors: Matrix, precision: str, scale: float = 1.0) -> NDArray[Any]:
    """Return vectors as they are stored."""
    if precision == "int8":
        whole: NDArray[Any] = np.clip(np.rint(vectors * (_LARGEST / scale)), -_LARGEST, _LARGEST)
        return whole.astype(np.int8)
    if precision == "binary":
        signs: NDArray[Any] = np.packbits(vectors > 0, axis=1)
        return signs
    return vectors.astype(np.float16 if precision == "float16" else np.float32)


def restore(stored: NDArray[Any], precision: str, scale: float = 1.0) -> Matrix:
    """Return stored vectors as numbers; signs as 1 and -1, whose product counts equal signs."""
    if precision == "int8":
        return stored.astype(np.float32) * np.float32(scale / _LARGEST)
    if precision == "binary":
        return np.unpackbits(stored, axis=1).astype(np.float32) * 2 - 1
    return stored.astype(np.float32)


def recall(queries: Matrix, rows: Matrix, found_by: tuple[Matrix, Matrix], k: int = 10) -> float:
    """Return the share of the true `k` nearest rows that queries and rows in another form find; `queries` are not among `rows`."""
    k = min(k, len(rows))
    true, found = _nearest(queries, rows, k), _nearest(*found_by, k)
    return float(np.mean([len(set(one) & set(other)) / k for one, other in zip(true, found, strict=True)]))


def _nearest(queries: Matrix, rows: Matrix, k: int) -> NDArray[np.int64]:
    """Return the rows of the largest products."""
    return np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :k]
