"""Batches of pairs as the loss sees them: which contents came, who asks for what, and all of it put together over ranks.

A batch of pairs is a dictionary:

- `contents`: how many different contents it has; each is embedded once, whatever number of rows has it (a class's name, say)
- `chunks`: the model inputs of these contents (`training.cached`)
- `queries` (Q) and `candidates` (C): the number of each one's content; the first Q candidates are the positives of the Q queries, in order
- `owner` (C): the query that a candidate belongs to
- `query_keys` (Q), `candidate_keys` (C): hashes of the contents, for false negatives
- `others` (N, 2), may be left out: query and key of further right answers, which never count as wrong
- `guide` (contents, G), may be left out: vectors of another model, by which too similar negatives are found
- `tasks`, `identities`: a text for each query

A content that could not be read is in no chunk. The rows that ask for it or are answered by it are then left out, and where it is a hard
negative, it alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twoway.training.task import Batch


@dataclass(frozen=True)
class Pairs:
    """What is known of pairs beside their vectors; numbers of contents, queries and groups (batches) count from 0 over all that is here."""

    contents: int
    queries: torch.Tensor
    candidates: torch.Tensor
    owner: torch.Tensor
    positive: torch.Tensor  # for each query the number of its positive among the candidates
    is_positive: torch.Tensor
    query_keys: torch.Tensor
    candidate_keys: torch.Tensor
    others: torch.Tensor
    group: torch.Tensor  # of each query
    tasks: tuple[str, ...]
    guide: torch.Tensor | None = None

    def to(self, device: torch.device) -> Pairs:
        """Move the tensors."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def seen(batch: Batch, present: torch.Tensor) -> Pairs:
    """Take what came of a batch."""
    queries, candidates, owner = batch["queries"], batch["candidates"], batch["owner"]
    count = len(queries)
    good = present[queries] & present[candidates[:count]]
    kept = good[owner] & present[candidates]
    number = torch.cumsum(good, 0) - 1
    others = batch.get("others", torch.zeros(0, 2, dtype=torch.long))
    others = others[good[others[:, 0]]]
    return Pairs(
        contents=len(present),
        queries=queries[good],
        candidates=candidates[kept],
        owner=number[owner[kept]],
        positive=torch.arange(int(good.sum())),
        is_positive=(torch.arange(len(candidates)) < count)[kept],
        query_keys=batch["query_keys"][good],
        candidate_keys=batch["candidate_keys"][kept],
        others=torch.stack([number[others[:, 0]], others[:, 1]], 1),
        group=torch.zeros(int(good.sum()), dtype=torch.long),
        tasks=tuple(task for task, fine in zip(batch["tasks"], good.tolist(), strict=True) if fine),
        guide=batch.get("guide"),
    )


def join(batches: Sequence[Pairs]) -> Pairs:
    """Put batches one behind the other; each becomes a group."""
    contents = queries = candidates = 0
    moved: list[Pairs] = []
    for group, one in enumerate(batches):
        shift = torch.tensor([queries, 0])
        moved.append(
            replace(
                one,
                queries=one.queries + contents,
                candidates=one.candidates + contents,
                owner=one.owner + queries,
                positive=one.positive + candidates,
                others=one.others + shift,
                group=torch.full_like(one.group, group),
            )
        )
        contents, queries, candidates = contents + one.contents, queries + len(one.queries), candidates + len(one.candidates)
    joined = {
        name: torch.cat([getattr(one, name) for one in moved])
        for name, value in vars(moved[0]).items()
        if isinstance(value, torch.Tensor) and name != "guide"
    }
    guides = [one.guide for one in moved if one.guide is not None]
    guide = torch.cat(guides) if len(guides) == len(moved) else None
    return Pairs(**joined, contents=contents, tasks=tuple(task for one in moved for task in one.tasks), guide=guide)
