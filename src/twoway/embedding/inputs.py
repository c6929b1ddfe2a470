"""From documents to a model's inputs: prompts, lengths, batches of one kind, and tensors made in threads."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from twoway.content import ContentError, Document, open_document, processor_inputs, to_messages
from twoway.data.lengths import MediaTokens
from twoway.errors import UsageError, did_you_mean, is_panic
from twoway.images import DEFAULT

from .config import Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from twoway.content import Place
    from twoway.limits import Limits


# Documents as sentence-transformers takes them, its kinds of input never mixed in one call.
#
# The kind of a part is decided by the document alone. sentence-transformers would open a bare string that looks like
# a URL or a path as a picture, so a text is passed inside a chat message, or as `{"text": …}` for a model without
# messages. sentence-transformers silently drops chat messages that share a call with other kinds, so either all
# inputs are messages or none. And rows with pictures never share a call with rows without, because some processors
# then write a text differently (PaliGemma's), and because text needs no tower.


class Inputs:
    """Shapes documents for one model."""

    def __init__(self, sentence: Any, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.modalities = set(sentence.modalities)
        self.single = {name for kind in self.modalities for name in (kind if isinstance(kind, tuple) else (kind,))}
        self.messages = "message" in self.modalities
        self.formatter: Any = getattr(sentence[0], "input_formatter", None)
        self.processor: Any = getattr(sentence[0], "processor", None)

    def kind(self, document: Document) -> str:
        """Return the kind of input that a document becomes; inputs of one kind may share a call."""
        media = [part.modality for part in document.media]
        if missing := next((part for part in document.media if part.modality not in self.single), None):
            raise ContentError(f"this model takes no {missing.columns[1]}", document.place)
        if self.messages:
            return "messages with pictures" if media else "messages"
        if not media:
            return "text"
        if len(document.parts) == 1:
            return media[0]
        if self.formatter is not None and (media[0], "text") in self.modalities and len(media) == 1 and len(document.texts) == 1:
            return f"{media[0]} and text"
        raise ContentError("this model takes one image or one text, and no documents of several parts", document.place)

    def __call__(self, document: Document) -> Any:
        """Return what sentence-transformers is given, the parts decoded."""
        if not document.media:
            # Parts follow each other as they do in a chat template that writes contents and nothing else.
            text = {"text": "".join(document.texts)}
            if self.formatter is None:
                return text["text"]  # static vectors and the like take strings, and take them for text
            if not self.messages:
                return text
            if len(document.texts) == 1 or not self._structured():
                return self.formatter.to_message(text)
        if self.messages:
            return to_messages(document, limits=self.limits, processor=self.processor)
        opened = open_document(document, limits=self.limits)
        parts = {part.modality: part.value for part in (*opened.media, *opened.parts)}
        return parts if len(parts) > 1 else next(iter(parts.values()))

    def for_processor(self, shaped: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return a batch of what `__call__` gave with plain values in messages, and what the processor is told beside."""
        return processor_inputs(shaped) if self.messages and shaped and isinstance(shaped[0], list) else (shaped, {})

    def _structured(self) -> bool:
        return self.formatter is not None and self.formatter.message_format == "structured"


# The prompt of a document, by sentence-transformers' own rules, so that both give the same vectors.
#
# A prompt is given by its name, by the side of a document (query or document), or as the text itself.

# The names that `SentenceTransformer.encode_query` and `encode_document` look for, in their order.
_NAMES: Mapping[str, tuple[str, ...]] = {"query": ("query",), "document": ("document", "passage", "corpus")}


def prompt_of(sentence: Any, *, side: Side | None = None, prompt: str | None = None, prompt_name: str | None = None) -> str | None:
    """Return the prompt, or nothing."""
    if side is not None and side not in _NAMES:
        raise UsageError(f"a side is query or document, not {side!r}{did_you_mean(str(side), get_args(Side))}")
    if prompt is not None and prompt_name is not None:
        raise UsageError("a prompt and the name of a prompt were both given; one of them decides")
    if prompt is not None:
        return prompt
    if prompt_name is not None:
        if prompt_name not in sentence.prompts:
            known = ", ".join(sentence.prompts) or "none"
            raise UsageError(f"the model has no prompt {prompt_name!r}{did_you_mean(prompt_name, sentence.prompts)} (it has: {known})")
        return str(sentence.prompts[prompt_name])
    named = next((name for name in _NAMES.get(str(side), ()) if name in sentence.prompts), sentence.default_prompt_name)
    return None if named is None else sentence.prompts.get(named)


