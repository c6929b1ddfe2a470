"""Loaders: batches of documents and of pairs, made ahead of time in workers, from any step on."""

from __future__ import annotations

import copy
import io
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from twoway.content import ContentError, Place
from twoway.errors import TwowayError
from twoway.processes import Team

from .collators import PairExample, join_pairs, model_inputs
from .lengths import MediaTokens
from .rows import Policy
from .sampler import NO_EXTRA_COST, cut_chunks, extra_cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.context import BaseContext

    from torch import Tensor

    from twoway.content import Document

    from .collators import EncodedContent, Join, PairEncoder
    from .config import CostWeights
    from .mixture import Mixture
    from .processing import Encoder
    from .sampler import CostBatchSampler, Ints


# Batches made ahead of time, in workers: read, open the pictures, encode, mask, put together; from any step on, in
# constant time.
#
# What a batch holds is a function of its rows and epoch alone, so the number of workers changes nothing but the time.
# Workers are torch's; each works on one batch, and `prefetch` batches a worker wait at most. A row that cannot be
# used is an error that names its place, or, with `on_bad="skip"`, absent from its batch, counted, and listed; a batch
# whose rows are all bad is `None`, and an epoch of them an error.

Batch = dict[str, Any]


class BatchRequest(NamedTuple):
    """What a worker is asked for: the rows of one batch."""

    epoch: int
    step: int
    left: int  # batches of this step that follow
    rows: Ints


class BatchResult(NamedTuple):
    """What a worker gives back; `failed` is what no policy decides about, said with the row that it came from."""

    request: BatchRequest
    batch: Batch | None
    bad: tuple[ContentError, ...]
    failed: TwowayError | None = None


class BatchDataset(Dataset[BatchResult]):
    """Makes one batch; runs in a worker."""

    def __init__(self, mixture: Mixture, encode: Callable[..., Any], mask: Callable[..., Any], collate: Callable[..., Batch]) -> None:
        self.mixture, self.encode, self.mask, self.collate = mixture, encode, mask, collate

    def __getitem__(self, task: BatchRequest) -> BatchResult:
        """Make the batch of some rows; errors of rows are part of the answer, because an exception would lose its place on the way."""
        good, bad = [], []
        for row in task.rows:
            try:
                identity, document = self.mixture.read(int(row))
                good.append(self.mask(self.encode(identity, document), epoch=task.epoch))
            except ContentError as error:
                bad.append(error)
            except TwowayError as error:
                return BatchResult(task, None, (), TwowayError(f"{self.mixture.identity(int(row))}: {error}"))
        return BatchResult(task, self.collate(good) if good else None, tuple(bad))


class Loader:
    """The batches of a run, step by step.

    `encode(identity, document)` gives an example, `corrupt(example, epoch=…)` masks it, `collate(list)` makes a batch; with workers all
    three are sent to other processes and must be picklable where processes are spawned.
    """

    def __init__(
        self,
        epochs: CostBatchSampler,
        encode: Callable[..., Any],
        mask: Callable[..., Any],
        collate: Callable[..., Batch],
        *,
        workers: int = 0,
        prefetch: int = 2,
        policy: Policy | None = None,
        pin_memory: bool = False,
        context: str | BaseContext | None = None,
    ) -> None:
        """Prepare; nothing is read before the first step. `context` is how workers start (default: torch's for the platform).

        Where an accelerator is at work it should be one that does not fork (`processes.CONTEXT`).
        """
        self.epochs, self.policy = epochs, policy or Policy()
        self.dataset = BatchDataset(epochs.mixture, encode, mask, collate)
        self.workers, self.prefetch, self.pin_memory, self.context = workers, prefetch, pin_memory, context
        self.rows = self.bad = 0
        self._fruitless = 0

    def steps(self, start: int, stop: int, rank: int = 0, ranks: int = 1) -> Iterator[tuple[Batch | None, ...]]:
        """Yield, for each step from `start` to before `stop`, the batches of one rank; `None` where all rows of a batch were bad."""
        settings: dict[str, Any] = {}
        if self.workers:
            # A forked tokenizer with threads of its own would warn, or wait for a lock that nobody holds any more.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            settings = {"prefetch_factor": self.prefetch, "multiprocessing_context": self.context}
        tasks = _RequestSampler(self.epochs, range(start, stop), rank, ranks)
        batches: list[Batch | None] = []
        result: BatchResult | None = None
        loader = DataLoader(
            self.dataset,
            batch_size=None,
            sampler=tasks,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            collate_fn=_identity,
            generator=torch.Generator(),  # the global one is training's
            **settings,
        )
        for result in _report_dead_workers(loader):
            if result.failed is not None:
                raise result.failed
            self._account(result, ranks)
            batches.append(result.batch)
            if not result.request.left:
                yield tuple(batches)
                batches = []
        if result is not None and self.rows and self.bad == self.rows and ranks == 1:
            raise self._all_bad(result)

    def _account(self, result: BatchResult, ranks: int) -> None:
        """Count, and let the policy decide about bad rows."""
        self.rows += len(result.request.rows)
        for error in result.bad:
            self.bad += 1
            self.policy.refuse(error)
        self._fruitless = 0 if result.batch is not None else self._fruitless + len(result.request.rows)
        if self._fruitless and self._fruitless >= len(self.epochs.plan(result.request.epoch).rows) // ranks:
            raise self._all_bad(result)

    def _all_bad(self, result: BatchResult) -> TwowayError:
        """Say that there is nothing to train on."""
        return TwowayError(f"all rows of the data are bad ({self.bad:,} tried)" + (f", the latest: {result.bad[-1]}" if result.bad else ""))


