"""A guide: another embedding model, by whose vectors negatives too near to the positive are found (GISTEmbed, arXiv 2402.16829).

It is any model that the engine opens, with instructions of its own. It sees each content of a batch once, when the batch's rows have
been read; a content that it cannot take has the vector zero, which is near to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import torch

from twoway.embedding import open_embedder
from twoway.embedding.prompts import Side

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twoway.content import Document


class Guide:
    """Gives the vectors of a batch's contents."""

    def __init__(self, model: str, *, device: str = "auto", workers: int = 0) -> None:
        """Open the model."""
        self.embedder = open_embedder(model, device=device, workers=workers)

    def __call__(self, documents: Sequence[Document], sides: Sequence[str]) -> torch.Tensor:
        """Return one vector for each content; `sides` says which are queries."""
        vectors = torch.zeros(len(documents), self.embedder.dimension)
        for side in get_args(Side):
            numbers = [number for number, one in enumerate(sides) if one == side]
            found = self.embedder.embed([documents[number] for number in numbers], side=side, refuse=lambda *_: None)
            for place, vector in found:
                vectors[numbers[place]] = torch.from_numpy(vector)
        return vectors
