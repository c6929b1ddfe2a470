"""Documents to vectors: the vectors of `SentenceTransformer.encode`, with preparation running ahead of the model.

There are three steps, each a few results ahead of the next: inspect (hash, size, tokens; no pixel is decoded), prepare (decode, resize,
tokenize one batch), embed. Repeated content is not embedded again. The batches differ from those of `encode`, and so do the last bits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import batch_to_device

from twoway.content import ContentError, Document
from twoway.data.lengths import clean, processor_settings
from twoway.data.sources.formats import documents_of
from twoway.errors import TwowayError, UsageError, is_panic
from twoway.images import DEFAULT

from .inputs import EmbeddingItem, Front, Inputs, Lengths, batches, prompt_of, size_in_memory, windows
from .prefetch import ahead
from .shards import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

    from twoway.data.sources.formats import DocumentLike
    from twoway.limits import Limits

    from .config import Side
    from .inputs import PreparedBatch

    Vector = NDArray[np.float32]
    Refuse = Callable[[int, ContentError], None]
    Vectors = Vector | list[Vector]  # a row for each document, or a matrix for each


# A larger batch is no faster on a CPU, where it leaves the caches (`python -m benchmarks embed`), and a server's asker waits longer for it.
USUAL_BUDGET, CPU_BUDGET = 8192, 2048


@dataclass(frozen=True)
class EmbedderSettings:
    """How the engine works; none of it changes a vector beyond its last bits."""

    budget: int | None = None  # tokens of a batch, padding included; default: `USUAL_BUDGET`, or `CPU_BUDGET` on a CPU
    batch_size: int = 256  # rows of a batch, at most
    window: int = 1024  # rows that are sorted together
    window_bytes: int = 256 << 20
    workers: int | None = None  # threads ahead of the model; 0 does all in turn
    remember: int = 64 << 20  # bytes of vectors kept for content that comes again
    limits: Limits = DEFAULT

    def threads(self) -> int:
        """Return the number of threads ahead of the model."""
        return min(8, max(1, (os.cpu_count() or 1) - 1)) if self.workers is None else self.workers


class Embedder:
    """An embedding model."""

    shape: type[Inputs] = Inputs  # what makes a model's input of a document
    output = "sentence_embedding"  # of the model's modules
    late_interaction = False  # whether a document has a vector for each token

    def __init__(self, sentence: Any, *, name: str = "", settings: EmbedderSettings | None = None) -> None:
        self.sentence, self.name, self.settings = sentence, name, settings or EmbedderSettings()
        self.read_as: dict[str, str] = {}  # how it attends, and what was decided because the checkpoint does not say it
        first = sentence[0]
        self.inputs = self.shape(sentence, self.settings.limits)
        self.front = Front(sentence, self.inputs)
        self.lengths = Lengths(getattr(first, "processor", None) or getattr(first, "tokenizer", None), sentence.max_seq_length)
        self.normal = any(isinstance(module, Normalize) for module in sentence)

    @classmethod
    def of(cls, sentence: Any, *, name: str = "", **settings: Any) -> Self:
        """Wrap a model in memory, one in training included: it is put into evaluation while vectors are made, and back after."""
        return cls(sentence, name=name, settings=EmbedderSettings(**settings))

    @property
    def fingerprint(self) -> str:
        """Return a hash of everything that decides the vectors; it is computed each time, because a model in training changes."""
        return fingerprint(self.sentence)

    @property
    def dimension(self) -> int:
        """Return the length of a vector."""
        width = getattr(self.sentence, "truncate_dim", None) or self.sentence.get_embedding_dimension()
        if width is None:
            raise TwowayError(f"{self.name or 'the model'} does not say how long its vectors are")
        return int(width)

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return torch.device(self.sentence.device)

    @property
    def budget(self) -> int:
        """Return the tokens of a batch, padding included."""
        return self.settings.budget or (CPU_BUDGET if self.device.type == "cpu" else USUAL_BUDGET)

    def close(self) -> None:
        """Let go of what else is at work for it: nothing here (`many`)."""

    def check(self, *, side: Side | None, prompt: str | None, prompt_name: str | None, truncate_dim: int | None) -> str | None:
        """Refuse options of `embed` that cannot be; return the prompt."""
        if truncate_dim is not None and not 0 < truncate_dim <= self.dimension:
            raise UsageError(f"truncate_dim {truncate_dim} is out of range: this model's vectors have 1 to {self.dimension} numbers")
        return prompt_of(self.sentence, side=side, prompt=prompt, prompt_name=prompt_name)

    def array(self, documents: Iterable[DocumentLike], **kwargs: Any) -> Vector:
        """Return the vectors of documents as rows of a matrix, in order; documents and options are those of `embed`."""
        rows = [vector for _, vector in self.embed(documents, ordered=True, **kwargs)]
        return np.stack(rows) if rows else np.zeros((0, kwargs.get("truncate_dim") or self.dimension), np.float32)

    def embed(
        self,
        documents: Iterable[DocumentLike],
        *,
        side: Side | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        ordered: bool = False,
        refuse: Refuse | None = None,
    ) -> Iterator[tuple[int, Vector]]:
        """Yield (number of the document, counted from 0; its vector), as they come or in order.

        Texts, PIL pictures, paths of pictures (`Path`), lists of parts, and objects with the columns of a document are taken as documents.
        `truncate_dim` keeps the first numbers of each vector, brought back to length 1 where the model's vectors have it. A document that
        cannot be embedded raises its `ContentError`, or goes to `refuse` and has no vector.
        """
        prompt = self.check(side=side, prompt=prompt, prompt_name=prompt_name, truncate_dim=truncate_dim)
        results = self.pass_over(documents_of(documents), prompt, {} if side is None else {"task": side}, truncate_dim, refuse)
        return _in_order(results) if ordered else (pair for pair in results if pair[1] is not None)

    def read(self, out: Mapping[str, torch.Tensor], task: str | None, dim: int | None) -> Vectors:
        """Return the vector of each row of a batch."""
        del task
        vectors = out[self.output]
        width = getattr(self.sentence, "truncate_dim", None) or vectors.shape[1]
        return cut(np.asarray(vectors[:, :width].float().cpu().numpy(), np.float32), dim, normal=self.normal)

    def pass_over(
        self, documents: Iterable[Document], prompt: str | None, kwargs: dict[str, Any], dim: int | None, refuse: Refuse | None
    ) -> Iterator[tuple[int, Any]]:
        """Yield what `embed` does, as it comes, and `None` for a refused document."""
        return Pass(self, prompt, kwargs, dim, refuse).results(documents)


class MultiVectorEmbedder(Embedder):
    """A model of many vectors: those of `MultiVectorEncoder.encode_query` and `encode_document`, a matrix for each document."""

    output = "token_embeddings"
    late_interaction = True
    pooling: HierarchicalTokenPooling | None = None  # of a document's vectors, into fewer

    @classmethod
    def of(cls, sentence: Any, *, name: str = "", **settings: Any) -> Self:
        """Wrap a model in memory; fewer rows are sorted together, because each has many vectors."""
        return super().of(sentence, name=name, **{"window": _WINDOW} | settings)

    def check(self, *, side: Side | None, prompt: str | None, prompt_name: str | None, truncate_dim: int | None) -> str | None:
        """See `Embedder`; the vectors are as the projection makes them."""
        if truncate_dim not in (None, self.dimension):
            raise UsageError(f"{self.name or 'the model'} gives many vectors, of {self.dimension} numbers each; leave truncate_dim out")
        return super().check(side=side, prompt=prompt, prompt_name=prompt_name, truncate_dim=None)

    def array(self, documents: Iterable[DocumentLike], **kwargs: Any) -> Vector:
        """Refuse: each document has a matrix of its own height (`embed`)."""
        raise UsageError(f"{self.name or 'the model'} gives many vectors, and no matrix has a row for each document; use embed")

    def read(self, out: Mapping[str, torch.Tensor], task: str | None, dim: int | None) -> Vectors:
        """Return the vectors of each row of a batch, those of its tokens that are compared."""
        del dim
        kept = [one[mask.bool()].float() for one, mask in zip(out[self.output], out["attention_mask"], strict=True)]
        if self.pooling is not None:
            kept = self.pooling.pool(kept, task=task)
        return [np.asarray(one.cpu().numpy(), np.float32) for one in kept]


def _in_order(results: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Hold back what comes early; at most a window is held."""
    early: dict[int, Any] = {}
    due = 0
    for index, vector in results:
        early[index] = vector
        while due in early:
            found = early.pop(due)
            if found is not None:
                yield due, found
            due += 1


