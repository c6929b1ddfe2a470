"""An index in Milvus: a server (`milvus://host:port/collection`), or Milvus Lite in a file that ends in `.db`; the same code for both.

Metadata are dynamic fields. What an index remembers (model, fields, how it is arranged) is one row of a small collection beside it, since
not every Milvus keeps notes with a collection. Milvus has no step over several requests: an `add` that is cut off has added some of the
items, each whole, and the same `add` again brings the rest. What takes the place of another index does so in one step (`milvus_client.py`).
"""

from __future__ import annotations

import base64
import json
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.errors import UsageError
from twoway.files import require_disk_space

from .filters import Group, parse
from .milvus_client import (
    LONGEST_ID,
    IndexRecord,
    MilvusAddress,
    NewIndexRecord,
    clear_damaged,
    client_session,
    collection_exists,
    items_collection,
    open_client,
    read_index_record,
    release,
    vector_index,
)
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
    missing_fields,
    normalized,
    to_field_type,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from .filters import Comparison, Filter, Literal
    from .store import Value

_NAMES = 500  # ids in one request
_BLOCK = 1000
_REQUEST = 8 << 20  # bytes of a request, about
_MARGIN = 64 << 20  # bytes that have to be free beside a file's own size: Milvus Lite writes it anew, and loses what a full disk cuts off


