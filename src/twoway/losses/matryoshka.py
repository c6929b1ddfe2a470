"""Matryoshka (arXiv 2205.13147): the mean of a loss over vectors that are cut to their first numbers, for several lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twoway.errors import UsageError
from twoway.losses import Loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from twoway.losses import PairLoss


def matryoshka_loss(
    loss: PairLoss,
    queries_QD: torch.Tensor,
    candidates_CD: torch.Tensor,
    positive_Q: torch.Tensor,
    allowed_QC: torch.Tensor | None = None,
    *,
    dims: Sequence[int],
    temperature: float | torch.Tensor,
) -> Loss:
    """Return the mean over `dims` of a loss on pairs; without any it is the loss itself."""
    width = queries_QD.shape[-1]
    for dim in dims:
        if not 0 < dim <= width:
            raise UsageError(f"dims: these vectors have 1 to {width} numbers, so none of them can be cut to {dim}")
    sizes = tuple(dims) or (width,)
    found = [loss(queries_QD[:, :dim], candidates_CD[:, :dim], positive_Q, allowed_QC, temperature=temperature) for dim in sizes]
    total = sum((one.total for one in found[1:]), found[0].total)
    return Loss(total / len(sizes), found[0].count)
