"""Scores of a query's candidates against which of them is right: pointwise, pairwise, listwise.

- pointwise: each candidate by itself, binary cross-entropy of its score as log-odds (Qwen3-VL-Reranker, arXiv 2601.04720, is trained so);
- pairwise: the right candidate above each wrong one, softplus(wrong - right) (RankNet, Burges et al., ICML 2005);
- listwise: cross-entropy of the right candidate among all (as InfoNCE over a query's own candidates; ListNet with one right one).

Each is the mean over a query's candidates, or pairs of them, and sums over queries, so that a query with many candidates weighs as one
with few. sentence-transformers has these losses for a model that it runs itself; these take scores, which may come from a stream.

Names: Q queries, K candidates, the right one first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from twoway.errors import UsageError, did_you_mean

from . import Loss

if TYPE_CHECKING:
    from collections.abc import Callable


def ranking_loss(name: str, scores_QK: torch.Tensor, there_QK: torch.Tensor) -> Loss:
    """Return the loss of each query's scores, the right candidate's first; `there_QK` says which of the places hold a candidate."""
    if name not in RANKING_LOSSES:
        raise UsageError(f"there is no loss {name!r}{did_you_mean(name, RANKING_LOSSES)} (there are: {', '.join(RANKING_LOSSES)})")
    per_query_Q = RANKING_LOSSES[name](scores_QK.float(), there_QK)
    return Loss(per_query_Q.sum(), len(scores_QK))


def _pointwise(scores_QK: torch.Tensor, there_QK: torch.Tensor) -> torch.Tensor:
    right_QK = torch.zeros_like(scores_QK)
    right_QK[:, 0] = 1.0
    return _mean(functional.binary_cross_entropy_with_logits(scores_QK, right_QK, reduction="none"), there_QK)


def _pairwise(scores_QK: torch.Tensor, there_QK: torch.Tensor) -> torch.Tensor:
    return _mean(functional.softplus(scores_QK[:, 1:] - scores_QK[:, :1]), there_QK[:, 1:])


def _listwise(scores_QK: torch.Tensor, there_QK: torch.Tensor) -> torch.Tensor:
    right_Q = torch.zeros(len(scores_QK), dtype=torch.long, device=scores_QK.device)
    return functional.cross_entropy(scores_QK.masked_fill(~there_QK, -torch.inf), right_Q, reduction="none")


def _mean(values_QK: torch.Tensor, there_QK: torch.Tensor) -> torch.Tensor:
    """Return the mean over what is there, of each query."""
    return values_QK.masked_fill(~there_QK, 0.0).sum(1) / there_QK.sum(1).clamp(min=1)


RANKING_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "pointwise": _pointwise,
    "pairwise": _pairwise,
    "listwise": _listwise,
}
