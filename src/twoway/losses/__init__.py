"""Losses: tensors in, named parts out. No trainer, tokenizer or file is known here.

Shapes are written as suffixes: B rows, L positions, D width, V vocabulary, N chosen positions, P values of a position's patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


# A loss as a sum and a count, so that ranks and accumulated batches can be averaged exactly.


@dataclass(frozen=True)
class Loss:
    """The sum over `count` targets. Means of unequal batches do not average to the mean of all; sums and counts do."""

    total: torch.Tensor
    count: int

    @property
    def mean(self) -> torch.Tensor:
        """The mean over the targets; zero, still tied to the model, where there was none."""
        return self.total / max(self.count, 1)
