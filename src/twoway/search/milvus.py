"""An index in Milvus: a server (`milvus://host:port/collection`), or Milvus Lite in a file that ends in `.db`; the same code for both.

Metadata are dynamic fields. What an index remembers (model, fields, how it is arranged) is one row of a small collection beside it, since
not every Milvus keeps notes with a collection. Milvus has no step over several requests: an `add` that is cut off has added some of the
items, each whole, and the same `add` again brings the rest. What takes the place of another index does so in one step (`milvus_memory.py`).
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from ..files import require_room
from .fields import OPEN, fitting, kinds_of
from .filters import parse
from .milvus_client import Place, clear_damaged, connect, connected, release
from .milvus_collection import vector_index
from .milvus_filter import among, expression, literal
from .milvus_memory import Beside, Memory, items_of, known, stands
from .milvus_rows import SHOWN, check_sizes, found, hit_of, item_of, row_of
from .said import engine_errors
from .store import About, check_query, checked, unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from .store import Hit, Item, Value

_NAMES = 500  # ids in one request
_BLOCK = 1000
_REQUEST = 8 << 20  # bytes of a request, about
_MARGIN = 64 << 20  # bytes that have to be free beside a file's own size: Milvus Lite writes it anew, and loses what a full disk cuts off


class MilvusStore:
    """A collection of items; see `Store`."""

    def __init__(self, place: Place, client: Any, memory: Memory) -> None:
        self.location = place.location
        self.seconds: float | None = None
        self.about = About(**memory.now()["about"])
        self._place, self._client, self._memory = place, client, memory
        self._lock = threading.RLock()

    @classmethod
    def open(cls, location: str) -> MilvusStore:
        """Open an index that is there."""
        place = Place.of(location)
        with connected(place, make=False) as client, engine_errors(location, "opening"):
            said = known(client, place)
            if said is None:
                raise UsageError(f"{location} holds no index of twoway's; make one with 'twoway index DIR --db {location}'")
            client.load_collection(items_of(place, said))
            return cls(place, client, Memory(client, place, said))

    @classmethod
    def create(cls, location: str, about: About, *, overwrite: bool = False) -> MilvusStore:
        """Make an empty index; with `overwrite` beside one that is there, whose place it takes by `publish`."""
        place = Place.of(location)
        if place.file is not None:
            require_room(location, _MARGIN)
            if overwrite:
                clear_damaged(place)
        with connected(place, make=True) as client, engine_errors(location, "making"):
            if not stands(client, place):
                return cls(place, client, Memory.first(client, place, about))
            if not overwrite:
                raise UsageError(f"{location}: the collection {place.collection!r} is there already; pass --overwrite to replace it")
            return cls(place, client, Beside.begin(client, place, about))

    @classmethod
    def exists(cls, location: str) -> bool:
        """Say whether there is such a collection."""
        place = Place.of(location)
        if place.file and not place.file.exists():
            return False
        client = connect(place, make=False)
        try:
            with engine_errors(location, "opening"):
                return stands(client, place)
        finally:
            release(place, client)

    model = property(lambda self: self.about.model)
    fingerprint = property(lambda self: self.about.fingerprint)
    dimension = property(lambda self: self.about.dimension)

    @property
    def fields(self) -> Mapping[str, str]:
        """What a filter may name, and its type."""
        with engine_errors(self.location, "reading"):
            return {**OPEN, **self._memory.now()["fields"]}

    def count(self, where: str | None = None) -> int:
        """Count the items, or those that a filter lets through."""
        return self._count(self._condition(where))

    def search(
        self, vector: NDArray[np.float32] | None, *, k: int = 10, where: str | None = None, words: str | None = None, exact: bool = False
    ) -> list[Hit]:
        """Return the best items: by vector, by words, or fused by rank."""
        check_query(self, vector, k)
        condition = self._condition(where)
        arranged = self.arranged()  # which also says whether the vectors are still of the same model
        with engine_errors(self.location, "searching"):
            near = None if vector is None else unit(vector)
            if exact and near is not None and words is None and arranged:
                return self._exact(near, condition, k)
            rows = self._memory.ask(lambda items: found(self._client, items, near, words, condition, k, arranged, self.seconds))
        return [hit_of(row["entity"] | {"id": row["id"]}, near, float(row["distance"])) for row in rows]

    def get(self, name: str) -> Item:
        """Return one item with its vector."""
        with engine_errors(self.location, "reading"):
            asked = {"filter": among([name]), "output_fields": SHOWN, "timeout": self.seconds}
            rows = self._memory.ask(lambda items: self._client.query(items, **asked))
        if not rows:
            raise UsageError(f"{self.location} has no item with the id {name!r}")
        return item_of(rows[0], vector=np.asarray(rows[0]["vector"], np.float32))

    def declare(self, fields: Mapping[str, str]) -> None:
        """Remember the fields that are new."""
        with self.writing(), engine_errors(self.location, "writing"):
            there = self._memory.now(fresh=True)["fields"]
            fresh = fitting(fields, {**OPEN, **there})
            if fresh:
                self._memory.change(fields={**there, **fresh})

    def add(self, items: Sequence[Item], *, origin: str = "") -> tuple[int, int]:
        """Add items, each in place of one with its id."""
        checked(items, self.dimension)
        check_sizes(items)
        with self.writing(), engine_errors(self.location, "writing"):
            self.declare(kinds_of(one.metadata for one in items))
            replaced = self._among([one.id for one in items])
            rows: list[dict[str, Any]] = []
            size = 0
            for one in items:
                rows.append(row_of(one, origin, self.fields))
                size += 4 * self.dimension + len(rows[-1]["text"]) + len(rows[-1]["thumbnail"])
                if size > _REQUEST:
                    self._client.upsert(self._memory.items, rows)
                    rows, size = [], 0
            if rows:
                self._client.upsert(self._memory.items, rows)
        return len(items) - replaced, replaced

    def held(self, origin: str) -> int:
        """Count the items of one origin."""
        return self._count(f"origin == {literal(origin)}")

    def delete(self, names: Sequence[str]) -> int:
        """Take items out."""
        with self.writing(), engine_errors(self.location, "writing"):
            there = self._among(names)
            for start in range(0, len(names), _NAMES):
                self._client.delete(self._memory.items, filter=among(names[start : start + _NAMES]))
        return there

    def arrange(self, *, exact_below: int, kind: str = "hnsw") -> None:
        """Bring the index of the vectors up to date; that of the words keeps itself so."""
        with self.writing(), engine_errors(self.location, "indexing"):
            rows = self._count("")
            wanted = kind if rows >= exact_below else ""
            if wanted != (self.arranged().get("kind") or ""):
                vector_index(self._client, self._memory.items, wanted)
                self._memory.change(arranged={"kind": wanted, "rows": rows, "effort": 1} if wanted else {})

    def arranged(self) -> Mapping[str, Value]:
        """Say which index of the vectors stands."""
        with engine_errors(self.location, "reading"):
            said: Mapping[str, Value] = self._memory.now()["arranged"]
        return said

    def tune(self, effort: int) -> None:
        """Set how hard the index of the vectors looks."""
        with self.writing(), engine_errors(self.location, "writing"):
            self._memory.change(arranged={**self._memory.now(fresh=True)["arranged"], "effort": effort})

    def compact(self) -> None:
        """Ask Milvus to merge its segments."""
        with self.writing(), engine_errors(self.location, "compacting"):
            self._client.flush(self._memory.items)
            self._client.compact(self._memory.items)
            self._memory.clear()

    def vectors(self, condition: str = "") -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Go through all ids and vectors, block by block."""
        with engine_errors(self.location, "reading"):
            rows = self._client.query_iterator(self._memory.items, batch_size=_BLOCK, filter=condition, output_fields=["id", "vector"])
            try:
                while block := rows.next():
                    yield [row["id"] for row in block], np.asarray([row["vector"] for row in block], np.float32)
            finally:
                rows.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let the threads of this process write one after the other; a server sees to the rest, and a file is open to one process alone."""
        with self._lock:
            if self._place.file is not None:
                require_room(self.location, _MARGIN + sum(path.stat().st_size for path in self._place.file.rglob("*") if path.is_file()))
            yield

    def publish(self) -> None:
        """Put what was made beside an older index in its place, in one step."""
        if isinstance(self._memory, Beside):
            with self.writing(), engine_errors(self.location, "writing"):
                self._memory = self._memory.publish()

    def close(self) -> None:
        """Let go of the server, or of the file. What was made beside and not published goes."""
        try:
            if isinstance(self._memory, Beside):
                self._memory.discard()
        finally:
            release(self._place, self._client)

    def _condition(self, where: str | None) -> str:
        return expression(parse(where, self.fields)) if where and where.strip() else ""

    def _count(self, condition: str) -> int:
        with engine_errors(self.location, "reading"):
            asked = {"filter": condition, "output_fields": ["count(*)"], "timeout": self.seconds}
            return int(self._memory.ask(lambda items: self._client.query(items, **asked))[0]["count(*)"])

    def _among(self, names: Sequence[str]) -> int:
        """Count which of these ids are there."""
        parts = (names[start : start + _NAMES] for start in range(0, len(names), _NAMES))
        return sum(len(self._client.query(self._memory.items, filter=among(part), output_fields=["id"])) for part in parts)

    def _exact(self, vector: NDArray[np.float32], condition: str, k: int) -> list[Hit]:
        """Compare every vector, one after the other: slow, and the measure of what is fast."""
        best: list[tuple[float, str]] = []
        for names, block in self.vectors(condition):
            best = sorted([*best, *zip((unit(block) @ vector).tolist(), names, strict=True)], reverse=True)[:k]
        listed = self._client.query(self._memory.items, filter=among(name for _, name in best), output_fields=SHOWN) if best else []
        rows = {row["id"]: row for row in listed}
        return [hit_of(rows[name], vector, score) for score, name in best]
