"""Pairs told apart (InfoNCE with cosine): each query's positive against the candidates that it is compared with.

The loss of a query is the cross-entropy of its positive among its candidates, scores being cosines over a temperature (MoCa, arXiv
2506.23115, section 3.2: 0.03; CoCoA: 0.02). Which candidates count is a mask (`losses.candidates`), so one function serves every
denominator, ragged numbers of hard negatives, ranks, and false negatives. Called with positives as queries and queries as candidates it is
the other half of the symmetric one.

Why it is written here: sentence-transformers' losses take as many hard negatives for every row as for the first, put every candidate
of the batch into every denominator, and know a false negative by its score alone (GIST), not by content, so that rows with the same
positive punish each other. Their symmetric, cached and guided losses are classes of their own that do not combine, and none of them
gives back what a run is watched by. Scores are made for `chunk` queries at a time, and made again in the backward pass.

Names: Q queries, C candidates, D width.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from twoway.errors import UsageError
from twoway.losses import Loss, register_loss
from twoway.losses.candidates import CHUNK, unit_length


@register_loss("contrastive")
def contrastive_loss(
    queries_QD: torch.Tensor,
    candidates_CD: torch.Tensor,
    positive_Q: torch.Tensor,
    allowed_QC: torch.Tensor | None = None,
    *,
    temperature: float | torch.Tensor,
    chunk: int = CHUNK,
) -> Loss:
    """Return the summed cross-entropy of each query's positive among the candidates it may see; vectors need not be normalised.

    `positive_Q` is the number of each query's positive, which it always sees; `allowed_QC` says what else (everything without it). A
    learnt temperature is a tensor of one number, which its owner keeps above zero: to look at it here would be to wait for the device.
    """
    if not isinstance(temperature, torch.Tensor):
        require_temperature(temperature)
    left_QD, right_CD = unit_length(queries_QD), unit_length(candidates_CD)
    total = (queries_QD.sum() + candidates_CD.sum()).float() * 0.0
    for start in range(0, len(left_QD), chunk):
        rows = slice(start, start + chunk)
        given = (left_QD[rows], right_CD, positive_Q[rows], None if allowed_QC is None else allowed_QC[rows], temperature)
        if len(left_QD) <= chunk or not torch.is_grad_enabled():
            total = total + _summed(*given)
        else:
            total = total + checkpoint(_summed, *given, use_reentrant=False)
    return Loss(total, len(queries_QD))


def scores_loss(
    scores_QC: torch.Tensor, positive_Q: torch.Tensor, allowed_QC: torch.Tensor | None = None, *, temperature: float | torch.Tensor
) -> Loss:
    """Return the same loss of scores that are there already, such as those of late interaction."""
    if not isinstance(temperature, torch.Tensor):
        require_temperature(temperature)
    if not scores_QC.numel():
        return Loss(scores_QC.sum(), len(scores_QC))
    return Loss(_cross_entropy(scores_QC / temperature, positive_Q, allowed_QC), len(scores_QC))


def require_temperature(temperature: float) -> None:
    """Refuse a temperature that no score can be divided by."""
    if not 0 < temperature < math.inf:
        raise UsageError(f"the temperature must be above 0, not {temperature:g}; the papers use 0.02 and 0.03")


def _summed(
    queries_QD: torch.Tensor,
    candidates_CD: torch.Tensor,
    positive_Q: torch.Tensor,
    allowed_QC: torch.Tensor | None,
    temperature: float | torch.Tensor,
) -> torch.Tensor:
    """Cross-entropy of some queries, summed."""
    return _cross_entropy(queries_QD @ candidates_CD.T / temperature, positive_Q, allowed_QC)


def _cross_entropy(scores_QC: torch.Tensor, positive_Q: torch.Tensor, allowed_QC: torch.Tensor | None) -> torch.Tensor:
    if allowed_QC is not None:
        scores_QC = scores_QC.masked_fill(~allowed_QC.scatter(1, positive_Q[:, None], True), -torch.inf)
    return functional.cross_entropy(scores_QC, positive_Q, reduction="sum")
