"""How near a query is to candidates, as the model itself compares its vectors: by the cosine, unless its card says otherwise.

Many sentence-transformers models (CLIP's, the older MiniLM's) give vectors of any length and leave it to the similarity to take it out; a
product of such vectors would rank long candidates first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

_ONE = 1e-5  # what float32 leaves of a length that is 1


def similarity_of(engine: Any) -> str:
    """Return the name of a model's similarity. Vectors of a server have length 1, and so have those of a model that cannot know."""
    sentence = getattr(engine, "sentence", None)
    return "cosine" if sentence is None else str(sentence.similarity_fn_name)


def prepared(vectors: Vectors, similarity: str) -> Vectors:
    """Return vectors ready for `scores`; a vector that is zero stays so, and one that is no vector, too."""
    if similarity != "cosine" or not len(vectors):
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if np.allclose(lengths[lengths > 0], 1.0, rtol=0.0, atol=_ONE):
        return vectors
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), np.float32)


def scores(query: Vectors, candidates: Vectors, similarity: str) -> Vectors:
    """Return how near each candidate is to a query: the more, the nearer."""
    if similarity in ("euclidean", "manhattan"):
        gaps = np.linalg.norm(candidates - query, ord=2 if similarity == "euclidean" else 1, axis=1)
        return np.asarray(-gaps, np.float32)
    return np.asarray(candidates @ query, np.float32)
