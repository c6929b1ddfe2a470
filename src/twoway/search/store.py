"""The protocol of an index (`Store`), whatever engine holds the vectors, and what all engines share.

This is an extension point. A new engine is one file beside `lance.py` and `milvus.py`: a class with the methods of `Store` and the class
methods `open`, `create` and `exists`, and its kind of location in `query.py::find_engine`. The tests of `tests/search/test_store.py` hold
for every engine. An index remembers the model of its vectors, so that no query of another model is ever compared with them.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from twoway.content import escaped
from twoway.errors import SlowError, TwowayError, UsageError, is_panic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from twoway.embedding.explain import Why, WhyInTime

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Item:
    """One thing that can be found, with what a reader is shown of it."""

    id: str
    vector: NDArray[np.float32] | None = field(default=None, compare=False)  # of length 1, or a matrix of such; a hit comes without
    text: str = ""  # all texts, one below the other
    thumbnail: bytes | None = field(default=None, repr=False)  # a small WebP, its longest side at most 320
    place: str = ""  # file and row or page, for a reader
    metadata: Mapping[str, Value] = field(default_factory=dict)
    media: str = ""  # `Recording.address` of the video or sound that it is; only what has read the data names one


@dataclass(frozen=True)
class Hit:
    """An item that was found, and its cosine to the query (of many vectors MaxSim; of words alone: how well they fit, on its own scale).

    Where many vectors were compared in steps, `place_before_maxsim` is the place by the mean of its vectors, from 1. Where hits were
    reranked, `relevance` is the reranker's score, `place_before` the place in the order of vectors, and `by_thumbnail` says that the
    reranker read the small picture in place of what the item is. `why` says what in it was found (`--why`), or `why_not`
    the reason that nothing is said.
    """

    item: Item
    score: float
    relevance: float | None = None
    place_before: int | None = None
    place_before_maxsim: int | None = None
    by_thumbnail: bool = False
    why: Why | WhyInTime | None = field(default=None, compare=False)
    why_not: str | None = field(default=None, compare=False)

    def steps(self) -> dict[str, float | None]:
        """Return what the steps of a search say of it, for JSON; nothing where there was one step."""
        found: dict[str, float | None] = {} if self.place_before_maxsim is None else {"place_before_maxsim": self.place_before_maxsim}
        found |= {} if self.place_before is None else {"relevance": self.relevance, "place_before": self.place_before}
        return found | ({"by_thumbnail": True} if self.by_thumbnail else {})


@dataclass(frozen=True)
class IndexInfo:
    """What an index remembers of the vectors in it."""

    model: str  # folder or hub id
    fingerprint: str  # of `Embedder.fingerprint`
    dimension: int  # of the stored vectors; a query's is cut to it
    many: bool = False  # an item has many vectors, and a query too (late interaction)


class Store(Protocol):
    """An open index. Every call is whole or fails with a `TwowayError`; calls may come from several threads."""

    location: str
    info: IndexInfo
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

    def count(self, filter: str | None = None) -> int:
        """Count the items, or those that a filter lets through."""

    def search(
        self,
        vector: NDArray[np.float32] | None,
        *,
        top_k: int = 10,
        filter: str | None = None,
        words: str | None = None,
        exact: bool = False,
        maxsim_top: int | None = None,
    ) -> list[Hit]:
        """Return the `top_k` best items, the best first: by vector, by words in their text, or by both together; of neither, any.

        Of many vectors an item, the `maxsim_top` nearest by the mean of their vectors are compared by MaxSim.
        """

    def get(self, name: str) -> Item:
        """Return one item with its vector, or say that there is none."""

    def add_fields(self, fields: Mapping[str, str]) -> None:
        """Make room for metadata of these names and types; an item's own are declared when it is added."""

    def add(self, items: Sequence[Item], *, origin: str = "") -> tuple[int, int]:
        """Add items, each in place of one with its id; return how many are new and how many took another's place."""

    def count_origin(self, origin: str) -> int:
        """Count the items that were added under this `origin` and stand as they were then."""

    def delete(self, names: Sequence[str]) -> int:
        """Take items out and return how many there were."""

    def build_indexes(self, *, exact_below: int, kind: str = "hnsw") -> None:
        """Bring what makes searching fast up to date: the index of words and, from a size on, one of the vectors."""

    def index_settings(self) -> Mapping[str, Value]:
        """Say which index of the vectors stands; nothing where search is exact."""

    def set_effort(self, effort: int) -> None:
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


def on_server(location: str) -> bool:
    """Say whether an index is a collection of a Milvus server; files and folders may be called milvus, too."""
    return location.startswith(("milvus://", "milvus+https://"))


def check_id(name: str, place: str = "") -> None:
    """Refuse ids that nobody could ask for: an address in which `.` or `..` stands alone is another address."""
    if name in (".", ".."):
        raise UsageError(f"{place + ': ' if place else ''}an item has the id {name!r}, which no address can have; give it another")


