"""The chunks of one batch of pairs, each made by a worker when the model comes near it; `pair_loader` says why.

Workers are threads or processes. Threads start at once, and pixels need not travel; decoding, resizing and tokenizing let go of the
interpreter's lock, but not all the time, and a GPU that the same interpreter feeds then waits for it. Processes take nothing from it;
what they make comes back through shared memory. Each worker has an encoder of its own, because a tokenizer changes its own settings while
it works. What is made is the same either way, and in the same order.
"""

from __future__ import annotations

import copy
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from ..content import ContentError, Place
from ..errors import TwowayError
from ..images import image_size
from ..processes import Team
from .batching import CostWeights, cost
from .chunks import cut
from .collate import model_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from ..content import Document
    from .encode import Encoder
    from .pair_batch import Content, PairEncoder, PairExample

Batch = dict[str, Any]
_LETTERS, _PIXELS = 4, 28 * 28  # of a token, where nothing better is known: lengths only decide what shares a chunk


@dataclass(frozen=True)
class Cutting:
    """How chunks are made: of what cost, padded how, so many ahead, so many bytes of those with pictures kept."""

    budget: float
    weights: CostWeights
    pad_token: int
    padding_side: Literal["left", "right"]
    ahead: int
    keep: int


@dataclass(frozen=True)
class Waiting:
    """A content whose pictures are not opened yet, with the length and the cost that are to be expected."""

    identity: str
    document: Document
    instruction: str
    length: float
    extra: float


class Shy:
    """Encodes texts, and leaves pictures for later."""

    def __init__(self, encoder: Encoder, weights: CostWeights) -> None:
        self.encoder, self.weights = encoder, weights
        self.tokens: dict[tuple[int, int], float] = {}

    def __call__(self, identity: str, document: Document, instruction: str = "") -> Any:
        """Return the example of a text, or what waits."""
        if not document.images:
            return self.encoder(identity, document, instruction)
        pictures = sum(self._tokens(image_size(image, place=document.place, limits=self.encoder.limits)) for image in document.images)
        length = min(pictures + (sum(map(len, document.texts)) + len(instruction)) / _LETTERS, self.encoder.max_length)
        extra = float(cost(0, pictures, len(document.images), self.weights)) - pictures
        return Waiting(identity, document, instruction, length, extra)

    def _tokens(self, size: tuple[int, int]) -> float:
        if size not in self.tokens:
            width, height = size
            try:
                said = self.encoder.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
                self.tokens[size] = float(said["num_image_tokens"][0])
            except (AttributeError, NotImplementedError, KeyError, TypeError):
                self.tokens[size] = width * height / _PIXELS
        return self.tokens[size]


class Chunk(NamedTuple):
    """What a worker makes: a chunk as the model takes it, `None` for inputs where nothing of it could be used, and what went wrong."""

    inputs: dict[str, Tensor] | None
    items: Tensor
    bad: tuple[ContentError, ...]
    cut: int = 0  # contents that are longer than a row may be


class Maker:
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
            shy: Any = Shy(self.own.single, self.weights)
            self.own.pair = replace(self.encode, encode=shy)
        return self.own.pair, self.own.single

    def sketch(self, epoch: int, rows: Any) -> list[PairExample | ContentError]:
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

    def chunk(self, cutting: Cutting, parts: Sequence[tuple[int, Any]]) -> Chunk:
        """Make one chunk."""
        return make(self, cutting, parts)


class Workers:
    """Threads or processes; without any, work is done when its result is asked for. With `pin`, chunks lie in page-locked memory."""

    def __init__(self, maker: Maker, count: int, *, processes: bool = False, pin: bool = False) -> None:
        self.maker, self.pin = maker, pin
        self.team = Team(count, _begin, maker.encode, maker.weights, maker.pairs, title="making batches") if count and processes else None
        self.pool = ThreadPoolExecutor(count, thread_name_prefix="pairs") if count and not processes else None

    def sketch(self, epoch: int, rows: Any) -> Callable[[], list[PairExample | ContentError]]:
        """Have rows read; what is returned waits for them."""
        if self.team is not None:
            wait = self.team.submit(_sketch_here, epoch, rows)
            return lambda: pickle.loads(wait())  # noqa: S301 - of a process that this one started
        return self._begin(self.maker.sketch, epoch, rows)

    def chunk(self, cutting: Cutting, parts: Sequence[tuple[int, Any]]) -> Callable[[], Chunk]:
        """Have a chunk made; what is returned waits for it."""
        if self.team is not None:
            given = _dumped(parts)
            wait = self.team.submit(_chunk_here, cutting, given)
            return (lambda: _pinned(wait())) if self.pin else wait
        return self._begin(self._chunk_of, cutting, parts)

    def _chunk_of(self, cutting: Cutting, parts: Sequence[tuple[int, Any]]) -> Chunk:
        found = self.maker.chunk(cutting, parts)
        return _pinned(found) if self.pin else found

    def _begin(self, work: Callable[..., Any], *given: Any) -> Callable[[], Any]:
        return (lambda: work(*given)) if self.pool is None else self.pool.submit(work, *given).result

    def close(self) -> None:
        """Let the workers go, and what they have not begun."""
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)
        if self.team is not None:
            self.team.close()


