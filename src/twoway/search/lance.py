"""An index in a folder, by LanceDB: every change is one new version of a table, so it is there whole or not at all.

The table has a column for each field of the metadata, and remembers in its schema which model made its vectors. LanceDB's readers see a
version as it was; writers of several processes are kept apart by a lock on the folder.
"""

from __future__ import annotations

import errno
import json
import shutil
import threading
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from twoway.embedding.shards import MultiVectors, alone
from twoway.errors import BusyError, TwowayError, UsageError, did_you_mean, with_extra
from twoway.files import require_disk_space

from .filters import Group, parse
from .store import (
    FILTERABLE,
    RESERVED,
    Hit,
    IndexInfo,
    Item,
    check_items,
    check_query,
    engine_errors,
    field_name,
    field_types,
    is_slow,
    missing_fields,
    normalized,
    table_files,
    to_field_type,
    truncated_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from .filters import Filter, Literal
    from .store import Value

Answer = TypeVar("Answer")
TABLE, INFO_KEY = "items", b"twoway.about"  # the one table; where its schema says which model made its vectors
MEAN = "vector_mean"  # the column of many vectors' mean, by which a search in steps begins
NEW_TABLE = f"{TABLE}-anew"  # that is to take its place
FRESH = timedelta(seconds=1)  # how old a reader's view may be when another process writes
_FUSED = 50  # of each list, at least, when two are fused
_MORE_OF_MANY = 32  # items beyond those that are asked for, of which many vectors are compared anew
_MAXSIM_TOP = 500  # items whose many vectors are compared, where an index says which are near
_NAMES = 500  # ids in one condition
_MARGIN = 16 << 20  # bytes that have to be free on top of what is added


class LanceStore:
    """A table of items; see `Store`."""

    def __init__(self, location: str, table: Any, info: IndexInfo) -> None:
        self.location, self.info = location, info
        self.seconds: float | None = None
        self._table, self._current = table, CurrentTable(table, location, info)
        self._lock, self._depth = threading.RLock(), 0
        self._held = ExitStack()

    @classmethod
    def open(cls, location: str) -> LanceStore:
        """Open an index that is there."""
        folder = Path(location)
        if not cls.exists(location):
            what = "is a file" if folder.is_file() else "holds no index" if folder.exists() else "does not exist"
            raise UsageError(f"{location} {what}; make an index with 'twoway index DIR --index {location}'")
        with engine_errors(location, "opening"):
            table = open_tables(location).open_table(TABLE)
            said = read_info(table)
        if said is None:
            raise UsageError(f"{location} is a LanceDB table that twoway has not made; choose another folder")
        return cls(location, table, IndexInfo(**said))

    @classmethod
    def create(cls, location: str, info: IndexInfo, *, overwrite: bool = False) -> LanceStore:
        """Make an empty index; with `overwrite` beside one that is there, whose place it takes by `publish`."""
        return cls(location, make_table(location, info, overwrite=overwrite), info)

    @classmethod
    def exists(cls, location: str) -> bool:
        """Say whether there is such an index."""
        return table_exists(location)

    model = property(lambda self: self.info.model)
    fingerprint = property(lambda self: self.info.fingerprint)
    dimension = property(lambda self: self.info.dimension)

    @property
    def fields(self) -> Mapping[str, str]:
        """What a filter may name, and its type."""
        return self._current.read("reading", lambda table: schema_fields(table.schema))

    def count(self, filter: str | None = None) -> int:
        """Count the items, or those that a filter lets through."""
        return int(self._current.read("reading", lambda table: table.count_rows(self._condition(filter, schema_fields(table.schema)))))

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
        """Return the best items: by vector, by words, or fused by rank; many vectors are compared in one step or two."""
        check_query(self, vector, top_k, maxsim_top)
        vector = None if vector is None else normalized(vector)
        if vector is not None and self.info.many and words is None:
            return self._search_many(vector, top_k, filter, exact=exact, maxsim_top=maxsim_top)

        def ask(table: Any) -> pa.Table:
            if words is not None and not has_words(table):
                raise UsageError(f"{self.location} has no index of words; 'twoway index --index {self.location} --compact' makes one")
            query = search_query(table, vector, words)
            wanted = top_k if vector is None or words is None else max(top_k, _FUSED)
            if vector is not None:
                query = query.distance_type("cosine")
            if vector is not None and not self.info.many:
                query = with_effort(query, read_search_settings(table), wanted, exact=exact)
            return self._answer(table, query, filter, wanted).slice(0, top_k)

        found = self._current.read("searching", ask)
        if vector is None:
            scores: NDArray[Any] = found["_score"].to_numpy() if words is not None else np.zeros(len(found))
        elif self.info.many:
            scores = multi_vectors(found, self.dimension).maxsim(vector)
        else:
            scores = vector_matrix(found, self.dimension) @ vector
        return [Hit(item, float(score)) for item, score in zip(to_items(found), scores, strict=True)]

    def _search_many(self, query: NDArray[np.float32], top_k: int, filter: str | None, *, exact: bool, maxsim_top: int | None) -> list[Hit]:
        """Return the best items by MaxSim: of all, or of those whose mean is near that of the query."""

        def ask(table: Any) -> tuple[pa.Table, bool]:
            arranged = read_search_settings(table)
            first = None if exact else maxsim_top or (_MAXSIM_TOP if arranged else None)
            if first is None:
                # LanceDB compares in half precision, in which near ones change places.
                return self._answer(table, search_query(table, query, None).distance_type("cosine"), filter, top_k + _MORE_OF_MANY), False
            mean = search_query(table, mean_vector(query), None, column=MEAN).distance_type("cosine")
            wanted = max(first, top_k)
            return self._answer(table, with_effort(mean, arranged, wanted, exact=False), filter, wanted), True

        found, in_steps = self._current.read("searching", ask)
        scores = multi_vectors(found, self.dimension).maxsim(query)
        order = np.argsort(-scores, kind="stable")[:top_k]
        places = [place + 1 if in_steps else None for place in order.tolist()]
        ranked = zip(to_items(found.take(order)), scores[order].tolist(), places, strict=True)
        return [Hit(item, score, place_before_maxsim=place) for item, score, place in ranked]

    def _answer(self, table: Any, query: Any, filter: str | None, wanted: int) -> pa.Table:
        """Return so many rows of a query that a filter lets through."""
        condition = self._condition(filter, schema_fields(table.schema))
        if condition is not None:
            query = query.where(condition, prefilter=True)
        found: pa.Table = query.limit(wanted).to_arrow(timeout=self._time())
        return found

    def get(self, name: str) -> Item:
        """Return one item with its vector."""
        asked = f"id = {sql_literal(name)}"
        found = self._current.read("reading", lambda table: table.search().where(asked).limit(1).to_arrow(timeout=self._time()))
        if not len(found):
            raise UsageError(f"{self.location} has no item with the id {name!r}")
        read = multi_vectors if self.info.many else vector_matrix
        return next(to_items(found, read(found, self.dimension)))

    def add_fields(self, fields: Mapping[str, str]) -> None:
        """Add the columns that are missing."""
        with self.writing():
            fresh = [pa.field(name, TYPES[kind]) for name, kind in missing_fields(fields, self.fields).items()]
            if fresh:
                self._current.write("writing", lambda table: table.add_columns(fresh))

    def add(self, items: Sequence[Item], *, origin: str = "") -> tuple[int, int]:
        """Add items in one step, each in place of one with its id."""
        if not items:
            return 0, 0
        check_items(items, self.dimension, many=self.info.many)
        require_disk_space(
            self.location,
            3 * sum((one.vector.nbytes if one.vector is not None else 0) + len(one.text) + len(one.thumbnail or b"") for one in items)
            + _MARGIN,
        )
        with self.writing():
            self.add_fields(field_types(one.metadata for one in items))

            def merge(table: Any) -> Any:
                how = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                return how.execute(to_rows(items, origin, table.schema, self.dimension))

            done = self._current.write("writing", merge)
        return int(done.num_inserted_rows), int(done.num_updated_rows)

    def count_origin(self, origin: str) -> int:
        """Count the items of one origin."""
        return int(self._current.read("reading", lambda table: table.count_rows(f"origin = {sql_literal(origin)}")))

    def delete(self, names: Sequence[str]) -> int:
        """Take items out."""
        gone = 0
        with self.writing():
            for start in range(0, len(names), _NAMES):
                listed = f"id IN ({', '.join(sql_literal(name) for name in names[start : start + _NAMES])})"
                gone += int(self._current.write("writing", lambda table, listed=listed: table.delete(listed)).num_deleted_rows)  # type: ignore[misc]
        return gone

    def build_indexes(self, *, exact_below: int, kind: str = "hnsw") -> None:
        """Bring the indexes of words, ids and vectors up to date."""
        with self.writing():
            self._current.write("indexing", lambda table: build_table_indexes(table, exact_below=exact_below, kind=kind))

    def index_settings(self) -> Mapping[str, Value]:
        """Say which index of the vectors stands."""
        return self._current.read("reading", read_search_settings)

    def set_effort(self, effort: int) -> None:
        """Set how hard the index of the vectors looks."""
        with self.writing():
            said = dict(self.index_settings()) | {"effort": effort}
            self._current.write("writing", lambda table: write_settings(table, said))

    def compact(self) -> None:
        """Merge small files and take away old versions."""
        with self.writing():
            self._current.write("compacting", lambda table: table.optimize())  # old versions go only once the new one is known to be whole
            self._current.write("compacting", lambda table: table.optimize(cleanup_older_than=timedelta(milliseconds=1)))

    def vectors(self) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Go through all ids and vectors, block by block."""
        if self.info.many:
            raise UsageError(f"{self.location} holds many vectors an item (late interaction), and one vector is needed here")
        with engine_errors(self.location, "reading"):
            for batch in self._table.search().select(["id", "vector"]).to_batches(batch_size=8192):
                table = pa.Table.from_batches([batch])
                yield table["id"].to_pylist(), vector_matrix(table, self.dimension)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder; threads of this process wait for each other, another process is told at once."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1:
                    self._held.enter_context(alone(Path(self.location), make=False))
                    with engine_errors(self.location, "opening"):
                        self._current.refresh()
                yield
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self._held.close()

    def publish(self) -> None:
        """Put what was made beside an older index in its place, in one step."""
        if self._table.name != TABLE:
            with self.writing():
                self._table = publish_table(self._table, self.location, self.info)
                self._current = CurrentTable(self._table, self.location, self.info)

    def close(self) -> None:
        """Let go; LanceDB keeps nothing open between calls. What was made beside and not published goes."""
        self._held.close()
        if self._table.name != TABLE:
            discard_new_table(self.location)

    def _time(self) -> timedelta | None:
        return None if self.seconds is None else timedelta(seconds=self.seconds)

    def _condition(self, filter: str | None, fields: Mapping[str, str]) -> str | None:
        return to_sql(parse(filter, fields)) if filter and filter.strip() else None


# A filter in the words of LanceDB, which takes the conditions of SQL.


def to_sql(one: Filter) -> str:
    """Return the condition."""
    if isinstance(one, Group):
        if one.how == "not":
            return f"NOT ({to_sql(one.parts[0])})"
        return f" {one.how.upper()} ".join(f"({to_sql(part)})" for part in one.parts)
    name = f"`{one.field}`"
    if one.sign == "null":
        return f"{name} IS NULL"
    if one.sign == "in":
        return f"{name} IN ({', '.join(sql_literal(value) for value in one.values)})"
    return f"{name} {one.sign.upper()} {sql_literal(one.values[0])}"


def sql_literal(value: Literal) -> str:
    """Return a value as SQL writes it."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).upper() if isinstance(value, bool) else repr(value)


# Items as rows of a LanceDB table, and back: a column for each field of the metadata beside an item's own.

TYPES = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_KINDS = {kind: name for name, kind in TYPES.items()}


def make_schema(dimension: int, key: bytes, said: dict[str, Any], *, many: bool) -> pa.Schema:
    """Return the columns of an empty table, which remembers something under a key."""
    kinds = dict.fromkeys(("id", "text", "place", "media", "origin"), pa.string()) | {"thumbnail": pa.binary()}
    one = pa.list_(pa.float32(), dimension)
    vectors = {"vector": pa.list_(pa.list_(pa.float16(), dimension)), MEAN: one} if many else {"vector": one}
    return pa.schema([pa.field(*column) for column in (kinds | vectors).items()]).with_metadata({key: json.dumps(said)})


def schema_fields(schema: pa.Schema) -> dict[str, str]:
    """Return what a filter may name, and its type."""
    return FILTERABLE | {field.name: _KINDS[field.type] for field in schema if field.name not in RESERVED}


def to_rows(items: Sequence[Item], origin: str, schema: pa.Schema, dimension: int) -> pa.Table:
    """Return items as rows."""
    vectors = [np.asarray(one.vector, np.float32) for one in items]
    columns: dict[str, Any] = {
        "id": [one.id for one in items],
        "text": [one.text or None for one in items],
        "place": [one.place for one in items],
        "thumbnail": [one.thumbnail for one in items],
        "media": [one.media or None for one in items],
        "origin": [origin] * len(items),
    }
    if MEAN in schema.names:
        of_many = MultiVectors.of(vectors, dimension)
        inner = pa.FixedSizeListArray.from_arrays(pa.array(of_many.flat.astype(np.float16).reshape(-1)), dimension)
        columns["vector"] = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], of_many.ends]), pa.int32()), inner)
        vectors = [mean_vector(one) for one in vectors]
    columns[dense_column(schema)] = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(vectors)), dimension)
    rows = [{field_name(key): value for key, value in one.metadata.items()} for one in items]
    for name, kind in schema_fields(schema).items():
        if name not in columns:
            columns[name] = [to_field_type(row.get(name), kind) for row in rows]
    return pa.Table.from_arrays([_array(columns[field.name], field.type) for field in schema], schema=schema)