def check_items(items: Sequence[Item], dimension: int, *, many: bool = False) -> None:
    """Refuse items that an index cannot hold."""
    seen: set[str] = set()
    for one in items:
        if not one.id or one.id in seen:
            raise UsageError(f"two items have the id {one.id!r}; each needs its own" if one.id else "an item has an empty id")
        check_id(one.id)
        seen.add(one.id)
        if one.vector is None or not _fits(one.vector, dimension, many=many):
            has = "no vector" if one.vector is None else f"a vector of {'x'.join(str(size) for size in np.shape(one.vector))} numbers"
            raise UsageError(f"item {one.id!r} has {has}, and the index holds {'many ' if many else ''}vectors of {dimension}")
        if not np.isfinite(one.vector).all():
            raise TwowayError(f"the vector of item {one.id!r} has numbers that are not finite")


def check_query(store: Store, vector: NDArray[np.float32] | None, top_k: int, maxsim_top: int | None = None) -> None:
    """Refuse a query that an index cannot answer."""
    if top_k < 1:
        raise UsageError(f"top_k is 1 or more, not {top_k}")
    if maxsim_top is not None and maxsim_top < 1:
        raise UsageError(f"maxsim_top is 1 or more, not {maxsim_top}")
    if maxsim_top is not None and not store.info.many:
        raise UsageError(f"maxsim_top is for many vectors an item, and {store.location} holds one of each; leave it out")
    if vector is not None and not _fits(vector, store.dimension, many=store.info.many):
        has = "x".join(str(size) for size in np.shape(vector))
        kind = "many vectors of an item" if store.info.many else "vectors"
        raise UsageError(f"the query has {has} numbers, and the {kind} in {store.location} have {store.dimension}")


def _fits(vector: NDArray[np.float32], dimension: int, *, many: bool) -> bool:
    """Say whether this is a vector of that length, or a matrix of such."""
    shape = np.shape(vector)
    return len(shape) == 2 and shape[0] > 0 and shape[1] == dimension if many else shape == (dimension,)


def search_near_item(
    store: Store, one: Item, *, top_k: int, filter: str | None = None, exact: bool = False, maxsim_top: int | None = None
) -> list[Hit]:
    """Return the `top_k` best items for an item's own vector, itself left out."""
    check_query(store, one.vector, top_k)
    found = store.search(one.vector, top_k=top_k + 1, filter=filter, exact=exact, maxsim_top=maxsim_top)
    return [hit for hit in found if hit.item.id != one.id][:top_k]