class _RequestSampler(Sampler[BatchRequest]):
    """The batches of one rank in order, one by one; it runs where training runs, so that only the rows asked for travel to a worker."""

    def __init__(self, epochs: CostBatchSampler, steps: Sequence[int], rank: int, ranks: int) -> None:
        self.epochs, self.numbers, self.rank, self.ranks = epochs, steps, rank, ranks

    def __iter__(self) -> Iterator[BatchRequest]:
        """Yield the tasks of all steps."""
        for step in self.numbers:
            epoch, batches = self.epochs.rows(step, self.rank, self.ranks)
            for number, rows in enumerate(batches):
                yield BatchRequest(epoch, step, len(batches) - number - 1, rows)


def _report_dead_workers(loader: DataLoader[BatchResult]) -> Iterator[BatchResult]:
    """Go through what workers make; one that died is one line."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TwowayError(
            "a process that was making batches died (the system kills one where memory is short: take fewer workers, or less prefetch); "
            "the same command goes on from the last checkpoint"
        ) from error


def _identity(value: Any) -> Any:
    """Keep what a worker made: it is a batch already."""
    return value


# Batches of pairs in steady memory: read and hashed whole, decoded chunk by chunk ahead of the model, and again where
# a chunk was let go.
#
# A batch of 2,048 rows with pictures is gigabytes of pixels and a few megabytes of picture files. So its rows are
# read and hashed first; texts are encoded, and pictures stay as they lie in their files, with the tokens that their
# sizes promise. That is enough to cut the batch into chunks. What is in a chunk is decoded, resized and put together
# when the model comes near it: `workers` threads, or processes, make at most `workers` times `prefetch` chunks ahead.
# Gradient caching asks for chunks twice: those without pictures, and the first others up to `keep` bytes, are kept
# for that; the rest are made again. The next step's rows are read while this one's run.

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
        weights: CostWeights = NO_EXTRA_COST,
        workers: int = 0,
        processes: bool = False,
        prefetch: int = 2,
        keep: int = 64 << 20,
        pin_memory: bool = False,
        join: Join = join_pairs,
        guide: Callable[[Sequence[Document], Sequence[str]], torch.Tensor] | None = None,
        policy: Policy | None = None,
    ) -> None:
        """Prepare; nothing is read before the first step. `keep` is the bytes of chunks with pictures that are not made again.

        A `guide` gives vectors of another model for documents and their sides, to find false negatives by.
        """
        self.epochs, self.encode, self.policy, self.workers = epochs, encode, policy or Policy(), workers
        self.join, self.guide, self.processes, self.pin_memory = join, guide, processes, pin_memory
        self.chunk_config = ChunkConfig(budget, weights, pad_token, padding_side, workers * prefetch, keep)
        self.rows = self.bad = 0
        self._fruitless = 0

    def steps(self, start: int, stop: int, rank: int = 0, ranks: int = 1) -> Iterator[tuple[Batch | None, ...]]:
        """Yield, for each step from `start` to before `stop`, the batches of one rank; `None` where all rows of a batch were bad."""
        builder = ChunkBuilder(self.encode, self.chunk_config.weights, self.epochs.mixture)
        workers = WorkerPool(builder, self.workers, processes=self.processes, pin=self.pin_memory)
        try:
            coming = self._read(workers, start, rank, ranks) if start < stop else []
            for step in range(start, stop):
                batches = [self._batch(workers, [find for one in blocks for find in one()], ranks) for blocks in coming]
                # The rows of the next step are read while this one's chunks run.
                coming = self._read(workers, step + 1, rank, ranks) if step + 1 < stop else []
                yield tuple(batches)
        finally:
            workers.close()

    def _read(self, workers: WorkerPool, step: int, rank: int, ranks: int) -> list[list[Callable[[], Any]]]:
        """Begin to read the rows of a step."""
        epoch, batches = self.epochs.rows(step, rank, ranks)
        blocks = [[rows[at : at + _BLOCK] for at in range(0, len(rows), _BLOCK)] for rows in batches]
        return [[workers.read_rows(epoch, block) for block in one] for one in blocks]

    def _batch(self, workers: WorkerPool, found: Sequence[PairExample | ContentError], ranks: int) -> Batch | None:
        """Make a batch of the rows that are good."""
        rows = [one for one in found if not isinstance(one, ContentError)]
        self.rows += len(found)
        for one in found:
            if isinstance(one, ContentError):
                self.refuse(one)
        self._fruitless = 0 if rows else self._fruitless + len(found)
        if self._fruitless and self._fruitless >= len(self.epochs.plan(0).rows) // ranks:
            raise TwowayError(f"all rows of the data are bad ({self.bad:,} tried), the latest: {found[-1]}")
        if not rows:
            return None
        contents, batch = self.join(rows)
        if self.guide is not None:
            batch["guide"] = self.guide([one.document for one in contents], [one.side for one in contents])
        chunks = ChunkStream(self.chunk_config, workers, contents, self.refuse)
        chunks.begin()
        return batch | {"chunks": chunks}

    def refuse(self, error: ContentError) -> None:
        """Count a bad row or content, and let the policy decide."""
        self.bad += 1
        self.policy.refuse(error)


# The chunks of one batch of pairs, each made by a worker when the model comes near it; the text above says why.
#
# Workers are threads or processes. Threads start at once, and pixels need not travel; decoding, resizing and
# tokenizing let go of the interpreter's lock, but not all the time, and a GPU that the same interpreter feeds then
# waits for it. Processes take nothing from it; what they make comes back through shared memory. Each worker has an
# encoder of its own, because a tokenizer changes its own settings while it works. What is made is the same either
# way, and in the same order.

_LETTERS = 4  # of a token: lengths only decide what shares a chunk


@dataclass(frozen=True)
class ChunkConfig:
    """How chunks are made: of what cost, padded how, so many ahead, so many bytes of those with pictures kept."""

    budget: float
    weights: CostWeights
    pad_token: int
    padding_side: Literal["left", "right"]
    ahead: int
    keep: int


@dataclass(frozen=True)
class PendingItem:
    """A content whose pictures are not opened yet, with the length and the cost that are to be expected."""

    identity: str
    document: Document
    instruction: str
    side: str
    length: float
    extra: float


class LazyEncoder:
    """Encodes texts, and leaves pictures for later."""

    def __init__(self, encoder: Encoder, weights: CostWeights) -> None:
        self.encoder, self.weights = encoder, weights
        self.count_tokens = MediaTokens(encoder.processor)

    def __call__(self, identity: str, document: Document, instruction: str = "", side: str = "") -> Any:
        """Return the example of a text, or what waits."""
        if not document.media:
            return self.encoder(identity, document, instruction, side)
        pictures = self.count_tokens(document, self.encoder.limits)
        length = min(pictures + (sum(map(len, document.texts)) + len(instruction)) / _LETTERS, self.encoder.max_length)
        extra = float(extra_cost(pictures, len(document.media), self.weights))
        return PendingItem(identity, document, instruction, side, length, extra)


class PreparedChunk(NamedTuple):
    """What a worker makes: a chunk as the model takes it, `None` for inputs where nothing of it could be used, and what went wrong."""

    inputs: dict[str, Tensor] | None
    items: Tensor
    bad: tuple[ContentError, ...]
    cut: int = 0  # contents that are longer than a row may be


class ChunkBuilder:
    """Makes what is asked for, in whatever thread or process it is: examples of rows, and chunks. `pairs` gives the rows."""

    def __init__(self, encode: PairEncoder, weights: CostWeights, pairs: Any) -> None:
        self.encode, self.weights, self.pairs = encode, weights, pairs
        self.own = threading.local()
        self.lock = threading.Lock()

    def encoders(self) -> tuple[PairEncoder, Encoder]:
        """Return this thread's encoders: of rows, with pictures left for later, and of single contents."""
        if not hasattr(self.own, "pair"):
            with self.lock:
                self.own.single = copy.deepcopy(self.encode.encode)
            lazy: Any = LazyEncoder(self.own.single, self.weights)
            self.own.pair = replace(self.encode, encode=lazy)
        return self.own.pair, self.own.single

    def read_rows(self, epoch: int, rows: Any) -> list[PairExample | ContentError]:
        """Read some rows, with pictures left for later."""
        found: list[PairExample | ContentError] = []
        for row in rows:
            try:
                found.append(self.encoders()[0](self.pairs.read(int(row)), epoch=epoch))
            except ContentError as error:
                found.append(error)
            except TwowayError as error:
                raise TwowayError(f"{self.pairs.mixture.identity(int(row))}: {error}") from error
        return found

    def chunk(self, config: ChunkConfig, parts: Sequence[tuple[int, Any]]) -> PreparedChunk:
        """Make one chunk."""
        return build_chunk(self, config, parts)