# One pass over documents: look, prepare, embed, each a few results ahead of the next, in memory that does not grow
# with the input.
#
# What was seen is known by its hash: a document that comes again while the first is on its way joins it, and one that
# comes later is answered from a bounded number of vectors that are remembered.

_LOOK, _LOOK_BYTES = 32, 16 << 20  # what a worker looks at in one go
_WINDOW = 128  # rows of many vectors that are sorted together: a page has a thousand


class Pass:
    """Goes over documents once, for one model and prompt."""

    def __init__(self, engine: Embedder, prompt: str | None, kwargs: dict[str, Any], dim: int | None, refuse: Refuse | None) -> None:
        self.engine, self.prompt, self.kwargs, self.dim, self.refuse = engine, prompt, kwargs, dim, refuse
        self.coming: dict[str, EmbeddingItem] = {}
        self.known: OrderedDict[str, Vector] = OrderedDict()
        self.held = 0  # bytes of them
        self.ready: deque[tuple[int, Any]] = deque()

    def results(self, documents: Iterable[Document]) -> Iterator[tuple[int, Any]]:
        """Yield the vectors, and `None` for a refused document."""
        settings, front = self.engine.settings, self.engine.front
        threads = settings.threads()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="embed") if threads else None
        try:
            looked = ahead(_chunks(documents), self._look, pool=pool, waiting=2 * threads)

            def prepare(batch: list[EmbeddingItem]) -> PreparedBatch:
                return front.prepare(batch, self.prompt, self.kwargs)

            for prepared in ahead(self._batches(looked), prepare, pool=pool, waiting=threads + 1):
                for item, error in prepared.failed:
                    self._fail(item, error)
                self._embed(prepared)
                while self.ready:
                    yield self.ready.popleft()
        finally:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def _look(self, chunk: list[tuple[int, Document]]) -> list[tuple[int, EmbeddingItem | ContentError]]:
        """Hash, find the kind and count the tokens; runs in a worker."""
        return list(zip([index for index, _ in chunk], make_items(self.engine, [document for _, document in chunk]), strict=True))

    def _batches(self, looked: Iterator[list[tuple[int, EmbeddingItem | ContentError]]]) -> Iterator[list[EmbeddingItem]]:
        """Keep what is new, and put it into batches; an empty batch lets what is known already pass."""
        settings = self.engine.settings
        for window in windows(looked, self._fresh, rows=settings.window, bytes_=settings.window_bytes):
            yield from batches(window, budget=self.engine.budget, most=settings.batch_size)
            yield []

    def _fresh(self, index: int, item: EmbeddingItem | ContentError) -> bool:
        """Return whether an item has to be embedded; an item with a known vector is answered here."""
        if isinstance(item, ContentError):
            self._refuse(index, item)
        elif item.key in self.known:
            self.known.move_to_end(item.key)
            self.ready.append((index, self.known[item.key]))
        elif item.key in self.coming:
            self.coming[item.key].wanted.append((index, item.document.place))
        else:
            item.wanted.append((index, item.document.place))
            self.coming[item.key] = item
            return True
        return False

    def _embed(self, prepared: PreparedBatch) -> None:
        """Run the model on a batch."""
        if prepared.items:
            for items, vectors in forward(
                self.engine, prepared.items, prepared.features, prompt=self.prompt, kwargs=self.kwargs, dim=self.dim
            ):
                self._finish(items, vectors)

    def _finish(self, items: list[EmbeddingItem], vectors: Vectors) -> None:
        """Hand out the vectors of a batch."""
        for item, vector, good in zip(items, vectors, finite(vectors), strict=True):
            if not good:
                self._fail(item, ContentError("the model gives numbers that are not finite; try another dtype", item.document.place))
                continue
            del self.coming[item.key]
            self.ready.extend((index, vector) for index, _ in item.wanted)
            self.known[item.key] = vector
            self.held += vector.nbytes
        while self.known and self.held > self.engine.settings.remember:
            self.held -= self.known.popitem(last=False)[1].nbytes

    def _fail(self, item: EmbeddingItem, error: ContentError) -> None:
        del self.coming[item.key]
        for index, place in item.wanted:
            self._refuse(index, ContentError(error.reason, place))

    def _refuse(self, index: int, error: ContentError) -> None:
        """Say that a document has no vector."""
        if self.refuse is None:
            raise error
        self.refuse(index, error)
        self.ready.append((index, None))