def normalized(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector, or each row of a matrix, at length 1."""
    values = np.asarray(vector, np.float32)
    found: NDArray[np.float32] = values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), np.float32(1e-12))
    return found


# The columns that a filter may name: their names, their types, and the values that go into them.
#
# Metadata is what the rows of the data had beside their content, of any shape. A field has one type in an index:
# whole numbers and others together are numbers, anything else together is text, and what is nested is kept as JSON
# text.

# What an item has by itself; the first three may be asked for in a filter too.
FILTERABLE = {"id": "string", "text": "string", "place": "string"}
# `vector_mean` is that of many vectors; `sparse` has the words of a text, where an engine keeps them so.
RESERVED = (*FILTERABLE, "thumbnail", "media", "origin", "vector", "vector_mean", "sparse")
_LONGEST_NAME = 120


def field_name(key: str) -> str:
    """Return the name of a metadata column: engines take no dots and quotes, and an item's own columns are taken."""
    name = re.sub(r"[^\w -]", "_", key).strip()[:_LONGEST_NAME] or "_"
    return f"meta_{name}" if name in RESERVED or name.startswith(("_", "$")) else name


def field_type(value: object) -> str | None:
    """Return the type of a value; of nothing there is none."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if abs(value) < 1 << 63 else "string"
    return "number" if isinstance(value, float) else "string"


def common_type(one: str | None, other: str | None) -> str | None:
    """Return the type that holds values of both."""
    if one is None or other is None or one == other:
        return one or other
    return "number" if {one, other} == {"integer", "number"} else "string"


def field_types(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return names and types of all columns that these rows need."""
    found: dict[str, str | None] = {}
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for row in rows:
        for key, value in row.items():
            if key not in names:
                name = names[key] = field_name(key)
                if taken.setdefault(name, key) != key:
                    raise UsageError(f"the metadata {taken[name]!r} and {key!r} would both be the field {name!r}; rename one of them")
            found[names[key]] = common_type(found.get(names[key]), field_type(value))
    return {name: kind for name, kind in found.items() if kind is not None}


def missing_fields(wanted: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that an index has yet to get; values that no field of it can hold are refused."""
    for name, kind in wanted.items():
        had = there.get(name)
        if had is not None and common_type(had, kind) != had and had != "string":
            raise UsageError(
                f"the field {name!r} is of the type {had} in the index, and {kind} in what is to be added; rename it in the data"
            )
    return {name: kind for name, kind in wanted.items() if name not in there}


def to_field_type(value: Any, kind: str) -> Value:
    """Return a value as a field of this type holds it; a number that is none, or without end, is no value: JSON has no sign for it."""
    if value is None or (kind == "number" and not math.isfinite(value)):
        return None
    if kind == "number":
        return float(value)
    if kind == "string":
        return escaped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    return value  # type: ignore[no-any-return]


# What an engine says when it fails, in one line that a user can act on.

_FULL = re.compile(r"no space left|os error 28\b|os error 122\b|disk quota|file too large|os error 27\b", re.IGNORECASE)
_FORBIDDEN = re.compile(r"permission denied|read-only file system|os error 13\b|os error 30\b", re.IGNORECASE)
_CODE = re.compile(r",?\s*/\S+\.(?:rs|py):\d+(?::\d+)?")  # where in an engine's own code
_SLOW = re.compile(r"query timeout|deadline|timed? ?out", re.IGNORECASE)
_FILTER = re.compile(r"error parsing|sql parser|error during planning|cannot parse expression", re.IGNORECASE)
_MISSING = re.compile(r"not found|no such file", re.IGNORECASE)
_LONGEST_LINE = 300


def is_slow(error: Exception) -> bool:
    """Say whether an engine has stopped because its time was over."""
    return _SLOW.search(str(error)) is not None


@contextmanager
def engine_errors(location: str, doing: str) -> Iterator[None]:
    """Turn anything that an engine raises into one line; our own errors and an interrupt pass."""
    try:
        yield
    except (TwowayError, MemoryError):
        raise
    except BaseException as error:
        # Engines written in Rust raise panics that are no Exception; an interrupt and its like pass.
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise _error(location, doing, f"{type(error).__name__}: {error}") from error


def _error(location: str, doing: str, said: str) -> TwowayError:
    """Return what a user is told."""
    first = " ".join(_CODE.sub("", said).split())[:_LONGEST_LINE]
    if _FULL.search(said):
        return TwowayError(
            f"no space left on the disk while {doing} {location}; what it held before is whole; free some space and run the same again"
        )
    if _FORBIDDEN.search(said):
        return TwowayError(f"no permission while {doing} {location}; it needs to be readable, and writable to change it")
    if _SLOW.search(said):
        return SlowError(f"{location} did not answer in the time that {doing} may take; ask for less at a time, or later")
    if _FILTER.search(said):
        return UsageError(f"{location} does not take this filter, which is more than its engine reads; write it in a simpler way ({first})")
    here = not on_server(location)
    if here and not Path(location).exists():
        return TwowayError(f"{location} no longer exists; restore it, or open it at its new location")
    # An engine fails for many reasons; that it is damaged is said where its own files say so.
    if here and (doing == "opening" or _MISSING.search(said) or first_damaged(Path(location))):
        way = "restore it, or build it anew with 'twoway index … --overwrite'"
        return TwowayError(f"{location} fails while {doing} it, so it may be damaged; {way} ({first})")
    return TwowayError(f"{location} fails while {doing} it, and its files look whole; try again ({first})")


# Whether what a write has left in a LanceDB table is whole, and whether an index that fails is damaged.
#
# Lance takes a write for done whose last bytes a full disk has cut off, and the version made of it cannot be read,
# with nothing of what was there before. Each of its files has a mark at its end, so the files that a write has made
# are looked at before the write counts.

_ENDS = {".lance": b"LANC", ".idx": b"LANC", ".arrow": b"ARROW1"}
_OTHERS = {".manifest": b"LANC", ".parquet": b"PAR1", ".json": b"}"}  # of versions, and of Milvus Lite
_PARTS = ("data", "_indices", "_deletions")


def table_files(folder: Path) -> set[Path]:
    """Return the files of a table."""
    return {path for part in _PARTS for path in (folder / part).rglob("*") if path.suffix in _ENDS}


def truncated_files(made: set[Path]) -> list[Path]:
    """Return which of these files have no end."""
    return [path for path in made if not _ended(path)]


def first_damaged(folder: Path) -> Path | None:
    """Return a file of an index that has not the end that its kind has; nothing where all have it."""
    known = _ENDS | _OTHERS
    if folder.suffix == ".db":
        known = {kind: mark for kind, mark in known.items() if kind != ".idx"}  # Milvus Lite's are arrays, without a mark
    return next((path for path in sorted(folder.rglob("*")) if path.suffix in known and path.is_file() and not _ended(path)), None)


def _ended(path: Path) -> bool:
    mark = (_ENDS | _OTHERS)[path.suffix]
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(mark)))
        return file.read() == mark