def to_items(found: pa.Table, vectors: NDArray[np.float32] | MultiVectors | None = None) -> Iterator[Item]:
    """Return rows as items."""
    names = [field.name for field in found.schema if field.name not in RESERVED and not field.name.startswith("_")]
    kinds = {name: "number" if pa.types.is_floating(found.schema.field(name).type) else "" for name in names}
    for number, row in enumerate(found.select(["id", "text", "place", "thumbnail", "media", *names]).to_pylist()):
        meta = {name: value for name in names if (value := to_field_type(row[name], kinds[name])) is not None}
        vector = None if vectors is None else vectors[number]
        yield Item(row["id"], vector, row["text"] or "", row["thumbnail"], row["place"] or "", meta, row["media"] or "")


def dense_column(schema: pa.Schema) -> str:
    """Return the column that has one vector an item: its own, or the mean of its many."""
    return MEAN if MEAN in schema.names else "vector"


def mean_vector(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of many vectors, at length 1."""
    return normalized(vectors.mean(axis=0))


def vector_matrix(found: pa.Table, dimension: int) -> NDArray[np.float32]:
    """Return the vectors of a result as rows."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in found["vector"].chunks]
    return np.concatenate(chunks).reshape(-1, dimension) if chunks else np.zeros((0, dimension), np.float32)


def multi_vectors(found: pa.Table, dimension: int) -> MultiVectors:
    """Return the vectors of a result where an item has many."""
    every = [
        one.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension).astype(np.float32)
        for chunk in found["vector"].chunks
        for one in (chunk[number].values for number in range(len(chunk)))
    ]
    return MultiVectors.of(every, dimension)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


