"""Gradient caching (GradCache, arXiv 2101.06983): the loss of a whole global batch in the memory of a chunk of it.

A batch is `{"contents": how many, "chunks": Chunks, …}`, its chunks model inputs of about one cost each. Every chunk is embedded, each of
its contents as one vector or as several; the loss looks at all embeddings of all ranks, each rank at that of its own rows; its gradient on
the embeddings is added up over ranks; and each chunk is run again, now with a graph, and goes back from there. Dropout draws from a seed
of the step, the rank and the chunk's number, so the second run is the first one again.

Where it departs from sentence-transformers' cached losses: (1) chunks are made by what they cost and come as the processor would make
them alone, so nothing is cut out of a padded batch, and pictures, tiles and several pictures a row are nothing special; (2) a batch is a
stream that may be read twice, so its pictures need never be in memory together; (3) the first chunks keep their graphs, up to
`keep_graph_tokens`, and are not run again: a batch that fits costs what a plain step costs; (4) it works with sharded weights too: ranks
agree on the number of runs first, and gradients travel once, in the last one.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import torch

from .module import Batch, StepContext, StepLosses, StepResult, TrainingModule, autocast, to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import nn

    from twoway.losses import Loss


class Chunks(Protocol):
    """The chunks of a batch: each `{"inputs": model inputs, "items": LongTensor, which content of the batch each of its rows is}`."""

    costs: Sequence[float]

    def __iter__(self) -> Iterator[Batch]:
        """Yield all of them."""

    def reread(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """Yield some of them once more, the same to the bit."""


class ChunkList:
    """Chunks that are in memory all the time."""

    def __init__(self, chunks: Sequence[Batch]) -> None:
        self.chunks = list(chunks)
        self.costs = [float(chunk["inputs"]["input_ids"].numel()) for chunk in self.chunks]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.chunks)

    def reread(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """Yield some of them."""
        return (self.chunks[number] for number in numbers)


@dataclass(frozen=True)
class GatheredVectors:
    """What a loss compares: the vectors of each content, batch behind batch, and what the batches say about them."""

    vectors: torch.Tensor
    counts: torch.Tensor  # how many vectors each content has, on the CPU; one, unless the module says otherwise
    metadata: list[Any]  # of each batch, what `batch_metadata` returned
    own_batches: range  # which batches are this rank's


def _no_metrics(_values: Sequence[torch.Tensor]) -> dict[str, tuple[float, float]]:
    return {}


@dataclass(frozen=True)
class LossOutput:
    """The loss of this rank's rows, and what of it goes into the log.

    `logged` stays on the device until the step has come to its end; `metrics` makes numbers of it on the CPU: name -> (sum, weight).
    """

    loss: Loss
    logged: tuple[torch.Tensor, ...] = ()
    metrics: Callable[[Sequence[torch.Tensor]], dict[str, tuple[float, float]]] = _no_metrics


class GradientCachedModule(TrainingModule):
    """A model with one loss, which looks at embeddings of the whole global batch; it owns its caching.

    `keep_graph_tokens` is the cost of the chunks that keep their graphs; `across_ranks` says whether ranks see each other's vectors.
    """

    def __init__(self, name: str, *, keep_graph_tokens: float = 0.0, across_ranks: bool = True) -> None:
        super().__init__({name: 1.0})
        self.name, self.keep_graph_tokens, self.across_ranks = name, keep_graph_tokens, across_ranks

    def embed(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return one vector for each row, or as many as `count_vectors` says, row behind row."""
        raise NotImplementedError

    def count_vectors(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return how many vectors each row of these inputs has, on the CPU, as the inputs are."""
        return torch.ones(len(inputs["input_ids"]), dtype=torch.long)

    def batch_metadata(self, batch: Batch, present: torch.Tensor) -> Any:
        """Return what ranks must know of a batch to compare its vectors: small, and on the CPU. `present` says which contents came."""
        raise NotImplementedError

    def compute_loss(self, gathered: GatheredVectors, parameters: Sequence[torch.Tensor]) -> LossOutput:
        """Return the loss of this rank's rows; `parameters` are those of the loss itself."""
        raise NotImplementedError

    def loss_parameters(self) -> Sequence[nn.Parameter]:
        """Return parameters of the loss itself, such as a learnt temperature."""
        return ()

    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Return the smallest model inputs, for a rank that has fewer chunks than another."""
        raise NotImplementedError

    def count_targets(self, batch: Batch) -> dict[str, int]:
        """Count nothing ahead: what a stream holds is known when it has come."""
        return {}

    def count_tokens(self, batch: Batch) -> dict[str, float]:
        """Count nothing ahead."""
        return {}

    def training_step(self, batches: Sequence[Batch], context: StepContext) -> StepLosses:
        """Add the gradient of the global batch to the parameters, and return the loss."""
        return _CachedStep(self, batches, context).run()

    def forward(  # type: ignore[override]
        self, chunks: Sequence[Mapping[str, Any]], seeds: Sequence[int]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """Return the vectors of each chunk, the loss's parameters, and a zero that hangs on what these vectors do not reach."""
        vectors = []
        for inputs, seed in zip(chunks, seeds, strict=True):
            torch.manual_seed(seed)
            vectors.append(self.embed(inputs).float())
        parameters = [parameter * 1.0 for parameter in self.loss_parameters()]
        unused = vectors[0].new_zeros(())
        if self.touch_unused_parameters and torch.is_grad_enabled():
            unused = self._touch_unused(torch.stack([one.sum() for one in (*vectors, *parameters)]).sum())
        return vectors, parameters, unused


def padding_row(token: int, token_keys: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return one row of one padding token; `token_keys` are inputs with one entry a token."""
    ids = torch.full((1, 1), token)
    keys = [key for key in token_keys if key not in ("input_ids", "attention_mask")]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | {key: torch.zeros_like(ids) for key in keys}


@dataclass(frozen=True)
class _Place:
    """Where the vectors of a chunk belong: its batch, the contents that it holds, and how many vectors each of them has."""

    batch: int
    items: torch.Tensor
    counts: torch.Tensor


def _rows(firsts: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the rows of contents that begin at `firsts`, content behind content."""
    before = counts.cumsum(0) - counts
    return torch.repeat_interleave(firsts - before, counts) + torch.arange(int(counts.sum()))


class _CachedStep:
    """One step of one rank: embed every chunk, compare, and go back chunk by chunk.

    Ranks must run their model equally often where weights are sharded, so they agree first on how many chunks keep their graphs (run
    together, in one forward pass, which distributed training counts as one) and how many are run twice; a rank with fewer runs dummies.
    """

    def __init__(self, module: GradientCachedModule, batches: Sequence[Batch], context: StepContext) -> None:
        self.module, self.batches, self.context, self.ranks = module, batches, context, context.ranks
        self.chunks: list[Chunks] = [batch["chunks"] for batch in batches]
        costs = [cost for chunks in self.chunks for cost in chunks.costs]
        self.count = len(costs)
        self.own_kept = sum(sum(costs[: number + 1]) <= module.keep_graph_tokens for number in range(self.count))
        agreed = self.ranks.all_gather_object((self.own_kept, self.count - self.own_kept))
        self.kept, self.rerun = max(kept for kept, _ in agreed), max(rerun for _, rerun in agreed)
        if not self.kept and not self.rerun:
            self.kept = 1
        self.numbers: Counter[str] = Counter()

    def run(self) -> StepLosses:
        """Leave the gradient of the global batch in the parameters."""
        stream = ((batch, chunk) for batch, chunks in enumerate(self.chunks) for chunk in chunks)
        places: list[_Place] = []
        vectors: list[torch.Tensor] = []

        def take(count: int) -> list[Any]:
            taken = list(islice(stream, count))
            for batch, chunk in taken:
                items, inputs = chunk["items"], chunk["inputs"]
                places.append(_Place(batch, items, torch.zeros_like(items) if inputs is None else self.module.count_vectors(inputs)))
                self._count_tokens(chunk)
            return [chunk["inputs"] for _, chunk in taken]

        graphs: Any = None
        if self.kept:
            with self.ranks.no_sync(self.context.wrapped, last=not self.rerun):
                graphs = self._embed(take(self.own_kept), 0, self.kept)
            vectors += graphs[0][: self.own_kept]
            parameters = graphs[1]
        with torch.no_grad():
            for number in range(self.rerun):
                embedded, parameters, _ = self._embed(take(1), self.own_kept + number, 1)
                vectors += embedded[: max(0, min(1, self.count - self.own_kept - number))]
        width = graphs[0][0].shape[1] if graphs else embedded[0].shape[1]
        gradients, parameter_gradients = self._compare(vectors, places, [one.detach() for one in parameters], width)
        self._backward(graphs, gradients, parameter_gradients)
        return StepLosses([self.output.loss.total, self.finite, *self.output.logged], self._finish)

    def _finish(self, values: Sequence[torch.Tensor]) -> StepResult:
        """Return the numbers of the step, over all ranks, and the loss of each of this rank's batches, as far as it can be told apart."""
        name, total = self.module.name, float(values[0])
        own: Counter[str] = Counter({f"sum {name}": total})
        for key, (value, weight) in self.output.metrics(values[2:]).items():
            own.update({f"measure {key}": value, f"weight {key}": weight})
        for numbers in self.ranks.all_gather_object(dict(own)):
            self.numbers.update(numbers)
        # A loss that is no number is blamed on the batches whose vectors are none, and the other batches are let be.
        share = total if math.isfinite(total) else 0.0
        sums = [{name: (share if not number else 0.0) if finite else math.nan} for number, finite in enumerate(values[1].tolist())]
        return StepResult(sums, dict(self.numbers))

    def _embed(self, inputs: list[Any], first: int, count: int) -> Any:
        """Run chunks `first` and on; dummies stand in where this rank has fewer than `count`, or nothing came of one."""
        device = self.ranks.device
        filled = [*inputs, *[None] * (count - len(inputs))]
        moved = [to_device(dict(one or self.module.dummy_inputs()), device) for one in filled]
        with autocast(device, self.context.dtype):
            return self.context.wrapped(moved, [self.context.seed(first + number) for number in range(count)])

    def _compare(
        self, vectors: list[torch.Tensor], places: list[_Place], parameters: list[torch.Tensor], width: int
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Compute the loss, and return its gradient on the vectors of each of this rank's chunks and on its parameters."""
        module, ranks, device = self.module, self.ranks, self.ranks.device
        sizes = [int(batch["contents"]) for batch in self.batches]
        starts = [sum(sizes[:number]) for number in range(len(sizes) + 1)]
        present = torch.zeros(starts[-1], dtype=torch.bool)
        counts = torch.ones(starts[-1], dtype=torch.long)  # a content that did not come has one vector, of zeros
        contents = [place.items + starts[place.batch] for place in places]
        for content, place in zip(contents, places, strict=True):
            counts[content] = place.counts
            present[content] = True
        ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        rows_there = [_rows(ends[content], counts[content]).to(device, non_blocking=True) for content in contents]
        own = torch.zeros(int(ends[-1]), width, device=device)
        for there, embedded in zip(rows_there, vectors, strict=True):
            own[there] = embedded.detach()[: len(there)]
        metadata = [module.batch_metadata(batch, present[starts[n] : starts[n + 1]]) for n, batch in enumerate(self.batches)]
        together = module.across_ranks and ranks.world_size > 1
        every = ranks.all_gather_object((metadata, counts)) if together else [(metadata, counts)]
        pieces = ranks.all_gather(own) if together else [own]
        before = ranks.rank if together else 0
        first = sum(len(some) for some, _ in every[:before])
        leaf = torch.cat(pieces).requires_grad_()
        parameters = [parameter.requires_grad_() for parameter in parameters]
        known, own_batches = [one for some, _ in every for one in some], range(first, first + len(metadata))
        gathered = GatheredVectors(leaf, torch.cat([some for _, some in every]), known, own_batches)
        with torch.enable_grad():
            output = module.compute_loss(gathered, parameters)
            output.loss.total.backward()  # type: ignore[no-untyped-call]
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        if together:
            ranks.all_reduce(gradient)
        self._count_targets(output.loss.count)
        scale = ranks.world_size / max(self.numbers[f"count {module.name}"], 1)
        offset = sum(map(len, pieces[:before]))
        self.output = output
        bounds = ends[starts].tolist()
        self.finite = torch.stack([torch.isfinite(own[bounds[n] : bounds[n + 1]]).all() for n in range(len(sizes))])
        of_parameters = [(torch.zeros_like(one) if one.grad is None else one.grad) * scale for one in parameters]
        return [gradient[there + offset] * scale for there in rows_there], of_parameters

    def _backward(self, graphs: Any, gradients: list[torch.Tensor], parameter_gradients: list[torch.Tensor]) -> None:
        """Go back through the chunks: those that kept their graph, and then the others, run again."""
        if graphs is not None:
            with self.ranks.no_sync(self.context.wrapped, last=not self.rerun):
                _backward(graphs, gradients[: self.own_kept], parameter_gradients if not self.rerun else [])
        graphs = None
        numbers = range(self.own_kept, self.count)
        bounds = [0]
        for chunks in self.chunks:
            bounds.append(bounds[-1] + len(chunks.costs))
        stream = (
            chunk
            for chunks, start, end in zip(self.chunks, bounds, bounds[1:], strict=False)
            for chunk in chunks.reread([number - start for number in numbers if start <= number < end])
        )
        for number in range(self.rerun):
            last = number == self.rerun - 1
            inputs = [chunk["inputs"] for chunk in islice(stream, 1)]
            with self.ranks.no_sync(self.context.wrapped, last=last):
                embedded = self._embed(inputs, self.own_kept + number, 1)
                _backward(embedded, gradients[self.own_kept + number :][:1], parameter_gradients if last else [])

    def _count_tokens(self, chunk: Batch) -> None:
        """Count tokens and padding, and contents that were cut because they are longer than a row may be."""
        if chunk["inputs"] is None:
            return
        ids, mask = chunk["inputs"]["input_ids"], chunk["inputs"].get("attention_mask")
        tokens = ids.numel() if mask is None else int(mask.sum())
        self.numbers.update({"tokens": tokens, "padding": ids.numel() - tokens, "contents": len(ids)})
        self.numbers.update({"measure cut": chunk.get("cut", 0), "weight cut": len(ids)})

    def _count_targets(self, count: int) -> None:
        """Add up what all ranks counted; what stands on the device comes later (`_finish`)."""
        self.numbers.update({f"count {self.module.name}": count, "rows": count})
        gathered = self.ranks.all_gather_object(dict(self.numbers))
        self.numbers = Counter()
        for numbers in gathered:
            self.numbers.update(numbers)


def _backward(embedded: Any, gradients: list[torch.Tensor], parameter_gradients: list[torch.Tensor]) -> None:
    """Go back from vectors with their gradients; those of dummies have none."""
    vectors, parameters, unused = embedded
    full = [torch.zeros_like(one) for one in vectors]
    for target, part in zip(full, gradients, strict=False):
        target[: len(part)] = part
    pairs = zip([*vectors, *parameters], [*full, *parameter_gradients], strict=False)
    ends = [(one, gradient) for one, gradient in pairs if one.requires_grad]
    if unused.requires_grad:
        ends.append((unused, torch.ones_like(unused)))
    torch.autograd.backward([end for end, _ in ends], [gradient for _, gradient in ends])