def _chunks(documents: Iterable[Document]) -> Iterator[list[tuple[int, Document]]]:
    """Split the input into chunks for the workers: some rows each, fewer if they are large, because several chunks wait at a time."""
    chunk: list[tuple[int, Document]] = []
    held = 0
    for index, document in enumerate(documents):
        chunk.append((index, document))
        held += size_in_memory(document)
        if len(chunk) >= _LOOK or held >= _LOOK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


# The first and the last step of embedding: looking at documents before any pixel is decoded, and the model's pass
# over one batch.


def make_items(engine: Embedder, documents: Sequence[Document]) -> list[EmbeddingItem | ContentError]:
    """Hash each document, find its kind and count its tokens."""
    found: list[EmbeddingItem | ContentError] = []
    for document in documents:
        try:
            kind = engine.inputs.kind(document)
            found.append(EmbeddingItem(document, document.fingerprint(), kind, engine.lengths.media(document, engine.settings.limits)))
        except ContentError as error:
            found.append(error)
    items = [item for item in found if isinstance(item, EmbeddingItem)]
    try:
        words = engine.lengths.words(["".join(item.document.texts) for item in items])
    except BaseException as error:
        if not is_panic(error):
            raise
        if len(documents) > 1:  # one of them is to blame, and the others are not
            return [item for document in documents for item in make_items(engine, [document])]
        return [ContentError(f"the model's tokenizer fails on it ({str(error)[:200]})", documents[0].place)]
    for item, (count, most) in zip(items, words, strict=True):
        item.length += count + 1
        item.document = item.document.cut(most)
    return found


