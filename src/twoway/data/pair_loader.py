"""Batches of pairs in steady memory: read and hashed whole, decoded chunk by chunk ahead of the model, and again where a chunk was let go.

A batch of 2,048 rows with pictures is gigabytes of pixels and a few megabytes of picture files. So its rows are read and hashed first;
texts are encoded, and pictures stay as they lie in their files, with the tokens that their sizes promise. That is enough to cut the
batch into chunks. What is in a chunk is decoded, resized and put together when the model comes near it: `workers` threads, or processes,
make at most `workers` times `prefetch` chunks ahead. Gradient caching asks for chunks twice: those without pictures, and the first others
up to `keep` bytes, are kept for that; the rest are made again. The next step's rows are read while this one's run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ..content import ContentError
from ..errors import TwowayError
from .batching import PLAIN, CostWeights
from .pair_batch import PairExample, assemble
from .pair_stream import Cutting, Maker, Streamed, Workers
from .policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from ..content import Document
    from .pair_batch import PairEncoder

Batch = dict[str, Any]
_BLOCK = 32  # rows that a worker reads at a time


class PairLoader:
    """The batches of a run, step by step: `epochs` says which rows, `encode` how they are written."""

    def __init__(
        self,
        epochs: Any,
        encode: PairEncoder,
        *,
        pad_token: int,
        padding_side: Literal["left", "right"] = "right",
        budget: float,
        weights: CostWeights = PLAIN,
        workers: int = 0,
        processes: bool = False,
        prefetch: int = 2,
        keep: int = 64 << 20,
        pin_memory: bool = False,
        guide: Callable[[Sequence[Document], Sequence[str]], torch.Tensor] | None = None,
        policy: Policy | None = None,
    ) -> None:
        """Prepare; nothing is read before the first step. `keep` is the bytes of chunks with pictures that are not made again.

        A `guide` gives vectors of another model for documents and their sides, to find false negatives by.
        """
        self.epochs, self.encode, self.policy, self.workers = epochs, encode, policy or Policy(), workers
        self.guide, self.processes, self.pin_memory = guide, processes, pin_memory
        self.cutting = Cutting(budget, weights, pad_token, padding_side, workers * prefetch, keep)
        self.rows = self.bad = 0
        self._fruitless = 0

    def steps(self, start: int, stop: int, rank: int = 0, ranks: int = 1) -> Iterator[tuple[Batch | None, ...]]:
        """Yield, for each step from `start` to before `stop`, the batches of one rank; `None` where all rows of a batch were bad."""
        maker = Maker(self.encode, self.cutting.weights, self.epochs.mixture)
        workers = Workers(maker, self.workers, processes=self.processes, pin=self.pin_memory)
        try:
            coming = self._read(workers, start, rank, ranks) if start < stop else []
            for step in range(start, stop):
                batches = [self._batch(workers, [find for one in blocks for find in one()], ranks) for blocks in coming]
                # The rows of the next step are read while this one's chunks run.
                coming = self._read(workers, step + 1, rank, ranks) if step + 1 < stop else []
                yield tuple(batches)
        finally:
            workers.close()

    def _read(self, workers: Workers, step: int, rank: int, ranks: int) -> list[list[Callable[[], Any]]]:
        """Begin to read the rows of a step."""
        epoch, batches = self.epochs.rows(step, rank, ranks)
        blocks = [[rows[at : at + _BLOCK] for at in range(0, len(rows), _BLOCK)] for rows in batches]
        return [[workers.sketch(epoch, block) for block in one] for one in blocks]

    def _batch(self, workers: Workers, found: Sequence[PairExample | ContentError], ranks: int) -> Batch | None:
        """Make a batch of the rows that are good."""
        rows = [one for one in found if isinstance(one, PairExample)]
        self.rows += len(found)
        for one in found:
            if isinstance(one, ContentError):
                self.refuse(one)
        self._fruitless = 0 if rows else self._fruitless + len(found)
        if self._fruitless and self._fruitless >= len(self.epochs.plan(0).rows) // ranks:
            raise TwowayError(f"all rows of the data are bad ({self.bad:,} tried), the latest: {found[-1]}")
        if not rows:
            return None
        contents, batch = assemble(rows)
        if self.guide is not None:
            batch["guide"] = self.guide([one.document for one in contents], [one.side for one in contents])
        chunks = Streamed(self.cutting, workers, contents, self.refuse)
        chunks.begin()
        return batch | {"chunks": chunks}

    def refuse(self, error: ContentError) -> None:
        """Count a bad row or content, and let the policy decide."""
        self.bad += 1
        self.policy.refuse(error)