class WorkerPool:
    """Threads or processes; without any, work is done when its result is asked for. With `pin`, chunks lie in page-locked memory."""

    def __init__(self, builder: ChunkBuilder, count: int, *, processes: bool = False, pin: bool = False) -> None:
        self.builder, self.pin = builder, pin
        self.team = (
            Team(count, _begin, builder.encode, builder.weights, builder.pairs, title="making batches") if count and processes else None
        )
        self.pool = ThreadPoolExecutor(count, thread_name_prefix="pairs") if count and not processes else None

    def read_rows(self, epoch: int, rows: Any) -> Callable[[], list[PairExample | ContentError]]:
        """Have rows read; what is returned waits for them."""
        if self.team is not None:
            wait = self.team.submit(_sketch_here, epoch, rows)
            return lambda: pickle.loads(wait())  # noqa: S301 - of a process that this one started
        return self._begin(self.builder.read_rows, epoch, rows)

    def chunk(self, config: ChunkConfig, parts: Sequence[tuple[int, Any]]) -> Callable[[], PreparedChunk]:
        """Have a chunk made; what is returned waits for it."""
        if self.team is not None:
            given = _dump(parts)
            wait = self.team.submit(_chunk_here, config, given)
            return (lambda: _pin(wait())) if self.pin else wait
        return self._begin(self._chunk_of, config, parts)

    def _chunk_of(self, config: ChunkConfig, parts: Sequence[tuple[int, Any]]) -> PreparedChunk:
        found = self.builder.chunk(config, parts)
        return _pin(found) if self.pin else found

    def _begin(self, work: Callable[..., Any], *given: Any) -> Callable[[], Any]:
        return (lambda: work(*given)) if self.pool is None else self.pool.submit(work, *given).result

    def close(self) -> None:
        """Let the workers go, and what they have not begun."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
        if self.team is not None:
            self.team.close()


_WORKER: dict[str, ChunkBuilder] = {}  # of a process that makes batches


def _begin(encode: PairEncoder, weights: CostWeights, pairs: Any) -> None:
    torch.set_num_threads(1)
    _WORKER["builder"] = ChunkBuilder(encode, weights, pairs)


def _sketch_here(epoch: int, rows: Any) -> bytes:
    return _dump(_WORKER["builder"].read_rows(epoch, rows))


def _chunk_here(config: ChunkConfig, parts: bytes) -> PreparedChunk:
    return _WORKER["builder"].chunk(config, pickle.loads(parts))  # noqa: S301 - of the process that started this one


class _ArrayPickler(pickle.Pickler):
    """Writes tensors as plain arrays: each shared tensor would hold an open file, and a step has tens of thousands of short ones."""

    def reducer_override(self, value: Any) -> Any:
        """See `Pickler`."""
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, torch.Tensor) else NotImplemented


def _dump(value: Any) -> bytes:
    file = io.BytesIO()
    _ArrayPickler(file, protocol=5).dump(value)
    return file.getvalue()


def _pin(chunk: PreparedChunk) -> PreparedChunk:
    """Put a chunk where a GPU can fetch it while the interpreter goes on."""
    return chunk if chunk.inputs is None else chunk._replace(inputs={name: value.pin_memory() for name, value in chunk.inputs.items()})


class ChunkStream:
    """The chunks of one batch, made as they are asked for (see `training.cached`)."""

    def __init__(
        self, config: ChunkConfig, workers: WorkerPool, contents: Sequence[EncodedContent], refuse: Callable[[ContentError], None]
    ) -> None:
        self.config, self.workers, self.refuse = config, workers, refuse
        found = [content.example for content in contents]
        length = [one.length if isinstance(one, PendingItem) else float(len(one.inputs["input_ids"])) for one in found]
        extra = [one.extra if isinstance(one, PendingItem) else 0.0 for one in found]
        numbers = cut_chunks(length, extra, config.budget)
        self.costs = [len(chosen) * length[chosen[0]] + sum(extra[one] for one in chosen) for chosen in numbers]
        self.parts = [[(one, found[one]) for one in chosen] for chosen in numbers]
        self.kept: dict[int, PreparedChunk] = {}
        self.begun: dict[int, Callable[[], PreparedChunk]] = {}
        self.left = config.keep

    def begin(self) -> None:
        """Have the first chunks made."""
        self._ahead(range(len(self.parts)), 0)

    def __iter__(self) -> Iterator[Batch]:
        """Yield all chunks."""
        numbers = range(len(self.parts))
        for place, number in enumerate(numbers):
            self._ahead(numbers, place)
            chunk = self._finish(number)
            for error in chunk.bad:
                self.refuse(error)
            size = sum(value.nbytes for value in (chunk.inputs or {}).values())
            if not any(isinstance(part, PendingItem) for _, part in self.parts[number]) or size <= self.left:
                self.kept[number] = chunk
                self.left -= size
            yield {"inputs": chunk.inputs, "items": chunk.items, "cut": chunk.cut}

    def reread(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """Yield some of them once more."""
        for place, number in enumerate(numbers):
            self._ahead(numbers, place)
            chunk = self.kept.pop(number, None) or self._finish(number)
            yield {"inputs": chunk.inputs, "items": chunk.items, "cut": chunk.cut}

    def _ahead(self, numbers: Sequence[int], place: int) -> None:
        """Begin the next few chunks that are not there."""
        for number in numbers[place : place + max(1, self.config.ahead)]:
            if number not in self.kept and number not in self.begun:
                self.begun[number] = self.workers.chunk(self.config, self.parts[number])

    def _finish(self, number: int) -> PreparedChunk:
        return self.begun.pop(number)()


def build_chunk(builder: ChunkBuilder, config: ChunkConfig, parts: Sequence[tuple[int, Any]]) -> PreparedChunk:
    """Open the pictures of a chunk and put it together."""
    items, inputs, bad, shortened = [], [], [], 0
    for item, part in parts:
        try:
            waits = isinstance(part, PendingItem)
            example = builder.encoders()[1](part.identity, part.document, part.instruction, part.side) if waits else part
        except ContentError as error:
            bad.append(ContentError(error.reason, error.place or part.document.place or Place(part.identity)))
            continue
        items.append(item)
        inputs.append(example.inputs)
        shortened += example.cut
    together = model_inputs(inputs, pad_token=config.pad_token, padding_side=config.padding_side) if inputs else None
    return PreparedChunk(together, torch.tensor(items, dtype=torch.long), tuple(bad), shortened)