def forward(
    engine: Embedder,
    items: list[EmbeddingItem],
    features: dict[str, Any],
    *,
    prompt: str | None,
    kwargs: Mapping[str, Any],
    dim: int | None,
) -> Iterator[tuple[list[EmbeddingItem], Vectors]]:
    """Run the model on a batch, or on its halves if it does not fit into memory or the processor cannot make it."""
    vectors = None
    if features or len(items) == 1:
        try:
            vectors = _run(engine, features, kwargs, dim)
        except torch.OutOfMemoryError as error:
            if len(items) == 1:
                trouble = "this document alone does not fit into the device's memory; make it shorter (max_length) or its pictures smaller"
                raise TwowayError(f"{items[0].document.place}: {trouble}") from error
            features.clear()
    if vectors is not None:
        yield items, vectors
        return
    middle = max(1, len(items) // 2)
    for half in (items[:middle], items[middle:]):
        if not half:
            continue
        again = engine.front.prepare(half, prompt, dict(kwargs))
        for _, refused in again.failed:
            raise refused  # it was made once before, so this is nothing that a row could be left out for
        yield from forward(engine, again.items, again.features, prompt=prompt, kwargs=kwargs, dim=dim)


def finite(vectors: Vectors) -> NDArray[np.bool_]:
    """Return which vectors have only finite numbers."""
    if isinstance(vectors, np.ndarray):
        return np.asarray(np.isfinite(vectors).all(axis=1))
    return np.array([bool(np.isfinite(one).all()) for one in vectors])


@contextmanager
def in_eval_mode(sentence: Any) -> Iterator[None]:
    """Put a model into evaluation, and each of its parts back into what it was in."""
    training = [module for module in sentence.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _run(engine: Embedder, features: dict[str, Any], kwargs: Mapping[str, Any], dim: int | None) -> Vectors:
    """Run the model on one batch."""
    sentence = engine.sentence
    with in_eval_mode(sentence), torch.inference_mode():
        return engine.read(sentence(batch_to_device(features, sentence.device), **kwargs), kwargs.get("task"), dim)


# One hash for everything that decides a model's vectors: weights and precision, configuration, processor, pooling,
# prompts.
#
# It is taken from the model in memory, so a model on disk, the same model in training, and an adapter merged on the
# fly agree where their vectors do. What a tokenizer remembers of its latest call (padding, truncation) is left out,
# and so are names of folders and versions.

_BYTES = 1 << 26


def fingerprint(sentence: Any) -> str:
    """Return the hash in hex; it reads every weight once."""
    digest = hashlib.sha256()
    for name, tensor in sorted(sentence.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for piece in _pieces(tensor):
            digest.update(piece)
    digest.update(json.dumps(_settings(sentence), sort_keys=True, default=str, ensure_ascii=False).encode())
    return digest.hexdigest()


def _pieces(tensor: torch.Tensor) -> Iterator[Any]:
    """Give a tensor's bytes piece by piece, so that a large matrix on an accelerator is never whole in memory twice."""
    flat = tensor.detach().reshape(-1)
    step = max(1, _BYTES // max(1, flat.element_size()))
    for start in range(0, len(flat), step):
        yield flat[start : start + step].cpu().contiguous().view(torch.uint8).numpy().data


def _settings(sentence: Any) -> dict[str, Any]:
    """Return everything besides weights."""
    modules = [(type(module).__name__, _config_of(module)) for module in sentence]
    first = sentence[0]
    processor = getattr(first, "processor", None) or getattr(first, "tokenizer", None)
    return {
        "modules": modules,
        "prompts": dict(sentence.prompts),
        "default": sentence.default_prompt_name,
        "cut": getattr(sentence, "truncate_dim", None),
        "longest": sentence.max_seq_length,
        "model": clean(first.auto_model.config.to_dict()) if hasattr(first, "auto_model") else {},
        "processor": processor_settings(processor),
    }


def _config_of(module: Any) -> Any:
    """Return a module's own settings, but for the transformer's, which name classes and files."""
    said = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
    return clean(said)
