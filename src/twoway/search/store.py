"""What an index of vectors is, whatever engine holds it: items, hits, and the few things that are asked of it.

`open_store` names the engine by the look of the location: a folder is LanceDB, `milvus://host:port/collection` a Milvus server, and a file
that ends in `.db` Milvus Lite. An index remembers the model of its vectors, so that no query of another model is ever compared with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import TwowayError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Item:
    """One thing that can be found, with what a reader is shown of it."""

    id: str
    vector: NDArray[np.float32] | None = field(default=None, compare=False)  # of length 1; a hit comes without
    text: str = ""  # all texts, one below the other
    thumbnail: bytes | None = field(default=None, repr=False)  # a small WebP, its longest side at most 320
    place: str = ""  # file and row or page, for a reader
    metadata: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Hit:
    """An item that was found, and its cosine to the query (of words alone: how well they fit, on the engine's own scale)."""

    item: Item
    score: float


@dataclass(frozen=True)
class About:
    """What an index remembers of the vectors in it."""

    model: str  # folder or hub id
    fingerprint: str  # of `Embedder.fingerprint`
    dimension: int  # of the stored vectors; a query's is cut to it


class Store(Protocol):
    """An open index. Every call is whole or fails with a `TwowayError`; calls may come from several threads."""

    location: str
    about: About
    seconds: float | None  # that one question may take; past it the engine gives up and its thread is free (None: as long as it takes)

    @property
    def model(self) -> str:
        """Folder or hub id of the model that made the vectors."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of that model."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    @property
    def fields(self) -> Mapping[str, str]:
        """What a filter may name, and its type: string, integer, number or boolean."""

    def count(self, where: str | None = None) -> int:
        """Count the items, or those that a filter lets through."""

    def search(
        self, vector: NDArray[np.float32] | None, *, k: int = 10, where: str | None = None, words: str | None = None, exact: bool = False
    ) -> list[Hit]:
        """Return the `k` best items, the best first: by vector, by words in their text, or by both together; of neither, any `k`."""

    def get(self, name: str) -> Item:
        """Return one item with its vector, or say that there is none."""

    def declare(self, fields: Mapping[str, str]) -> None:
        """Make room for metadata of these names and types; an item's own are declared when it is added."""

    def add(self, items: Sequence[Item], *, origin: str = "") -> tuple[int, int]:
        """Add items, each in place of one with its id; return how many are new and how many took another's place."""

    def held(self, origin: str) -> int:
        """Count the items that were added under this `origin` and stand as they were then."""

    def delete(self, names: Sequence[str]) -> int:
        """Take items out and return how many there were."""

    def arrange(self, *, exact_below: int, kind: str = "hnsw") -> None:
        """Bring what makes searching fast up to date: the index of words and, from a size on, one of the vectors."""

    def arranged(self) -> Mapping[str, Value]:
        """Say which index of the vectors stands; nothing where search is exact."""

    def tune(self, effort: int) -> None:
        """Set how hard an index of the vectors looks (1 is the engine's own measure), for every search from now on."""

    def compact(self) -> None:
        """Give back the space of what was replaced and deleted; a reader of another process may have to try again."""

    def vectors(self) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Go through all ids and vectors, block by block."""

    def writing(self) -> AbstractContextManager[None]:
        """Hold the index against other writers for several calls; each call that writes holds it by itself."""

    def publish(self) -> None:
        """Put an index that was made with `overwrite` in the place of the one there, in one step; of any other there is nothing to do."""

    def close(self) -> None:
        """Let go of what is open; what was made with `overwrite` and not published is taken away."""


def check_id(name: str, place: str = "") -> None:
    """Refuse ids that nobody could ask for: an address in which `.` or `..` stands alone is another address."""
    if name in (".", ".."):
        raise UsageError(f"{place + ': ' if place else ''}an item has the id {name!r}, which no address can have; give it another")


def checked(items: Sequence[Item], dimension: int) -> None:
    """Refuse items that an index cannot hold."""
    seen: set[str] = set()
    for one in items:
        if not one.id or one.id in seen:
            raise UsageError(f"two items have the id {one.id!r}; each needs its own" if one.id else "an item has an empty id")
        check_id(one.id)
        seen.add(one.id)
        if one.vector is None or np.shape(one.vector) != (dimension,):
            has = "no vector" if one.vector is None else f"a vector of {'x'.join(str(size) for size in np.shape(one.vector))} numbers"
            raise UsageError(f"item {one.id!r} has {has}, and the index holds vectors of {dimension}")
        if not np.isfinite(one.vector).all():
            raise TwowayError(f"the vector of item {one.id!r} has numbers that are not finite")


def check_query(store: Store, vector: NDArray[np.float32] | None, k: int) -> None:
    """Refuse a query that an index cannot answer."""
    if k < 1:
        raise UsageError(f"k is 1 or more, not {k}")
    if vector is not None and np.shape(vector) != (store.dimension,):
        has = "x".join(str(size) for size in np.shape(vector))
        raise UsageError(f"the query has {has} numbers, and the vectors in {store.location} have {store.dimension}")


def near(store: Store, one: Item, *, k: int, where: str | None = None, exact: bool = False) -> list[Hit]:
    """Return the `k` best items for an item's own vector, itself left out."""
    check_query(store, one.vector, k)
    found = store.search(one.vector, k=k + 1, where=where, exact=exact)
    return [hit for hit in found if hit.item.id != one.id][:k]


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector, or each row of a matrix, at length 1."""
    values = np.asarray(vector, np.float32)
    found: NDArray[np.float32] = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), np.float32(1e-12))
    return found