class MilvusStore:
    """A collection of items; see `Store`."""

    def __init__(self, place: MilvusAddress, client: Any, memory: IndexRecord) -> None:
        self.location = place.location
        self.seconds: float | None = None
        self.info = IndexInfo(**memory.read()["about"])
        self._place, self._client, self._record = place, client, memory
        self._lock = threading.RLock()

    @classmethod
    def open(cls, location: str) -> MilvusStore:
        """Open an index that is there."""
        place = MilvusAddress.of(location)
        with client_session(place, make=False) as client, engine_errors(location, "opening"):
            said = read_index_record(client, place)
            if said is None:
                raise UsageError(f"{location} holds no index of twoway's; make one with 'twoway index DIR --index {location}'")
            client.load_collection(items_collection(place, said))
            return cls(place, client, IndexRecord(client, place, said))

    @classmethod
    def create(cls, location: str, info: IndexInfo, *, overwrite: bool = False) -> MilvusStore:
        """Make an empty index; with `overwrite` beside one that is there, whose place it takes by `publish`."""
        place = MilvusAddress.of(location)
        if place.file is not None:
            require_disk_space(location, _MARGIN)
            if overwrite:
                clear_damaged(place)
        with client_session(place, make=True) as client, engine_errors(location, "making"):
            if not collection_exists(client, place):
                return cls(place, client, IndexRecord.create(client, place, info))
            if not overwrite:
                raise UsageError(f"{location}: the collection {place.collection!r} is there already; pass --overwrite to replace it")
            return cls(place, client, NewIndexRecord.begin(client, place, info))

    @classmethod
    def exists(cls, location: str) -> bool:
        """Say whether there is such a collection."""
        place = MilvusAddress.of(location)
        if place.file and not place.file.exists():
            return False
        client = open_client(place, make=False)
        try:
            with engine_errors(location, "opening"):
                return collection_exists(client, place)
        finally:
            release(place, client)

    model = property(lambda self: self.info.model)
    fingerprint = property(lambda self: self.info.fingerprint)
    dimension = property(lambda self: self.info.dimension)

    @property
    def fields(self) -> Mapping[str, str]:
        """What a filter may name, and its type."""
        with engine_errors(self.location, "reading"):
            return {**FILTERABLE, **self._record.read()["fields"]}

    def count(self, filter: str | None = None) -> int:
        """Count the items, or those that a filter lets through."""
        return self._count(self._condition(filter))

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
        """Return the best items: by vector, by words, or fused by rank."""
        check_query(self, vector, top_k, maxsim_top)
        condition = self._condition(filter)
        arranged = self.index_settings()  # which also says whether the vectors are still of the same model
        with engine_errors(self.location, "searching"):
            near = None if vector is None else normalized(vector)
            if exact and near is not None and words is None and arranged:
                return self._exact(near, condition, top_k)
            rows = self._record.query(lambda items: query_rows(self._client, items, near, words, condition, top_k, arranged, self.seconds))
        return [to_hit(row["entity"] | {"id": row["id"]}, near, float(row["distance"])) for row in rows]

    def get(self, name: str) -> Item:
        """Return one item with its vector."""
        with engine_errors(self.location, "reading"):
            asked = {"filter": ids_in([name]), "output_fields": SHOWN, "timeout": self.seconds}
            rows = self._record.query(lambda items: self._client.query(items, **asked))
        if not rows:
            raise UsageError(f"{self.location} has no item with the id {name!r}")
        return to_item(rows[0], vector=np.asarray(rows[0]["vector"], np.float32))

    def add_fields(self, fields: Mapping[str, str]) -> None:
        """Remember the fields that are new."""
        with self.writing(), engine_errors(self.location, "writing"):
            there = self._record.read(fresh=True)["fields"]
            fresh = missing_fields(fields, {**FILTERABLE, **there})
            if fresh:
                self._record.update(fields={**there, **fresh})

    def add(self, items: Sequence[Item], *, origin: str = "") -> tuple[int, int]:
        """Add items, each in place of one with its id."""
        check_items(items, self.dimension)
        check_sizes(items)
        with self.writing(), engine_errors(self.location, "writing"):
            self.add_fields(field_types(one.metadata for one in items))
            replaced = self._among([one.id for one in items])
            rows: list[dict[str, Any]] = []
            size = 0
            for one in items:
                rows.append(to_row(one, origin, self.fields))
                size += 4 * self.dimension + len(rows[-1]["text"]) + len(rows[-1]["thumbnail"])
                if size > _REQUEST:
                    self._client.upsert(self._record.items, rows)
                    rows, size = [], 0
            if rows:
                self._client.upsert(self._record.items, rows)
        return len(items) - replaced, replaced

    def count_origin(self, origin: str) -> int:
        """Count the items of one origin."""
        return self._count(f"origin == {literal(origin)}")

    def delete(self, names: Sequence[str]) -> int:
        """Take items out."""
        with self.writing(), engine_errors(self.location, "writing"):
            there = self._among(names)
            for start in range(0, len(names), _NAMES):
                self._client.delete(self._record.items, filter=ids_in(names[start : start + _NAMES]))
        return there

    def build_indexes(self, *, exact_below: int, kind: str = "hnsw") -> None:
        """Bring the index of the vectors up to date; that of the words keeps itself so."""
        with self.writing(), engine_errors(self.location, "indexing"):
            rows = self._count("")
            wanted = kind if rows >= exact_below else ""
            if wanted != (self.index_settings().get("kind") or ""):
                vector_index(self._client, self._record.items, wanted)
                self._record.update(arranged={"kind": wanted, "rows": rows, "effort": 1} if wanted else {})

    def index_settings(self) -> Mapping[str, Value]:
        """Say which index of the vectors stands."""
        with engine_errors(self.location, "reading"):
            said: Mapping[str, Value] = self._record.read()["arranged"]
        return said

    def set_effort(self, effort: int) -> None:
        """Set how hard the index of the vectors looks."""
        with self.writing(), engine_errors(self.location, "writing"):
            self._record.update(arranged={**self._record.read(fresh=True)["arranged"], "effort": effort})

    def compact(self) -> None:
        """Ask Milvus to merge its segments."""
        with self.writing(), engine_errors(self.location, "compacting"):
            self._client.flush(self._record.items)
            self._client.compact(self._record.items)
            self._record.drop_replaced()

    def vectors(self, condition: str = "") -> Iterator[tuple[list[str], NDArray[np.float32]]]:
        """Go through all ids and vectors, block by block."""
        with engine_errors(self.location, "reading"):
            rows = self._client.query_iterator(self._record.items, batch_size=_BLOCK, filter=condition, output_fields=["id", "vector"])
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
                require_disk_space(
                    self.location, _MARGIN + sum(path.stat().st_size for path in self._place.file.rglob("*") if path.is_file())
                )
            yield

    def publish(self) -> None:
        """Put what was made beside an older index in its place, in one step."""
        if isinstance(self._record, NewIndexRecord):
            with self.writing(), engine_errors(self.location, "writing"):
                self._record = self._record.publish()

    def close(self) -> None:
        """Let go of the server, or of the file. What was made beside and not published goes."""
        try:
            if isinstance(self._record, NewIndexRecord):
                self._record.discard()
        finally:
            release(self._place, self._client)

    def _condition(self, filter: str | None) -> str:
        return to_expression(parse(filter, self.fields)) if filter and filter.strip() else ""

    def _count(self, condition: str) -> int:
        with engine_errors(self.location, "reading"):
            asked = {"filter": condition, "output_fields": ["count(*)"], "timeout": self.seconds}
            return int(self._record.query(lambda items: self._client.query(items, **asked))[0]["count(*)"])

    def _among(self, names: Sequence[str]) -> int:
        """Count which of these ids are there."""
        parts = (names[start : start + _NAMES] for start in range(0, len(names), _NAMES))
        return sum(len(self._client.query(self._record.items, filter=ids_in(part), output_fields=["id"])) for part in parts)

    def _exact(self, vector: NDArray[np.float32], condition: str, k: int) -> list[Hit]:
        """Compare every vector, one after the other: slow, and the measure of what is fast."""
        best: list[tuple[float, str]] = []
        for names, block in self.vectors(condition):
            best = sorted([*best, *zip((normalized(block) @ vector).tolist(), names, strict=True)], reverse=True)[:k]
        listed = self._client.query(self._record.items, filter=ids_in(name for _, name in best), output_fields=SHOWN) if best else []
        rows = {row["id"]: row for row in listed}
        return [to_hit(rows[name], vector, score) for score, name in best]


