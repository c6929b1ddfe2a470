"""Gradient caching (GradCache, arXiv 2101.06983): the loss of a whole global batch in the memory of a chunk of it.

A batch is `{"contents": how many, "chunks": Chunks, …}`, its chunks model inputs of about one cost each. Every chunk is embedded; the loss
looks at all embeddings of all ranks, each rank at that of its own rows; its gradient on the embeddings is added up over ranks; and
each chunk is run again, now with a graph, and goes back from there. Dropout draws from a seed of the step, the rank and the chunk's
number, so the second run is the first one again.

Where it departs from sentence-transformers' cached losses: (1) chunks are made by what they cost and come as the processor would make
them alone, so nothing is cut out of a padded batch, and pictures, tiles and several pictures a row are nothing special; (2) a batch is a
stream that may be read twice, so its pictures need never be in memory together; (3) the first chunks keep their graphs, up to `hold`, and
are not run again: a batch that fits costs what a plain step costs; (4) it works with sharded weights too: ranks agree on the number
of runs first, and gradients travel once, in the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .task import Batch, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from twoway.objectives.loss import Loss


class Chunks(Protocol):
    """The chunks of a batch: each `{"inputs": model inputs, "items": LongTensor, which content of the batch each of its rows is}`."""

    costs: Sequence[float]

    def __iter__(self) -> Iterator[Batch]:
        """Yield all of them."""

    def again(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """Yield some of them once more, the same to the bit."""


class Kept:
    """Chunks that are in memory all the time."""

    def __init__(self, chunks: Sequence[Batch]) -> None:
        self.chunks = list(chunks)
        self.costs = [float(chunk["inputs"]["input_ids"].numel()) for chunk in self.chunks]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.chunks)

    def again(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """Yield some of them."""
        return (self.chunks[number] for number in numbers)


@dataclass(frozen=True)
class Vectors:
    """What a loss compares: one vector for each content, batch behind batch, and what the batches say about them."""

    vectors: torch.Tensor
    about: list[Any]  # of each batch, what `CachedTask.about` said
    mine: range  # which batches are this rank's


def _nothing(_read: Sequence[torch.Tensor]) -> dict[str, tuple[float, float]]:
    return {}


@dataclass(frozen=True)
class Compared:
    """The loss of this rank's rows, and what is to be seen in the log: name -> (sum, weight).

    `seen` stays on the device until the step has come to its end; `watched` makes numbers of it on the CPU.
    """

    loss: Loss
    seen: tuple[torch.Tensor, ...] = ()
    watched: Callable[[Sequence[torch.Tensor]], dict[str, tuple[float, float]]] = _nothing


class CachedTask(Task):
    """A task with one loss, which looks at embeddings of the whole global batch; `hold` is the cost of the chunks that keep graphs.

    `across` says whether ranks see each other's vectors.
    """

    def __init__(self, name: str, *, hold: float = 0.0, across: bool = True) -> None:
        super().__init__({name: 1.0})
        self.name, self.hold, self.across = name, hold, across

    def embed(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return one vector for each row."""
        raise NotImplementedError

    def about(self, batch: Batch, present: torch.Tensor) -> Any:
        """Return what ranks must know of a batch to compare its vectors: small, and on the CPU. `present` says which contents came."""
        raise NotImplementedError

    def compare(self, given: Vectors, knobs: Sequence[torch.Tensor]) -> Compared:
        """Return the loss of this rank's rows."""
        raise NotImplementedError

    def knobs(self) -> Sequence[nn.Parameter]:
        """Return parameters of the loss itself, such as a learnt temperature."""
        return ()

    def blank(self) -> dict[str, torch.Tensor]:
        """Return the smallest model inputs, for a rank that has fewer chunks than another."""
        raise NotImplementedError

    def counts(self, batch: Batch) -> dict[str, int]:
        """Count nothing ahead: what a stream holds is known when it has come."""
        return {}

    def sizes(self, batch: Batch) -> dict[str, float]:
        """Measure nothing ahead."""
        return {}

    def forward(  # type: ignore[override]
        self, chunks: Sequence[Mapping[str, Any]], seeds: Sequence[int]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """Return the vectors of each chunk, the knobs, and a zero that hangs on what these vectors do not reach."""
        found = []
        for inputs, seed in zip(chunks, seeds, strict=True):
            torch.manual_seed(seed)
            found.append(self.embed(inputs).float())
        knobs = [knob * 1.0 for knob in self.knobs()]
        tied = found[0].new_zeros(())
        if self.tie and torch.is_grad_enabled():
            tied = self._unreached(torch.stack([one.sum() for one in (*found, *knobs)]).sum())
        return found, knobs, tied
