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

import math
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .task import Batch, Task, autocast, to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from twoway.losses import Loss

    from .distributed import Ranks


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


# One step by gradient caching: embed every chunk, compare, and go back chunk by chunk; `cached` says why and how it
# departs from others.
#
# Ranks must run their model equally often where weights are sharded, so they agree first on how many chunks keep
# their graphs (run together, in one forward pass, which distributed training counts as one) and how many are run
# twice; a rank with fewer runs blank ones.


@dataclass(frozen=True)
class Gradients:
    """What a step gave: numbers over all ranks, and the loss of each of this rank's batches, as far as it can be told apart."""

    numbers: dict[str, float]
    sums: list[dict[str, float]]


class Step:
    """The gradient of one step, as one rank takes part in it."""

    def __init__(
        self, task: CachedTask, shared: Any, ranks: Ranks, batches: Sequence[Batch], *, seed: Callable[[int], int], dtype: str
    ) -> None:
        self.task, self.shared, self.ranks, self.batches, self.seed, self.dtype = task, shared, ranks, batches, seed, dtype
        self.chunks: list[Chunks] = [batch["chunks"] for batch in batches]
        costs = [cost for one in self.chunks for cost in one.costs]
        sums = [sum(costs[: number + 1]) for number in range(len(costs))]
        held = sum(total <= task.hold for total in sums)
        rest = len(costs) - held
        agreed = ranks.gather((held, rest))
        self.count, self.held, self.rest = len(costs), max(one for one, _ in agreed), max(one for _, one in agreed)
        if not self.held and not self.rest:
            self.held = 1
        self.own_held = held
        self.numbers: Counter[str] = Counter()

    def gradients(self) -> list[torch.Tensor]:
        """Leave the gradient of the global batch in the parameters; return what `finish` takes, once it is read off the device."""
        stream = ((batch, chunk) for batch, chunks in enumerate(self.chunks) for chunk in chunks)
        where: list[tuple[int, torch.Tensor]] = []
        found: list[torch.Tensor] = []

        def take(count: int) -> list[Any]:
            taken = list(islice(stream, count))
            where.extend((batch, chunk["items"]) for batch, chunk in taken)
            for _, chunk in taken:
                self._measure(chunk)
            return [chunk["inputs"] for _, chunk in taken]

        graphs: Any = None
        if self.held:
            with self.ranks.more(self.shared, last=not self.rest):
                graphs = self._run(take(self.own_held), 0, self.held)
            found += graphs[0][: self.own_held]
            knobs = graphs[1]
        with torch.no_grad():
            for number in range(self.rest):
                vectors, knobs, _ = self._run(take(1), self.own_held + number, 1)
                found += vectors[: max(0, min(1, self.count - self.own_held - number))]
        width = graphs[0][0].shape[1] if graphs else vectors[0].shape[1]
        wanted, knob_gradients = self._compare(found, where, [knob.detach() for knob in knobs], width)
        self._back(graphs, wanted, knob_gradients)
        return [self.compared.loss.total, self.fine, *self.compared.seen]

    def finish(self, read: Sequence[torch.Tensor]) -> Gradients:
        """Return the numbers of the step, out of what `gradients` returned, now on the CPU."""
        name, total = self.task.name, float(read[0])
        own: Counter[str] = Counter({f"sum {name}": total})
        for key, (value, weight) in self.compared.watched(read[2:]).items():
            own.update({f"measure {key}": value, f"weight {key}": weight})
        for numbers in self.ranks.gather(dict(own)):
            self.numbers.update(numbers)
        # A loss that is no number is blamed on the batches whose vectors are none, and the other batches are let be.
        share = total if math.isfinite(total) else 0.0
        sums = [{name: (share if not n else 0.0) if good else math.nan} for n, good in enumerate(read[1].tolist())]
        return Gradients(dict(self.numbers), sums)

    def _run(self, inputs: list[Any], first: int, count: int) -> Any:
        """Run chunks `first` and on; blank ones stand in where this rank has fewer than `count`, or nothing came of one."""
        filled = [*inputs, *[None] * (count - len(inputs))]
        moved = [to_device(dict(one or self.task.blank()), self.ranks.device) for one in filled]
        with autocast(self.ranks.device, self.dtype):
            return self.shared(moved, [self.seed(first + number) for number in range(count)])

    def _compare(
        self, found: list[torch.Tensor], where: list[tuple[int, torch.Tensor]], knobs: list[torch.Tensor], width: int
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Compute the loss, and return its gradient on the vectors of each of this rank's chunks and on the knobs."""
        task, ranks, device = self.task, self.ranks, self.ranks.device
        sizes = [int(batch["contents"]) for batch in self.batches]
        starts = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
        own = torch.zeros(starts[-1], width, device=device)
        present = torch.zeros(starts[-1], dtype=torch.bool)
        places = [items + starts[batch] for batch, items in where]
        moved = [place.to(device, non_blocking=True) for place in places]
        for place, there, vectors in zip(places, moved, found, strict=True):
            own[there] = vectors.detach()[: len(place)]
            present[place] = True
        about = [task.about(batch, present[starts[n] : starts[n + 1]]) for n, batch in enumerate(self.batches)]
        together = task.across and ranks.count > 1
        every = ranks.gather(about) if together else [about]
        pieces = ranks.pieces(own) if together else [own]
        before = ranks.rank if together else 0
        first = sum(map(len, every[:before]))
        leaf = torch.cat(pieces).requires_grad_()
        tuned = [knob.requires_grad_() for knob in knobs]
        given = Vectors(leaf, [one for some in every for one in some], range(first, first + len(about)))
        with torch.enable_grad():
            compared = task.compare(given, tuned)
            compared.loss.total.backward()  # type: ignore[no-untyped-call]
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        if together:
            ranks.add(gradient)
        self._count(compared)
        scale = ranks.count / max(self.numbers[f"count {task.name}"], 1)
        offset = sum(map(len, pieces[:before]))
        wanted = [gradient[there + offset] * scale for there in moved]
        tuned_gradients = [(torch.zeros_like(knob) if knob.grad is None else knob.grad) * scale for knob in tuned]
        self.compared = compared
        self.fine = torch.stack([torch.isfinite(own[starts[n] : starts[n + 1]]).all() for n in range(len(sizes))])
        return wanted, tuned_gradients

    def _back(self, graphs: Any, wanted: list[torch.Tensor], knobs: list[torch.Tensor]) -> None:
        """Go back through the chunks: those with a graph, and then the others, run again."""
        if graphs is not None:
            with self.ranks.more(self.shared, last=not self.rest):
                _backward(graphs, wanted[: self.own_held], knobs if not self.rest else [])
        graphs = None
        numbers = range(self.own_held, self.count)
        bounds = [0]
        for one in self.chunks:
            bounds.append(bounds[-1] + len(one.costs))
        stream = (
            chunk
            for chunks, start, end in zip(self.chunks, bounds, bounds[1:], strict=False)
            for chunk in chunks.again([number - start for number in numbers if start <= number < end])
        )
        for number in range(self.rest):
            last = number == self.rest - 1
            inputs = [chunk["inputs"] for chunk in islice(stream, 1)]
            with self.ranks.more(self.shared, last=last):
                made = self._run(inputs, self.own_held + number, 1)
                _backward(made, wanted[self.own_held + number :][:1], knobs if last else [])

    def _measure(self, chunk: Batch) -> None:
        """Count tokens and padding, and contents that were cut because they are longer than a row may be."""
        if chunk["inputs"] is None:
            return
        ids, mask = chunk["inputs"]["input_ids"], chunk["inputs"].get("attention_mask")
        tokens = ids.numel() if mask is None else int(mask.sum())
        self.numbers.update({"tokens": tokens, "padding": ids.numel() - tokens, "contents": len(ids)})
        self.numbers.update({"measure cut": chunk.get("cut", 0), "weight cut": len(ids)})

    def _count(self, compared: Compared) -> None:
        """Add up what all ranks counted; what stands on the device comes later (`finish`)."""
        count = compared.loss.count
        self.numbers.update({f"count {self.task.name}": count, "rows": count})
        gathered = self.ranks.gather(dict(self.numbers))
        self.numbers = Counter()
        for numbers in gathered:
            self.numbers.update(numbers)


def _backward(made: Any, wanted: list[torch.Tensor], knobs: list[torch.Tensor]) -> None:
    """Go back from vectors with their gradients; those of blank chunks have none."""
    vectors, tuned, tied = made
    full = [torch.zeros_like(one) for one in vectors]
    for whole, part in zip(full, wanted, strict=False):
        whole[: len(part)] = part
    ends = [(one, gradient) for one, gradient in zip([*vectors, *tuned], [*full, *knobs], strict=False) if one.requires_grad]
    if tied.requires_grad:
        ends.append((tied, torch.ones_like(tied)))
    torch.autograd.backward([end for end, _ in ends], [gradient for _, gradient in ends])
