"""What a set of vectors is like: how many dimensions it uses, how evenly it lies, and whether each row finds its own answer.

Effective rank is the exponential of the entropy of the shares of singular values (RankMe, arXiv 2210.02885), here of centred unit vectors,
so that a direction that all share counts for none. Uniformity and alignment are those of arXiv 2005.10242 (t = 2, squared distance).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    Vectors = np.ndarray[Any, Any]


def unit(vectors: Vectors) -> Vectors:
    """Return the vectors at length one."""
    lengths: Vectors = np.linalg.norm(vectors, axis=1, keepdims=True)
    made: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return made


def geometry(a: Vectors, b: Vectors) -> dict[str, float]:
    """Return effective rank and uniformity of `a`, and its alignment with `b`, row by row."""
    a, b = unit(a.astype(np.float64)), unit(b.astype(np.float64))
    spread = np.linalg.svd(a - a.mean(0), compute_uv=False)
    shares = spread[spread > 0] / spread.sum() if spread.sum() else np.ones(1)
    apart = np.square(a[:, None] - a[None]).sum(-1)[np.triu_indices(len(a), 1)]
    return {
        "rank": float(np.exp(-(shares * np.log(shares)).sum())),
        "uniformity": float(np.log(np.exp(-2 * apart).mean())) if len(apart) else 0.0,
        "alignment": float(np.square(a - b).sum(1).mean()),
    }


def retrieval(a: Vectors, b: Vectors, texts: Sequence[str]) -> dict[str, float]:
    """Return how often the nearest of all different texts is a row's own, and the mean of one over its place; ties count against."""
    keys = [text.strip().casefold() for text in texts]
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    offered = sorted(first.values())
    own = np.searchsorted(offered, [first[key] for key in keys])
    scores = unit(a.astype(np.float64)) @ unit(b.astype(np.float64))[offered].T
    places = (scores >= scores[np.arange(len(own)), own][:, None]).sum(1)
    return {"recall": float((places == 1).mean()), "reciprocal": float((1 / places).mean()), "candidates": float(len(offered))}