_OWN: dict[str, Maker] = {}  # of a process that makes batches


def _begin(encode: PairEncoder, weights: CostWeights, pairs: Any) -> None:
    torch.set_num_threads(1)
    _OWN["maker"] = Maker(encode, weights, pairs)


def _sketch_here(epoch: int, rows: Any) -> bytes:
    return _dumped(_OWN["maker"].sketch(epoch, rows))


def _chunk_here(cutting: Cutting, parts: bytes) -> Chunk:
    return _OWN["maker"].chunk(cutting, pickle.loads(parts))  # noqa: S301 - of the process that started this one


class _Small(pickle.Pickler):
    """Writes tensors as plain arrays: each shared tensor would hold an open file, and a step has tens of thousands of short ones."""

    def reducer_override(self, value: Any) -> Any:
        """See `Pickler`."""
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, torch.Tensor) else NotImplemented


def _dumped(value: Any) -> bytes:
    file = io.BytesIO()
    _Small(file, protocol=5).dump(value)
    return file.getvalue()


def _pinned(chunk: Chunk) -> Chunk:
    """Put a chunk where a GPU can fetch it while the interpreter goes on."""
    return chunk if chunk.inputs is None else chunk._replace(inputs={name: value.pin_memory() for name, value in chunk.inputs.items()})


class Streamed:
    """The chunks of one batch, made as they are asked for (see `training.cached`)."""

    def __init__(self, cutting: Cutting, workers: Workers, contents: Sequence[Content], refuse: Callable[[ContentError], None]) -> None:
        self.cutting, self.workers, self.refuse = cutting, workers, refuse
        found = [content.example for content in contents]
        length = [one.length if isinstance(one, Waiting) else float(len(one.inputs["input_ids"])) for one in found]
        extra = [one.extra if isinstance(one, Waiting) else 0.0 for one in found]
        numbers = cut(length, extra, cutting.budget)
        self.costs = [len(chosen) * length[chosen[0]] + sum(extra[one] for one in chosen) for chosen in numbers]
        self.parts = [[(one, found[one]) for one in chosen] for chosen in numbers]
        self.kept: dict[int, Chunk] = {}
        self.begun: dict[int, Callable[[], Chunk]] = {}
        self.left = cutting.keep

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
            if not any(isinstance(part, Waiting) for _, part in self.parts[number]) or size <= self.left:
                self.kept[number] = chunk
                self.left -= size
            yield {"inputs": chunk.inputs, "items": chunk.items, "cut": chunk.cut}

    def again(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """Yield some of them once more."""
        for place, number in enumerate(numbers):
            self._ahead(numbers, place)
            chunk = self.kept.pop(number, None) or self._finish(number)
            yield {"inputs": chunk.inputs, "items": chunk.items, "cut": chunk.cut}

    def _ahead(self, numbers: Sequence[int], place: int) -> None:
        """Begin the next few chunks that are not there."""
        for number in numbers[place : place + max(1, self.cutting.ahead)]:
            if number not in self.kept and number not in self.begun:
                self.begun[number] = self.workers.chunk(self.cutting, self.parts[number])

    def _finish(self, number: int) -> Chunk:
        return self.begun.pop(number)()


def make(maker: Maker, cutting: Cutting, parts: Sequence[tuple[int, Any]]) -> Chunk:
    """Open the pictures of a chunk and put it together."""
    items, inputs, bad, shortened = [], [], [], 0
    for item, part in parts:
        try:
            example = maker.encoders()[1](part.identity, part.document, part.instruction) if isinstance(part, Waiting) else part
        except ContentError as error:
            bad.append(ContentError(error.reason, error.place or part.document.place or Place(part.identity)))
            continue
        items.append(item)
        inputs.append(example.inputs)
        shortened += example.cut
    together = model_inputs(inputs, pad_token=cutting.pad_token, padding_side=cutting.padding_side) if inputs else None
    return Chunk(together, torch.tensor(items, dtype=torch.long), tuple(bad), shortened)
