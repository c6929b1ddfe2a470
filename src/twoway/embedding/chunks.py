"""Long documents in chunks, a vector each: embedded alone, or late, from the states of the whole document.

A text is cut into pieces of so many tokens; a document with pictures, such as a page, is one chunk. Late chunking (arXiv 2409.04701) runs
all pieces of a text, or the pages of a PDF, through the model at once and pools the states of each piece's own tokens, so that its vector
has read its neighbours: those before it in a causal model, all of them in a two-way one.

A chunk knows the whole that it belongs to, so a run that resumes in the middle of a document gives the vectors that it would have given.
"""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from twoway.content import ContentError, Document, Text
from twoway.data.collators import model_inputs
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder, Example
from twoway.errors import TwowayError, UsageError

from .embedder import Embedder, finite, in_eval_mode
from .prefetch import ahead
from .shards import cut
from .writing import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from .bulk import RowSource
    from .embedder import Refuse
    from .inputs import Lengths

BESIDE = 64  # tokens of a row that are left to template and prompt
_HELD = 256  # pages of one file that are looked at together, so that no book is held in memory
_ENDS = ("\n", ". ", "? ", "! ", "。", " ")  # where a text is cut, the best first


@dataclass(frozen=True)
class Chunk(Document):
    """A piece of a document, or a page; `whole` has all pieces that are read together, this one among them."""

    whole: tuple[Document, ...] = field(default=(), compare=False)
    number: int = field(default=0, compare=False)


class ChunkedRows:
    """The chunks of a source's rows, in their order."""

    def __init__(self, source: RowSource, engine: Embedder, *, size: int | None, late: bool) -> None:
        self.source, self.engine, self.size, self.late = source, engine, size, late
        self.room = (engine.lengths.longest or 1 << 20) - BESIDE
        if self.room < 1 or (size is not None and size > self.room):
            raise UsageError(
                f"chunks of {size} tokens do not fit into the model's rows of {self.room + BESIDE}; the template needs some too"
            )

    def rows(self, skip: int) -> Iterator[Document | ContentError]:
        """Yield every chunk from one on; the rows before it are read again, and embedded only where a whole needs them."""
        return (row for number, row in enumerate(self._rows()) if number >= skip)

    def identity(self) -> dict[str, Any]:
        """Return what changes when the chunks do."""
        return self.source.identity() | {"chunks": self.size, "late": self.late}

    def count(self) -> int | None:
        """Chunks are not known before they are made."""
        return None

    def _rows(self) -> Iterator[Document | ContentError]:
        """Read rows, and let pages of one file follow each other in a whole."""
        held: list[Document] = []
        for row in self.source.rows(0):
            if isinstance(row, ContentError):
                yield from self._wholes(held)
                held = []
                yield row
                continue
            if held and not (self.late and _same_file(held[-1], row)):
                yield from self._wholes(held)
                held = []
            held += self._pieces(row)
            if len(held) > _HELD:
                yield from self._wholes(held)
                held = []
        yield from self._wholes(held)

    def _pieces(self, row: Document) -> list[Document]:
        """Cut a row's text into pieces; a row with pictures stays as it is."""
        if self.size is None or row.media:
            return [row]
        text = "".join(row.texts)
        spans = cut_text(text, self.size, self.engine.lengths)
        if len(spans) < 2:
            return [row]
        name = name_of(row)
        return [
            replace(
                row,
                parts=(Text(text[start:end]),),
                meta={**row.meta, "chunk": number, "characters": [start, end]} | ({"id": f"{name}#{number}"} if name is not None else {}),
            )
            for number, (start, end) in enumerate(spans, 1)
        ]

    def _wholes(self, pieces: Sequence[Document]) -> Iterator[Document]:
        """Yield the pieces, each with as many of the others as a row of the model holds."""
        if not self.late:
            yield from pieces
            return
        whole: list[Document] = []
        held = 0.0
        for piece, length in zip(pieces, map(self._length, pieces), strict=True):
            if whole and held + length > self.room:
                yield from _together(whole)
                whole, held = [], 0.0
            whole.append(piece)
            held += length
        yield from _together(whole)

    def _length(self, piece: Document) -> float:
        """Return about how many tokens a piece has."""
        lengths = self.engine.lengths
        ((words, _),) = lengths.words(["".join(piece.texts)])
        try:
            return words + lengths.media(piece, self.engine.settings.limits)
        except ContentError:
            return 0.0  # it is refused where it is embedded