# A LanceDB table in a program that runs on while other processes add to it, compact it, or build it anew.
#
# Who reads sees a version as it was. Where another process has taken that version's files away, the newest is asked
# instead; and a table that now holds vectors of another model is an error, since every query of this program is of
# the one that was there before.


def read_info(table: Any) -> dict[str, Any] | None:
    """Return what a table remembers of its vectors; nothing where it is no table of ours."""
    said = (table.schema.metadata or {}).get(INFO_KEY)
    return None if said is None else dict(json.loads(said))


class CurrentTable:
    """One table, read and written as it is now."""

    def __init__(self, table: Any, location: str, info: IndexInfo) -> None:
        self.table, self.location, self._info = table, location, asdict(info)
        self._folder = Path(location) / f"{table.name}.lance"

    def read(self, doing: str, ask: Callable[[Any], Answer]) -> Answer:
        """Ask the table, once more where what was asked is no longer there."""
        with engine_errors(self.location, doing):
            try:
                found = ask(self.table)
            except TwowayError:
                raise
            except Exception as error:
                if is_slow(error):
                    raise  # and no second time
                self.refresh()
                found = ask(self.table)
            self._check()  # behind the answer, because versions only go forward: the one that was asked was no later
            return found

    def write(self, doing: str, change: Callable[[Any], Answer]) -> Answer:
        """Change the table, or leave it as it was."""
        with engine_errors(self.location, doing):
            there, version = table_files(self._folder), self.table.version
            try:
                done = change(self.table)
            except Exception:
                self._take_back(there, version)  # what reading a file without its end says is no help
                raise
            self._take_back(there, version)
            return done

    def _take_back(self, there: set[Path], version: int) -> None:
        """Go back to a version where the disk has cut a file off that was written since, and say that."""
        torn = truncated_files(table_files(self._folder) - there)
        for path in torn:
            path.unlink()  # which makes room for going back
        if torn and self.table.version != version:
            self.table.restore(version)
        if torn:
            raise OSError(errno.ENOSPC, "No space left on device")

    def refresh(self) -> None:
        """Go to the newest version, which is what is written to."""
        self.table.checkout_latest()
        self._check()

    def _check(self) -> None:
        if read_info(self.table) != self._info:
            raise TwowayError(f"{self.location} was built anew after this program opened it; open it again")