# A filter in the words of Milvus, where metadata are keys that an item may lack.
#
# SQL lets nothing through that compares a missing value, negated or not, and that is the meaning of our filters.
# Milvus is not clear there, so a negation is carried down to the comparisons, and each says that the key must be
# there.

_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_BETWEEN, _ESCAPE = re.compile(r"(%*+)((?:[^%_\\]|\\[^%_])*+)(%*+)", re.DOTALL), re.compile(r"\\(.)", re.DOTALL)
_OPPOSITE = {"=": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def to_expression(one: Filter, *, negated: bool = False) -> str:
    """Return the expression."""
    if not isinstance(one, Group):
        return _test(one, negated=negated)
    if one.how == "not":
        return to_expression(one.parts[0], negated=not negated)
    how = one.how if not negated else {"and": "or", "or": "and"}[one.how]
    return f" {how} ".join(f"({to_expression(part, negated=negated)})" for part in one.parts)


def ids_in(names: Iterable[str]) -> str:
    """Return the expression of items with these ids; the client's own is open to whatever stands in an id."""
    return f"id in [{', '.join(map(literal, names))}]"


def literal(value: Literal) -> str:
    """Return a value as Milvus writes it, which knows fewer escapes than JSON."""
    return f'"{value.translate(_ESCAPED)}"' if isinstance(value, str) else json.dumps(value)


def _test(one: Comparison, *, negated: bool) -> str:
    own = one.field in FILTERABLE
    name = one.field if own else f"$meta[{json.dumps(one.field, ensure_ascii=False)}]"
    there = f'{name} != ""' if own else f"(exists {name})"  # in brackets: older servers take what comes after it as its own
    if one.sign == "null":
        missing = f'{name} == ""' if own else f"not {there}"
        return there if negated else missing
    values = [literal(value) for value in one.values]
    if one.sign == "in" and not own:  # Milvus Lite takes lists for its own columns alone
        sign, how = ("!=", " and ") if negated else ("==", " or ")
        asked = f"({how.join(f'{name} {sign} {value}' for value in values)})"
    elif one.sign == "in":
        asked = f"{name} {'not in' if negated else 'in'} [{', '.join(values)}]"
    elif one.sign == "like":
        alike = _like(name, str(one.values[0]))
        asked = f"not ({alike})" if negated else f"({alike})"
    else:
        asked = f"{name} {_OPPOSITE[one.sign] if negated else {'=': '=='}.get(one.sign, one.sign)} {values[0]}"
    return f"{there} and {asked}"


def _like(name: str, pattern: str) -> str:
    """Return the condition of a pattern.

    Where a text with a backslash stands between nothing but `%`, pyarrow, which Milvus Lite asks, takes its backslashes literally. One sign
    more beside the text, any, or none at all, says the same and is read as it is meant.
    """
    found = _BETWEEN.fullmatch(pattern)
    if found is None or "\\" not in found[2] or not (found[1] or found[3]):
        return f"{name} like {literal(pattern)}"
    text = found[2]
    more = [f"%{text}_%", f"%_{text}"] if found[1] and found[3] else [f"%_{text}"] if found[1] else [f"{text}_%"]
    whole = literal(_ESCAPE.sub(r"\g<1>", text))
    return " or ".join([f"{name} == {whole}", *(f"{name} like {literal(one)}" for one in more)])


# Items as rows of a Milvus collection, and back; and the three ways to ask it: by vector, by words, by both.

SHOWN = ["id", "text", "place", "thumbnail", "media", "vector", "$meta"]
_FUSED = 50  # of each list, at least, when two are fused
_LONGEST_TEXT, _LONGEST = 60_000, 65_535  # bytes; what Milvus takes of one value, metadata together, is the second


def check_sizes(items: Sequence[Item]) -> None:
    """Refuse what Milvus cannot hold; a text is cut instead, since the vector has all of it."""
    for one in items:
        said = {
            "id": (len(one.id.encode()), LONGEST_ID),
            "place": (len(one.place.encode()), _LONGEST),
            "media": (len(one.media.encode()), _LONGEST),
            "metadata": (len(json.dumps(dict(one.metadata), ensure_ascii=False, default=str).encode()), _LONGEST),
        }
        for what, (size, most) in said.items():
            if size > most:
                raise UsageError(f"the {what} of the item {one.id[:60]!r} has {size:,} bytes; {most:,} are the most in Milvus")


def to_row(one: Item, origin: str, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return an item as a row; of a very long text the beginning.

    A field that the item lacks is written as nothing, since a row that takes another's place may otherwise keep what that one had.
    """
    named = {field_name(key): value for key, value in one.metadata.items()}
    meta: dict[str, Any] = {name: to_field_type(named.get(name), kind) for name, kind in kinds.items() if name not in FILTERABLE}
    return meta | {
        "id": one.id,
        "text": one.text.encode()[:_LONGEST_TEXT].decode(errors="ignore"),
        "place": one.place,
        "media": one.media,
        "origin": origin,
        "thumbnail": base64.b64encode(one.thumbnail or b"").decode(),
        "vector": np.asarray(one.vector, np.float32).tolist(),
    }


def to_item(row: Mapping[str, Any], vector: NDArray[np.float32] | None = None) -> Item:
    """Return a row as an item."""
    meta = {
        name: value for name, value in row.items() if name not in (*RESERVED, "sparse") and not name.startswith("$") and value is not None
    }
    small = base64.b64decode(row.get("thumbnail") or "") or None
    return Item(str(row["id"]), vector, row.get("text") or "", small, row.get("place") or "", meta, row.get("media") or "")


def to_hit(row: Mapping[str, Any], near: NDArray[np.float32] | None, score: float) -> Hit:
    """Return a row as a hit, with its cosine where there is a vector to compare."""
    # Of words, Milvus gives what is the larger the better, and Milvus Lite the same below zero.
    return Hit(to_item(row), abs(score) if near is None else float(near @ np.asarray(row["vector"], np.float32)))


def query_rows(
    client: Any,
    name: str,
    near: NDArray[np.float32] | None,
    words: str | None,
    condition: str,
    k: int,
    arranged: Mapping[str, Value],
    seconds: float | None = None,
) -> list[dict[str, Any]]:
    """Return the best rows, each with `id`, `distance` and `entity`."""
    from pymilvus import AnnSearchRequest, RRFRanker

    effort = int(arranged.get("effort") or 1)
    common = {"limit": k, "output_fields": SHOWN, "timeout": seconds}
    many = max(k, _FUSED)
    params = {"ef": max(64 * effort, many), "nprobe": 16 * effort} if arranged else {}
    if near is None and words is None:
        return [{"id": row["id"], "distance": 0.0, "entity": row} for row in client.query(name, filter=condition, **common)]
    if words is None and near is not None:
        how = {"data": [near.tolist()], "anns_field": "vector", "search_params": {"params": params}}
        return list(client.search(name, filter=condition, **how, **common)[0])
    if near is None:
        return list(client.search(name, data=[words], anns_field="sparse", filter=condition, **common)[0])
    asked = [
        AnnSearchRequest([near.tolist()], "vector", {"params": params}, limit=many, expr=condition),
        AnnSearchRequest([words], "sparse", {}, limit=many, expr=condition),
    ]
    return list(client.hybrid_search(name, asked, RRFRanker(), **common)[0])
