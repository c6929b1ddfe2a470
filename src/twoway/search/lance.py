"""An index in a folder, by LanceDB: every change is one new version of a table, so it is there whole or not at all.

The table has a column for each field of the metadata, and remembers in its schema which model made its vectors. LanceDB's readers see a
version as it was; writers of several processes are kept apart by a lock on the folder.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..embedding.shards import alone
from ..errors import UsageError
from ..files import require_room
from . import lance_index, lance_making
from .fields import fitting, kinds_of
from .filters import parse
from .lance_filter import quoted, sql
from .lance_live import TABLE, Live, about_of
from .lance_rows import TYPES, fields_of, items_of, matrix, rows_of
from .said import engine_errors
from .store import About, Hit, check_query, checked, unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from .store import Item, Value

_FUSED = 50  # of each list, at least, when two are fused
_NAMES = 500  # ids in one condition
_MARGIN = 16 << 20  # bytes that have to be free on top of what is added


class LanceStore:
    """A table of items; see `Store`."""

    def __init__(self, location: str, table: Any, about: About) -> None:
        self.location, self.about = location, about
        self.seconds: float | None = None
        self._table, self._live = table, Live(table, location, about)
        self._lock, self._depth = threading.RLock(), 0
        self._held = ExitStack()

    @classmethod
    def open(cls, location: str) -> LanceStore:
        """Open an index that is there."""
        folder = Path(location)
        if not cls.exists(location):
            what = "is a file" if folder.is_file() else "holds no index" if folder.exists() else "does not exist"
            raise UsageError(f"{location} {what}; make an index with 'twoway index DIR --db {location}'")
        with engine_errors(location, "opening"):
            table = lance_making.connect(location).open_table(TABLE)
            said = about_of(table)
        if said is None:
            raise UsageError(f"{location} is a LanceDB table that twoway has not made; choose another folder")
        return cls(location, table, About(**said))

    @classmethod
    def create(cls, location: str, about: About, *, overwrite: bool = False) -> LanceStore:
        """Make an empty index; with `overwrite` beside one that is there, whose place it takes by `publish`."""
        return cls(location, lance_making.make(location, about, overwrite=overwrite), about)

    exists = staticmethod(lance_making.exists)

    model = property(lambda self: self.about.model)
    fingerprint = property(lambda self: self.about.fingerprint)
    dimension = property(lambda self: self.about.dimension)

    @property
    def fields(self) -> Mapping[str, str]:
        """What a filter may name, and its type."""
        return self._live.read("reading", lambda table: fields_of(table.schema))

    def count(self, where: str | None = None) -> int:
        """Count the items, or those that a filter lets through."""
        condition = self._condition(where)
        return int(self._live.read("reading", lambda table: table.count_rows(condition)))

    def search(
        self, vector: NDArray[np.float32] | None, *, k: int = 10, where: str | None = None, words: str | None = None, exact: bool = False
    ) -> list[Hit]:
        """Return the best items: by vector, by words, or fused by rank."""
        check_query(self, vector, k)
        condition = self._condition(where)

        def ask(table: Any) -> pa.Table:
            if words is not None and not lance_index.has_words(table):
                raise UsageError(f"{self.location} has no index of words; 'twoway index --db {self.location} --compact' makes one")
            query = lance_index.query(table, vector, words)
            if vector is not None:
                query = lance_index.ask(query.distance_type("cosine"), lance_index.settings(table), exact=exact)
            if condition is not None:
                query = query.where(condition, prefilter=True) if vector is not None or words is not None else query.where(condition)
            fused = vector is not None and words is not None
            return query.limit(max(k, _FUSED) if fused else k).to_arrow(timeout=self._time()).slice(0, k)

        found = self._live.read("searching", ask)
        if vector is not None:
            scores = matrix(found, self.dimension) @ unit(vector)
        else:
            scores = found["_score"].to_numpy() if words is not None else np.zeros(len(found))
        return [Hit(item, float(score)) for item, score in zip(items_of(found), scores, strict=True)]

    def get(self, name: str) -> Item:
        """Return one item with its vector."""
        asked = f"id = {quoted(name)}"
        found = self._live.read("reading", lambda table: table.search().where(asked).limit(1).to_arrow(timeout=self._time()))
        if not len(found):
            raise UsageError(f"{self.location} has no item with the id {name!r}")
        return next(items_of(found, matrix(found, self.dimension)))

    def declare(self, fields: Mapping[str, str]) -> None:
        """Add the columns that are missing."""
        with self.writing():
            fresh = [pa.field(name, TYPES[kind]) for name, kind in fitting(fields, self.fields).items()]
            if fresh:
                self._live.write("writing", lambda table: table.add_columns(fresh))

    def add(self, items: Sequence[Item], *, origin: str = "") -> tuple[int, int]:
        """Add items in one step, each in place of one with its id."""
        if not items:
            return 0, 0
        checked(items, self.dimension)
        require_room(self.location, 3 * sum(4 * self.dimension + len(one.text) + len(one.thumbnail or b"") for one in items) + _MARGIN)
        with self.writing():
            self.declare(kinds_of(one.metadata for one in items))

            def merge(table: Any) -> Any:
                how = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                return how.execute(rows_of(items, origin, table.schema, self.dimension))

            done = self._live.write("writing", merge)
        return int(done.num_inserted_rows), int(done.num_updated_rows)

    def held(self, origin: str) -> int:
        """Count the items of one origin."""
        return int(self._live.read("reading", lambda table: table.count_rows(f"origin = {quoted(origin)}")))

    def delete(self, names: Sequence[str]) -> int:
        """Take items out."""
        gone = 0
        with self.writing():
            for start in range(0, len(names), _NAMES):
                listed = f"id IN ({', '.join(quoted(name) for name in names[start : start + _NAMES])})"
                gone += int(self._live.write("writing", lambda table, listed=listed: table.delete(listed)).num_deleted_rows)  # type: ignore[misc]
        return gone

    def arrange(self, *, exact_below: int, kind: str = "hnsw") -> None:
        """Bring the indexes of words, ids and vectors up to date."""
        with self.writing():
            self._live.write("indexing", lambda table: lance_index.arrange(table, exact_below=exact_below, kind=kind))

    def arranged(self) -> Mapping[str, Value]:
        """Say which index of the vectors stands."""
        return self._live.read("reading", lance_index.settings)

    def tune(self, effort: int) -> None:
        """Set how hard the index of the vectors looks."""
        with self.writing():
            said = dict(self.arranged()) | {"effort": effort}
            self._live.write("writing", lambda table: lance_index.note(table, said))

    def compact(self) -> None:
        """Merge small files and take away old versions."""
        with self.writing():
            self._live.write("compacting", lambda table: table.optimize())  # old versions go only once the new one is known to be whole
            self._live.write("compacting", lambda table: table.optimize(cleanup_older_than=timedelta(milliseconds=1)))

    def vectors(self) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Go through all ids and vectors, block by block."""
        with engine_errors(self.location, "reading"):
            for batch in self._table.search().select(["id", "vector"]).to_batches(batch_size=8192):
                table = pa.Table.from_batches([batch])
                yield table["id"].to_pylist(), matrix(table, self.dimension)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder; threads of this process wait for each other, another process is told at once."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1:
                    self._held.enter_context(alone(Path(self.location), make=False))
                    with engine_errors(self.location, "opening"):
                        self._live.newest()
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._held.close()

    def publish(self) -> None:
        """Put what was made beside an older index in its place, in one step."""
        if self._table.name != TABLE:
            with self.writing():
                self._table = lance_making.publish(self._table, self.location, self.about)
                self._live = Live(self._table, self.location, self.about)

    def close(self) -> None:
        """Let go; LanceDB keeps nothing open between calls. What was made beside and not published goes."""
        self._held.close()
        if self._table.name != TABLE:
            lance_making.discard(self.location)

    def _time(self) -> timedelta | None:
        return None if self.seconds is None else timedelta(seconds=self.seconds)

    def _condition(self, where: str | None) -> str | None:
        return sql(parse(where, self.fields)) if where and where.strip() else None
