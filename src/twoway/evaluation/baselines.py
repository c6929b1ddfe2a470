"""Models that cannot know: what a task gives to luck, to words alone and to pixels alone.

A task that one of them solves can be solved without understanding: by a name that stands in both texts, or by a picture that looks like
itself. They are engines like any other and go through the same ranking.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import sha256
from ..images import open_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..content import ContentError, Document
    from .ranking import Side

WIDTH = 1024
_SIDE = 16
_PIECE = 4  # letters of a piece of a word: endings and compounds of other languages still share some


@cache
def _definitions() -> str:
    return sha256(__file__)[:16]


class Baseline:
    """An engine made of one function from a document to a vector; one that says nothing is zero and ties with all like it."""

    def __init__(self, name: str, vector: Callable[[Document], Any]) -> None:
        self.name, self.vector = name, vector

    @property
    def fingerprint(self) -> str:
        """Return a name for the cache; it changes with the definitions in this file."""
        return f"baseline-{self.name}-{_definitions()}"

    @property
    def dimension(self) -> int:
        """Return the length of a vector."""
        return WIDTH

    def embed(
        self, documents: Iterable[Document], *, side: Side | None = None, refuse: Callable[[int, ContentError], None] | None = None
    ) -> Iterator[tuple[int, Any]]:
        """Yield (number of a document, its vector)."""
        del side, refuse  # a baseline has no prompts, and what it cannot open is an error for every model
        for number, document in enumerate(documents):
            found = np.asarray(self.vector(document), np.float32)
            length = float(np.linalg.norm(found))
            yield number, found / length if length else found


def luck(document: Document) -> Any:
    """Return a random vector, always the same for the same content."""
    seed = int(document.fingerprint()[:15], 16)
    return np.random.default_rng(seed).standard_normal(WIDTH)


def words(document: Document) -> Any:
    """Return which words and pieces of words occur in the texts; pictures are not looked at."""
    found = np.zeros(WIDTH)
    for word in re.findall(r"\w+", " ".join(document.texts).casefold()):
        marked = f"<{word}>"
        pieces = {marked} | {marked[start : start + _PIECE] for start in range(max(1, len(marked) - _PIECE + 1))}
        for piece in pieces:
            place = int.from_bytes(hashlib.blake2b(piece.encode(), digest_size=8).digest(), "little")
            found[place % WIDTH] += 1.0 / len(pieces)
    return found


def pixels(document: Document) -> Any:
    """Return the pictures made small, light and colour; texts are not read."""
    found = np.zeros(WIDTH)
    for image in document.images:
        small = open_image(image, place=document.place).convert("RGB").resize((_SIDE, _SIDE))
        values = 1.0 - np.asarray(small, np.float64).reshape(-1) / 255.0  # white, the paper, is nothing
        found[: len(values)] += values
    return found


BASELINES = {"random": Baseline("random", luck), "words": Baseline("words", words), "pixels": Baseline("pixels", pixels)}
