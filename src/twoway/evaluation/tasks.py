"""A task of any suite: queries, candidates, and which candidates are right for which query.

Candidates that have the same content are one candidate. So the right answer cannot tie with its own duplicate, and nothing
is embedded twice. A query either has its own list of candidates (MMEB) or is ranked among all of the task's.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from twoway.content import ContentError
from twoway.files import sha256
from twoway.images import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from twoway.content import Document

    Ints = NDArray[np.int64]

Side = Literal["query", "document"]


@dataclass(frozen=True)
class RankingQuery:
    """One query: its candidates (None: all of the task's) and the right ones among them, as numbers of candidates.

    `doubled`: its right candidate occurs in its list more than once; `without`: candidates of the task that do not count for this query;
    `gains`: how right each right candidate is, where they differ.
    """

    query: Document
    right: Ints
    among: Ints | None = None
    doubled: bool = False
    without: tuple[int, ...] = ()
    gains: tuple[float, ...] = ()


@dataclass(frozen=True)
class RankingTask:
    """A ranking task: the right candidates should come first."""

    name: str
    group: str
    candidates: tuple[Document, ...]
    items: tuple[RankingQuery, ...]
    metric: str = "precision@1"
    sides: tuple[Side | None, Side | None] = (None, None)  # as what queries and candidates are embedded; None: as plain `encode` does
    marks: tuple[str, ...] = ()  # such as in-domain or out-of-domain
    unread: int = 0  # rows of the data that were left out because they could not be read
    official: bool = False  # whether the score as the benchmark's own code counts it stands beside ours
    instructions: tuple[str | None, str | None] = (None, None)  # of queries and candidates, in place of the model's prompts for the sides

    def among(self, item: RankingQuery) -> Ints:
        """Return the candidates that a query is ranked among."""
        listed = np.arange(len(self.candidates)) if item.among is None else item.among
        return listed[~np.isin(listed, item.without)] if item.without else listed

    def sizes(self) -> Ints:
        """Return how many candidates each query is ranked among."""
        return np.array([len(self.candidates if item.among is None else item.among) - len(item.without) for item in self.items])

    def rights(self) -> Ints:
        """Return how many right candidates each query has."""
        return np.array([len(item.right) for item in self.items])

    def subset(self, count: int, *, seed: int = 0) -> RankingTask:
        """Return the task with some of its queries, drawn once for a seed and a name, each among all of its candidates.

        Candidates of no remaining query are dropped, so that they are not embedded.
        """
        if count >= len(self.items):
            return self
        draw = np.random.default_rng([seed, *self.name.encode()])
        chosen = np.sort(draw.permutation(len(self.items))[:count])
        items = [self.items[place] for place in chosen]
        lists = [item.among for item in items if item.among is not None]
        if len(lists) < len(items):
            return replace(self, items=tuple(items))
        used = np.unique(np.concatenate(lists))
        numbered = [
            replace(item, right=np.searchsorted(used, item.right), among=np.searchsorted(used, item.among))
            for item in items
            if item.among is not None
        ]
        return replace(self, candidates=tuple(self.candidates[int(place)] for place in used), items=tuple(numbered))


@dataclass
class Pool:
    """The candidates of a task in order of appearance, each content once."""

    documents: list[Document] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def add(self, document: Document) -> int:
        """Return the number of a candidate, a new one if its content is new."""
        key = document.fingerprint()
        if key not in self._places:
            self._places[key] = len(self.documents)
            self.documents.append(document)
        return self._places[key]

    def place(self, key: str) -> int | None:
        """Return the number of the candidate of a content, where there is one."""
        return self._places.get(key)


def listed(query: Document, candidates: Sequence[int]) -> RankingQuery:
    """Return the item of a query whose first candidate is the right one; doubles, of the right one too, count once."""
    right, *rest = candidates
    among = np.array(list(dict.fromkeys(candidates)), dtype=np.int64)
    if len(among) < 2:
        raise ContentError("there is nothing to choose from: the query has no candidate besides the right one", query.place)
    return RankingQuery(query, np.array([right]), among, doubled=right in rest)


# Trivial baselines: what a task gives to random vectors, to words alone and to pixels alone.
#
# A task that one of them solves can be solved without understanding: by a name that is in both texts, or by a picture
# that looks the same. They are engines like any other and go through the same ranking.

WIDTH = 1024
_SIDE = 16
_PIECE = 4  # letters of a piece of a word: endings and compounds of other languages still share some


@cache
def _definitions() -> str:
    return sha256(__file__)[:16]


class Baseline:
    """An engine made of one function from a document to a vector; a zero vector ties with all others like it."""

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


def text_pieces(document: Document) -> Any:
    """Return which words and pieces of words occur in the texts; pictures are ignored."""
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
    for part in document.media:
        small = part.preview(document.place, DEFAULT).convert("RGB").resize((_SIDE, _SIDE))
        values = 1.0 - np.asarray(small, np.float64).reshape(-1) / 255.0  # white, the paper, is nothing
        found[: len(values)] += values
    return found


BASELINES = {"random": Baseline("random", luck), "words": Baseline("words", text_pieces), "pixels": Baseline("pixels", pixels)}