# What makes a LanceDB table fast: an index of its words, one of its ids and, from a size on, one of its vectors.
#
# Below that size every vector is compared, which is exact. Above, LanceDB's graph (`hnsw`, which keeps one byte for a
# number and looks again at the whole numbers of what it found) or its cells (`ivf` with whole numbers, `ivf-pq` with
# a few bytes a vector) look at a part of them. How hard they look is one number, the effort, so that recall is set by
# measuring and not by guessing; it stands beside the column.

KINDS = ("hnsw", "ivf", "ivf-pq")
_NOTE = "twoway.search"
_IDS = 10_000  # from this many items on a list of ids pays


def build_table_indexes(table: Any, *, exact_below: int, kind: str) -> None:
    """Make what is missing, and bring the rest up to date."""
    from lancedb.index import BTree

    if kind not in KINDS:
        raise UsageError(f"unknown kind of index {kind!r}{did_you_mean(kind, KINDS)} (there are: {', '.join(KINDS)})")
    rows = table.count_rows()
    there = {name for one in table.list_indices() for name in one.columns}
    if "text" not in there:
        index_words(table)
    if "id" not in there and rows >= _IDS:
        table.create_index("id", config=BTree())
    had, column = read_search_settings(table), dense_column(table.schema)
    if rows < exact_below:
        if had:
            table.drop_index(f"{column}_idx")
            write_settings(table, {})
    elif had.get("kind") != kind or rows > 2 * int(had.get("rows") or 0):
        # An index takes new rows in, but its cells and scales stay those of the rows it was made from.
        table.create_index(column, config=_config(kind))
        write_settings(table, {"kind": kind, "rows": rows, "effort": 1})
    table.optimize()