# How many tokens a document becomes, before its pictures are decoded: words by the tokenizer, pictures by the size in
# their headers.
#
# Lengths only decide which rows share a batch, so the tokens of a template (the same for all) are not counted, and if
# a processor does not give the number of tokens of a picture, its area is used.

_CHARACTERS_A_TOKEN = 4
# Text beyond this many characters a token of the longest row is cut by the model, and no tokenizer sees it.
_MOST = 32


class Lengths:
    """Counts tokens for one model."""

    def __init__(self, processor: Any, longest: int | None) -> None:
        tokenizer = getattr(processor, "tokenizer", processor)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.longest = longest if longest and longest < 1 << 20 else None
        self.backend: Any = copy.deepcopy(backend)  # its own, because the other's settings change with every call
        if self.backend is not None:
            self.backend.no_padding()
            self.backend.no_truncation()
        self.cuts_the_end = getattr(tokenizer, "truncation_side", "right") == "right"
        self.media = MediaTokens(processor)

    def words(self, texts: Sequence[str]) -> list[tuple[float, int | None]]:
        """Return of each text its tokens, counted up to one more than the longest row, and how many characters a tokenizer need see.

        That is a number only where the model cuts the text anyway, and what is left of it is more than the model reads.
        """
        if self.backend is None:
            longest = float("inf") if self.longest is None else self.longest + 1.0
            return [(min(len(text) / _CHARACTERS_A_TOKEN, longest), None) for text in texts]
        if self.longest is None:
            return [(float(count), None) for count in self._count(texts)]
        found: dict[int, tuple[float, int | None]] = {}
        left, most = list(range(len(texts))), self.longest * _MOST
        while left:
            # Of a long text the white space in front does not count: some templates take it away.
            ends = {number: most + _blank(texts[number]) for number in left}
            pieces = [
                texts[number] if ends[number] >= len(texts[number]) else texts[number][ends[number] - most : ends[number]]
                for number in left
            ]
            for number, count in zip(left, self._count(pieces), strict=True):
                if count > self.longest:
                    # One more than the longest row stands for all that is cut, so that a text which fits is told from one that does not.
                    found[number] = (self.longest + 1.0, ends[number] if self.cuts_the_end and ends[number] < len(texts[number]) else None)
                elif ends[number] >= len(texts[number]):
                    found[number] = (float(count), None)
            left, most = [number for number in left if number not in found], most * 8  # tokens are long there
        return [found[number] for number in range(len(texts))]

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [len(encoding) for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def _blank(text: str) -> int:
    return len(text) - len(text.lstrip())


# Which rows share a batch: those of one kind and nearly one length, as many as a budget of tokens holds.
#
# Rows are taken in windows, bounded in number and in bytes, so any size of input needs constant memory. Inside a
# window rows are sorted by length, the longest first, so that a batch that does not fit shows at once. The cost of a
# batch is its longest row times its rows. A batch also ends where the next row is much shorter than the first, once
# it is large enough to keep the machine busy: padding is work like any other.


@dataclass
class EmbeddingItem:
    """A document in the pipeline, with the number and the place of every document that has the same content."""

    document: Document
    key: str
    kind: str
    length: float
    wanted: list[tuple[int, Place | None]] = field(default_factory=list)


# A batch of at least this share of the budget takes no row shorter than this share of its longest one.
_BUSY, _NEAR = 1 / 8, 0.85


def size_in_memory(document: Document) -> int:
    """Return the bytes that a document holds before anything is decoded."""
    return sum(part.memory for part in document.parts)


def windows(
    chunks: Iterable[list[tuple[int, EmbeddingItem | ContentError]]],
    fresh: Callable[[int, EmbeddingItem | ContentError], bool],
    *,
    rows: int,
    bytes_: int,
) -> Iterator[list[EmbeddingItem]]:
    """Cut a stream into windows of items that are `fresh`; what is not counts too, so that a window always comes to its end."""
    window: list[EmbeddingItem] = []
    seen = held = 0
    for chunk in chunks:
        for index, item in chunk:
            seen += 1
            if fresh(index, item) and isinstance(item, EmbeddingItem):
                window.append(item)
                held += size_in_memory(item.document)
        if seen >= rows or held >= bytes_:
            yield window
            window, seen, held = [], 0, 0
    yield window


def batches(window: list[EmbeddingItem], *, budget: float, most: int) -> Iterator[list[EmbeddingItem]]:
    """Cut one window into batches, each of one kind."""
    window.sort(key=lambda item: (item.kind, -item.length))
    batch: list[EmbeddingItem] = []
    for item in window:
        # The first row is the longest, so the batch is as wide as that.
        if batch and (item.kind != batch[0].kind or _full(batch, item, budget, most)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _full(batch: list[EmbeddingItem], item: EmbeddingItem, budget: float, most: int) -> bool:
    """Say whether an item is better off in a batch of its own."""
    widest, rows = batch[0].length, len(batch)
    busy = rows * widest >= _BUSY * budget
    return (rows + 1) * widest > budget or rows >= most or (busy and item.length < _NEAR * widest)


# The model's inputs made in threads: each has the processor to itself, because a tokenizer changes its own settings
# while it works.
#
# A batch with a bad row is made without it. Where the processor refuses a batch without saying which row it means,
# its rows are tried alone.


class PreparedBatch(NamedTuple):
    """One batch, ready for the model, and the rows that turned out bad; without features the rows do not go into one batch."""

    items: list[EmbeddingItem]
    features: dict[str, Any]
    failed: list[tuple[EmbeddingItem, ContentError]]


class Front:
    """The steps before the model."""

    def __init__(self, sentence: Any, inputs: Inputs) -> None:
        self._sentence, self._inputs = sentence, inputs
        self._own = threading.local()
        self._lock = threading.Lock()

    def prepare(self, items: list[EmbeddingItem], prompt: str | None, kwargs: dict[str, Any]) -> PreparedBatch:
        """Decode, resize and tokenize one batch."""
        good, shaped, failed = [], [], []
        for item in items:
            try:
                shaped.append(self._inputs(item.document))
                good.append(item)
            except ContentError as error:
                failed.append((item, error))
        if not good:
            return PreparedBatch([], {}, failed)
        try:
            batch, told = self._inputs.for_processor(shaped)
            more = {"processing_kwargs": told} if told else {}  # which not every first module takes
            return PreparedBatch(good, self._copy().preprocess(batch, prompt=prompt, **more, **kwargs), failed)
        except BaseException as error:
            if not (isinstance(error, ValueError | TypeError | RuntimeError | IndexError | KeyError) or is_panic(error)):
                raise
            if len(good) == 1:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                return PreparedBatch(
                    [], {}, [*failed, (good[0], ContentError(f"the model's processor refuses it: {reason}", _place(good[0])))]
                )
        kept = []
        for item in good:
            alone = self.prepare([item], prompt, kwargs)
            kept += alone.items
            failed += alone.failed
        if len(kept) == len(good):
            return PreparedBatch(good, {}, failed)  # each is fine alone and together they are not: no row is to blame
        again = self.prepare(kept, prompt, kwargs)
        return PreparedBatch(again.items, again.features, failed + again.failed)

    def _copy(self) -> Any:
        """Return this thread's own front of the model; the weights are shared."""
        if not hasattr(self._own, "sentence"):
            with self._lock:
                self._own.sentence = _front_of(self._sentence)
        return self._own.sentence


def _front_of(sentence: Any) -> Any:
    """Copy a model as far as its inputs go."""
    first = copy.copy(sentence[0])
    for name in ("processor", "tokenizer"):
        if name in vars(first):
            setattr(first, name, copy.deepcopy(vars(first)[name]))
    if hasattr(first, "input_formatter"):
        first.input_formatter = copy.copy(first.input_formatter)
        first.input_formatter.processor = first.processor
    front = copy.copy(sentence)
    front._modules = {**sentence._modules, next(iter(sentence._modules)): first}
    return front


def _place(item: EmbeddingItem) -> Any:
    return item.document.place
