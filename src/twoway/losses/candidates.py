"""Which candidates a query of a batch of pairs is compared with, whatever the loss, and how the queries did.

Three denominators: a query's own hard negatives alone; these and the other rows' positives (the released code of
MoCa); these and the other rows' hard negatives too (its paper). What answers a query as well as its positive does
is masked out: by content, known for sure (the positive of a row with the same query, a copy of the positive, a copy
of the query itself), and, where a margin is set, by similarity (as sentence-transformers' GIST losses do, arXiv
2402.16829), of the model's own vectors or of a guide's.

Names: Q queries, C candidates, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from twoway.errors import UsageError, did_you_mean

CHUNK = 256
Denominator = Literal["own", "positives", "all"]
DENOMINATORS = ("own", "positives", "all")


def denominator(kind: str, rows_Q: torch.Tensor, owner_C: torch.Tensor, is_positive_C: torch.Tensor) -> torch.Tensor:
    """Return which candidates each of these rows is compared with; `owner_C` is the row that a candidate belongs to."""
    if kind not in DENOMINATORS:
        raise UsageError(f"unknown negatives {kind!r}{did_you_mean(kind, DENOMINATORS)} (there are: {', '.join(DENOMINATORS)})")
    own_QC = rows_Q[:, None] == owner_C[None, :]
    if kind == "own":
        return own_QC
    return own_QC | (is_positive_C[None, :] if kind == "positives" else torch.ones_like(own_QC))


def same_group(group_Q: torch.Tensor, group_C: torch.Tensor) -> torch.Tensor:
    """Return which candidates come from a query's own group: rows of one rank's batch, or of one task."""
    return group_Q[:, None] == group_C[None, :]


def false_negatives(
    keys_Q: torch.Tensor,
    all_keys_R: torch.Tensor,
    positive_keys_R: torch.Tensor,
    candidate_keys_C: torch.Tensor,
    *,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Return which candidates answer each query, or are the query itself, by content; a query's own positive is among them.

    R are all rows that are known, with the keys (hashes of content) of their query and their positive. What is as long as the keys is
    worked out where they are, what is as large as Q times C on `device`: keys on the CPU are numbered without waiting for another device.
    """
    device = device or keys_Q.device
    _, number = torch.unique(torch.cat([keys_Q, all_keys_R, positive_keys_R, candidate_keys_C]), return_inverse=True)
    query_Q, row_R, positive_R, candidate_C = number.split([len(keys_Q), len(all_keys_R), len(positive_keys_R), len(candidate_keys_C)])
    # A table of what answers what, over the different queries and the different contents: small, whatever Q times R times C would be.
    queries, place = torch.unique(torch.cat([query_Q, row_R]), return_inverse=True)
    answers = torch.zeros(len(queries), int(number.max()) + 1 if len(number) else 0, dtype=torch.bool, device=device)
    asked, rows, positives, same, candidates = (
        one.to(device, non_blocking=True) for one in (*place.split([len(query_Q), len(row_R)]), positive_R, queries, candidate_C)
    )
    answers.index_put_((rows, positives), answers.new_ones(()))
    answers.index_put_((torch.arange(len(queries), device=device), same), answers.new_ones(()))
    return answers[asked][:, candidates]


def too_near(similar_QC: torch.Tensor, positive_Q: torch.Tensor, *, margin: float, relative: bool = False) -> torch.Tensor:
    """Return the candidates whose similarity is within `margin` of the positive's or above it; relative: a share of the positive's.

    With a margin of 0 that are the candidates more similar than the positive.
    """
    limit_Q = similar_QC.gather(1, positive_Q[:, None])
    limit_Q = limit_Q * (1 - margin) if relative else limit_Q - margin
    return similar_QC > limit_Q


@dataclass(frozen=True)
class Ranking:
    """How each query did: whether its positive came first, its cosine, and that of the hardest negative (NaN without one)."""

    right: torch.Tensor
    positive: torch.Tensor
    hardest: torch.Tensor


@torch.no_grad()
def ranking(
    queries_QD: torch.Tensor,
    candidates_CD: torch.Tensor,
    positive_Q: torch.Tensor,
    allowed_QC: torch.Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> Ranking:
    """Look where each positive stands among what its query may see; for watching, without gradients."""
    left_QD, right_CD = unit_length(queries_QD), unit_length(candidates_CD)
    found = []
    for start in range(0, len(left_QD), chunk):
        rows = slice(start, start + chunk)
        found.append(rank_scores(left_QD[rows] @ right_CD.T, positive_Q[rows], None if allowed_QC is None else allowed_QC[rows]))
    none = left_QD.new_zeros(0)
    parts = zip(*((one.right, one.positive, one.hardest) for one in found), strict=True)
    return Ranking(*(torch.cat(part) for part in parts)) if found else Ranking(none.bool(), none, none)


@torch.no_grad()
def rank_scores(scores_QC: torch.Tensor, positive_Q: torch.Tensor, allowed_QC: torch.Tensor | None = None) -> Ranking:
    """Do the same with scores that are there already."""
    own_Q1 = positive_Q[:, None]
    positive = scores_QC.gather(1, own_Q1)[:, 0]
    if allowed_QC is not None:
        scores_QC = scores_QC.masked_fill(~allowed_QC, -torch.inf)
    others_QC = scores_QC.scatter(1, own_Q1, -torch.inf)
    hard = others_QC.amax(1) if others_QC.shape[1] else others_QC.new_full((len(others_QC),), -torch.inf)
    return Ranking(positive > hard, positive, hard.masked_fill(hard == -torch.inf, torch.nan))


def unit_length(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors of length 1, in float32 where they are of half precision."""
    return functional.normalize(vectors.float() if vectors.dtype in (torch.bfloat16, torch.float16) else vectors, dim=-1)