def index_words(table: Any) -> None:
    """Make the index of words; texts that come later are found by it too, at once."""
    from lancedb.index import FTS

    table.create_index("text", config=FTS())


def has_words(table: Any) -> bool:
    """Say whether there is an index of words."""
    return any("text" in one.columns for one in table.list_indices())


def read_search_settings(table: Any) -> dict[str, Value]:
    """Return what stands beside the column of the vectors."""
    said = (table.schema.field("vector").metadata or {}).get(_NOTE.encode())
    found: dict[str, Value] = json.loads(said) if said else {}
    return found


def write_settings(table: Any, said: Mapping[str, Value]) -> None:
    """Write it there."""
    table.update_field_metadata({"path": "vector", "metadata": {_NOTE: json.dumps(dict(said)) if said else None}})


def search_query(table: Any, vector: NDArray[np.float32] | None, words: str | None, *, column: str = "vector") -> Any:
    """Return the question by vector, by words, by both or by neither."""
    from lancedb.query import MatchQuery

    if vector is None and words is None:
        return table.search()
    if words is None:
        return table.search(np.asarray(vector, np.float32), vector_column_name=column, query_type="vector")
    match = MatchQuery(words, "text")
    if vector is None:
        return table.search(match, query_type="fts")
    return table.search(query_type="hybrid", vector_column_name=column).vector(np.asarray(vector, np.float32)).text(match)


