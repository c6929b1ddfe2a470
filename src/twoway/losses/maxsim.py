"""Late interaction (ColBERT, arXiv 2004.12832; ColPali, arXiv 2407.01449): how near a query's many vectors are to a document's.

A query's score of a document is the mean, over the query's vectors, of each one's cosine with the nearest of the document's vectors. The
papers take the sum; the mean puts a query's documents into the same order, lies between -1 and 1 as a cosine does, and so goes with the
same temperature whatever a query's length (sentence-transformers' `mean_maxsim`, whose function computes each block).

Scores are made block by block, and where there is more than one, a block's products of vectors are made again in the backward pass.

Names: Q queries, C candidates, each of vectors of its own number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from sentence_transformers.util.similarity import mean_maxsim
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK = 1 << 26  # products of vectors that are in memory at a time


def maxsim_scores(queries: Sequence[torch.Tensor], candidates: Sequence[torch.Tensor], *, block: int = BLOCK) -> torch.Tensor:
    """Return the score (Q, C) of each candidate for each query, of which there is one at least; their vectors have length 1."""
    side = max(1, math.isqrt(block))
    # By length, so that a short text is not padded to a page.
    left, right = (torch.tensor([len(one) for one in items]).argsort(stable=True).tolist() for items in (queries, candidates))
    rows, columns = list(_blocks([queries[one] for one in left], side)), list(_blocks([candidates[one] for one in right], side))
    again = (len(rows) > 1 or len(columns) > 1) and torch.is_grad_enabled()
    found = []
    for row in rows:
        found.append(torch.cat([checkpoint(_scores, row, one, use_reentrant=False) if again else _scores(row, one) for one in columns], 1))
    scores = torch.cat(found)
    return scores[_inverse(left, scores.device)][:, _inverse(right, scores.device)]


def _scores(queries: list[torch.Tensor], candidates: list[torch.Tensor]) -> torch.Tensor:
    scores: torch.Tensor = mean_maxsim(queries, candidates, chunk_elements=1 << 60)
    return scores


def _blocks(items: Sequence[torch.Tensor], vectors: int) -> Iterator[list[torch.Tensor]]:
    """Cut items into blocks that, padded to their longest, have so many vectors at most, or one item."""
    block: list[torch.Tensor] = []
    longest = 0
    for item in items:
        if block and max(longest, len(item)) * (len(block) + 1) > vectors:
            yield block
            block, longest = [], 0
        block.append(item)
        longest = max(longest, len(item))
    if block:
        yield block


def _inverse(order: Sequence[int], device: torch.device) -> torch.Tensor:
    """Return where each item of an order stands in it."""
    return torch.tensor(order).argsort().to(device, non_blocking=True)
