"""Documents in, vectors out: the vectors of `SentenceTransformer.encode`, with the work around the model done ahead of it.

Three steps, each a few results ahead of the next: look (hash, size, tokens: no pixel decoded), prepare (decode, resize, tokenize one
batch), embed. Content that was seen is not embedded again. The batches differ from those of `encode`, and with them the last bits.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers.sentence_transformer.modules import Normalize

from ..data.pair_rows import documents_of
from ..errors import TwowayError, UsageError
from ..images import DEFAULT, Limits
from .fingerprint import fingerprint
from .inputs import Inputs
from .lengths import Lengths
from .one_pass import Pass
from .prepare import Front
from .prompts import prompt_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..data.pair_rows import Content
    from .one_pass import Refuse, Vector
    from .prompts import Side


@dataclass(frozen=True)
class Settings:
    """How the engine works; none of it changes a vector beyond its last bits."""

    budget: int = 8192  # tokens of a batch, padding included
    most: int = 256  # rows of a batch
    window: int = 1024  # rows that are sorted together
    window_bytes: int = 256 << 20
    workers: int | None = None  # threads ahead of the model; 0 does all in turn
    remember: int = 64 << 20  # bytes of vectors kept for content that comes again
    limits: Limits = DEFAULT

    def threads(self) -> int:
        """Return the number of threads ahead of the model."""
        return min(8, max(1, (os.cpu_count() or 1) - 1)) if self.workers is None else self.workers


class Embedder:
    """A model that gives vectors."""

    def __init__(self, sentence: Any, *, name: str = "", settings: Settings | None = None) -> None:
        self.sentence, self.name, self.settings = sentence, name, settings or Settings()
        self.read_as: dict[str, str] = {}  # how it attends, and what was decided because the checkpoint does not say it
        first = sentence[0]
        self.inputs = Inputs(sentence, self.settings.limits)
        self.front = Front(sentence, self.inputs)
        self.lengths = Lengths(getattr(first, "processor", None) or getattr(first, "tokenizer", None), sentence.max_seq_length)
        self.normal = any(isinstance(module, Normalize) for module in sentence)

    @classmethod
    def of(cls, sentence: Any, *, name: str = "", **settings: Any) -> Embedder:
        """Wrap a model in memory, one in training included: it is put into evaluation while vectors are made, and back after."""
        return cls(sentence, name=name, settings=Settings(**settings))

    @property
    def fingerprint(self) -> str:
        """Return a hash of all that decides the vectors; it is taken anew each time, because a model in training changes."""
        return fingerprint(self.sentence)

    @property
    def dimension(self) -> int:
        """Return the length of a vector."""
        width = self.sentence.truncate_dim or self.sentence.get_embedding_dimension()
        if width is None:
            raise TwowayError(f"{self.name or 'the model'} does not say how long its vectors are")
        return int(width)

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return torch.device(self.sentence.device)

    def close(self) -> None:
        """Let go of what else is at work for it: nothing here (`many`)."""

    def check(self, *, side: Side | None, instruction: str | None, prompt_name: str | None, dim: int | None) -> str | None:
        """Refuse options of `embed` that cannot be; return the prompt."""
        if dim is not None and not 0 < dim <= self.dimension:
            raise UsageError(f"--dim {dim} is out of range: this model's vectors have 1 to {self.dimension} numbers")
        return prompt_of(self.sentence, side=side, instruction=instruction, prompt_name=prompt_name)

    def array(self, documents: Iterable[Content], **kwargs: Any) -> Vector:
        """Return the vectors of documents as rows of a matrix, in order; documents and options are those of `embed`."""
        rows = [vector for _, vector in self.embed(documents, ordered=True, **kwargs)]
        return np.stack(rows) if rows else np.zeros((0, kwargs.get("dim") or self.dimension), np.float32)

    def embed(
        self,
        documents: Iterable[Content],
        *,
        side: Side | None = None,
        instruction: str | None = None,
        prompt_name: str | None = None,
        dim: int | None = None,
        ordered: bool = False,
        refuse: Refuse | None = None,
    ) -> Iterator[tuple[int, Vector]]:
        """Yield (number of the document, counted from 0; its vector), as they come or in order.

        Texts, PIL pictures, paths of pictures (`Path`), lists of parts, and objects with the columns of a document are taken as documents.
        `dim` keeps the first numbers of each vector, brought back to length 1 where the model's vectors have it. A document that cannot be
        embedded raises its `ContentError`, or goes to `refuse` and has no vector.
        """
        prompt = self.check(side=side, instruction=instruction, prompt_name=prompt_name, dim=dim)
        run = Pass(self, prompt, {} if side is None else {"task": side}, dim, refuse)
        given = documents_of(documents)
        return _in_order(run.results(given)) if ordered else (pair for pair in run.results(given) if pair[1] is not None)


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