def with_effort(query: Any, said: Mapping[str, Value], wanted: int, *, exact: bool) -> Any:
    """Tell a query for so many items how hard to look."""
    if not said:
        return query
    if exact:
        return query.bypass_vector_index()
    effort = int(said.get("effort") or 1)
    query = query.maximum_nprobes(0)  # where a filter lets few through, further cells are looked into until there are enough
    if said["kind"] == "hnsw":
        again = 2 * effort
        return query.ef(max(64 * effort, again * wanted)).refine_factor(again)  # LanceDB refuses to look at fewer than it looks at again
    query = query.minimum_nprobes(20 * effort)
    return query.refine_factor(4 * effort) if said["kind"] == "ivf-pq" else query


def _config(kind: str) -> Any:
    from lancedb.index import HnswSq, IvfFlat, IvfPq

    return {"hnsw": HnswSq, "ivf": IvfFlat, "ivf-pq": IvfPq}[kind](distance_type="cosine")


# Making an index in LanceDB; one that takes another's place is a table of its own until it is whole.
#
# It grows beside the one that is there, in the same folder, and then becomes that one's next version, in one step.
# Who reads sees the old index until then, and a run that fails, or is killed, has changed nothing of it. That takes
# room for both, and for the copy of the new one.


def open_tables(location: str) -> Any:
    """Reach the tables of a folder."""
    try:
        import lancedb
    except ImportError as error:
        raise UsageError(f"an index in a folder needs LanceDB; {with_extra('index')}") from error
    return lancedb.connect(location, read_consistency_interval=FRESH)


def table_exists(location: str) -> bool:
    """Say whether there is an index in a folder; what a run that was killed has only begun is none."""
    return any((Path(location) / f"{TABLE}.lance").glob("_versions/*.manifest"))


def make_table(location: str, info: IndexInfo, *, overwrite: bool) -> Any:
    """Make an empty table, beside the one that is there where there is one; one that is damaged goes, since nothing can follow it."""
    folder = Path(location)
    if folder.is_file():
        raise UsageError(f"{location} is a file; name a folder, or a Milvus Lite file that ends in .db")
    anew = overwrite and table_exists(location)
    if folder.exists() and any(one.suffix != ".lance" and one.name != ".lock" for one in folder.iterdir()) and not anew:
        raise UsageError(f"{location} holds other files; choose a new folder for the index")
    if table_exists(location) and not overwrite:
        raise UsageError(f"{location} holds an index already; pass --overwrite to replace it")
    with engine_errors(location, "making"), alone(folder):
        if anew and not _opens(location):
            shutil.rmtree(folder / f"{TABLE}.lance")
            anew = False
        name = NEW_TABLE if anew else TABLE
        shutil.rmtree(folder / f"{NEW_TABLE}.lance", ignore_errors=True)  # of a run that was killed
        try:
            table = open_tables(location).create_table(name, schema=make_schema(info.dimension, INFO_KEY, asdict(info), many=info.many))
            CurrentTable(table, location, info).write("making", index_words)
        except BaseException:
            shutil.rmtree(folder / f"{name}.lance", ignore_errors=True)  # or a half would stand in the way of the next try
            raise
    return table


def publish_table(table: Any, location: str, info: IndexInfo) -> Any:
    """Put a table that was made beside in the place of the one there, and return that; the folder is held by who calls."""
    connection = open_tables(location)

    def put(standing: Any) -> None:
        version = standing.version
        try:
            rows = pa.RecordBatchReader.from_batches(table.schema, iter(table.search().to_batches()))
            connection.create_table(TABLE, data=rows, mode="overwrite")
            standing.checkout_latest()
            index_words(standing)
        except BaseException:
            standing.checkout_latest()
            if standing.version != version:
                standing.restore(version)
            raise

    with engine_errors(location, "opening"):
        standing = connection.open_table(TABLE)
    CurrentTable(standing, location, info).write("writing", put)
    shutil.rmtree(Path(location) / f"{NEW_TABLE}.lance", ignore_errors=True)
    return standing


def discard_new_table(location: str) -> None:
    """Take away what was made beside and is not to be; another run may have begun its own, which is left alone."""
    with suppress(BusyError), alone(Path(location)):
        shutil.rmtree(Path(location) / f"{NEW_TABLE}.lance", ignore_errors=True)


def _opens(location: str) -> bool:
    """Say whether the table there can be opened; what the system forbids is an error of its own."""
    try:
        open_tables(location).open_table(TABLE)
    except PermissionError:
        raise
    except Exception:
        return False
    return True