def _same_file(one: Document, other: Document) -> bool:
    """Say whether two rows are pages of one file."""
    first, second = one.place, other.place
    return first is not None and second is not None and first.unit == second.unit == "page" and first.file == second.file


def _together(pieces: Sequence[Document]) -> Iterator[Chunk]:
    whole = tuple(pieces)
    return (Chunk(piece.parts, piece.place, piece.meta, whole, number) for number, piece in enumerate(whole))


def cut_text(text: str, size: int, lengths: Lengths) -> list[tuple[int, int]]:
    """Return where the pieces of a text begin and end: `size` tokens at most, and if possible whole lines, sentences or words."""
    if lengths.backend is None:
        raise UsageError("this model has no tokenizer that says where its tokens stand; leave chunks out")
    offsets = lengths.backend.encode(text, add_special_tokens=False).offsets
    spans, start, first = [], 0, 0
    while first < len(offsets):
        behind = first + size
        if behind >= len(offsets):
            spans.append((start, len(text)))
            break
        end = _end(text, offsets[first + 3 * size // 4][0], offsets[behind][0])
        if end <= start:  # one character is more tokens than that, as where a tokenizer writes it out
            end = next((begin for begin, _ in offsets[behind:] if begin > start), len(text))
        spans.append((start, end))
        start = end
        while first < len(offsets) and offsets[first][0] < end:
            first += 1
    return [span for span in spans if text[slice(*span)].strip()] if text.strip() else [(0, len(text))]


def _end(text: str, least: int, most: int) -> int:
    """Return the best place to cut between two places."""
    for mark in _ENDS:
        found = text.rfind(mark, least, most)
        if found >= 0:
            return found + len(mark)
    return most


class Prepared(NamedTuple):
    """Pieces that are read together, and the chunks among them whose vectors are wanted, with their index."""

    group: list[tuple[int, Chunk]]
    example: Example | ContentError
    numbers: list[int]


class LateEmbedder(Embedder):
    """An embedder of chunks: each whole goes through the model once, and a chunk's vector is pooled from the states of its own tokens."""

    def __init__(self, engine: Embedder) -> None:
        vars(self).update(vars(engine))
        first: Any = self.sentence[0]
        processor: Any = getattr(first, "processor", None)
        config: Any = getattr(getattr(first, "auto_model", None), "config", None)
        kinds = [index for index, module in enumerate(self.sentence) if isinstance(module, Pooling)]
        mode = str(self.sentence[kinds[0]].pooling_mode) if kinds else ""
        if getattr(processor, "image_token", None) is None or config is None or mode not in ("mean", "lasttoken"):
            raise UsageError(
                f"late chunking needs a vision-language model with pooling mean, last or eos, and {self.name or 'this model'} is none; "
                "leave late out, and each chunk is embedded alone"
            )
        self.last, self.behind = mode == "lasttoken", list(self.sentence)[kinds[0] + 1 :]
        processor = copy.deepcopy(processor)  # one that works changes its own settings
        self.pad, self.side = processor.tokenizer.pad_token_id or 0, processor.tokenizer.padding_side
        longest = self.lengths.longest or 1 << 20
        self.encode = Encoder(processor, PatchGeometry.of(config, processor), max_length=longest, limits=self.settings.limits)

    def pass_over(
        self, documents: Iterable[Document], prompt: str | None, kwargs: dict[str, Any], dim: int | None, refuse: Refuse | None
    ) -> Iterator[tuple[int, Any]]:
        """See `Embedder`; a document that is no `Chunk` is a whole of its own."""
        del kwargs  # the side has given the prompt already
        numbered = ((index, _as_chunk(document)) for index, document in enumerate(documents))
        wholes = (list(group) for _, group in groupby(numbered, key=lambda pair: id(pair[1].whole)))

        def prepare(group: list[tuple[int, Chunk]]) -> list[Prepared]:
            return self._prepare(group, list(range(len(group[0][1].whole))), prompt or "")

        with ThreadPoolExecutor(1, thread_name_prefix="embed") as pool:  # one: it is the only one with the processor
            for prepared in ahead(wholes, prepare, pool=pool, waiting=2):
                for group, example, numbers in prepared:
                    if not group:
                        continue
                    if isinstance(example, ContentError):
                        yield from self._refuse(group, example, refuse)
                        continue
                    vectors = cut(self._pool(example, len(numbers)), dim, normal=self.normal)
                    if not finite(vectors).all():
                        raise TwowayError(f"{group[0][1].place}: the model gives numbers that are not finite; try another dtype")
                    yield from ((index, vectors[numbers.index(chunk.number)]) for index, chunk in group)

    def _prepare(self, group: list[tuple[int, Chunk]], numbers: list[int], prompt: str) -> list[Prepared]:
        """Encode these pieces of a whole; a bad one is read apart, and what is longer than a row after all in halves."""
        whole = group[0][1].whole
        example = self._encoded(whole, numbers, prompt)
        if len(numbers) == 1 or (isinstance(example, Example) and not example.cut):
            return [Prepared([pair for pair in group if pair[1].number in numbers], example, numbers)]
        bad = []
        if isinstance(example, ContentError):
            bad = [number for number in numbers if isinstance(self._encoded(whole, [number], prompt), ContentError)]
        good, middle = [number for number in numbers if number not in bad], len(numbers) // 2
        parts = [[number] for number in bad] + [good] if 0 < len(bad) < len(numbers) else [numbers[:middle], numbers[middle:]]
        return [prepared for part in parts for prepared in self._prepare(group, part, prompt)]

    def _encoded(self, whole: tuple[Document, ...], numbers: list[int], prompt: str) -> Example | ContentError:
        """Return pieces as one row, with the number of the piece for each token."""
        parts = [(place, part) for place, number in enumerate(numbers) for part in whole[number].parts]
        try:
            example = self.encode("", Document(tuple(part for _, part in parts), whole[numbers[0]].place), prompt)
        except ContentError as error:
            return error
        assert example.parts is not None
        owners = torch.tensor([place for place, _ in parts])
        return replace(example, parts=torch.where(example.parts < 0, -1, owners[example.parts.clamp(min=0)]))

    def _pool(self, example: Example, count: int) -> NDArray[np.float32]:
        """Run the model over a whole, and pool the states of each chunk."""
        device = self.device
        inputs = model_inputs([example.inputs], pad_token=self.pad, padding_side=self.side)
        with in_eval_mode(self.sentence), torch.inference_mode():
            out = self.sentence[0]({name: value.to(device) for name, value in inputs.items()})
            states, owners = out["token_embeddings"][0], example.parts
            assert owners is not None
            pooled = []
            for number in range(count):
                places = (owners == number).nonzero().flatten().to(device)
                if not len(places):  # its only token began in the piece before
                    places = (owners == number - 1).nonzero().flatten()[-1:].to(device)
                pooled.append(states[places[-1]] if self.last else states[places].mean(0))
            features = {"sentence_embedding": torch.stack(pooled)}
            for module in self.behind:
                features = module(features)
            found = features["sentence_embedding"]
            return np.asarray(found[:, : self.sentence.truncate_dim or found.shape[1]].float().cpu().numpy(), np.float32)

    def _refuse(self, group: list[tuple[int, Chunk]], error: ContentError, refuse: Refuse | None) -> Iterator[tuple[int, None]]:
        for index, chunk in group:
            found = ContentError(error.reason, chunk.place)
            if refuse is None:
                raise found
            refuse(index, found)
            yield index, None


def _as_chunk(document: Document) -> Chunk:
    return document if isinstance(document, Chunk) else next(_together([document]))
