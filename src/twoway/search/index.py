"""`index`: a folder of vectors into a database, added to, gone on with, never half a row.

Every shard of the folder is one step (in LanceDB; see `milvus.py`), and each of its items remembers which file of vectors it came from. So
the same command again passes over the shards that stand as they were, and a run that was cut off is gone on with by running it again. One
that replaces the whole index builds beside it and takes its place once every row is there.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.config import gather, takes
from twoway.content import Place, recording_at
from twoway.data.rows import BAD_ROWS, Policy
from twoway.embedding.shards import Shards
from twoway.errors import TwowayError, UsageError
from twoway.files import sha256
from twoway.progress import steps

from .config import IndexConfig
from .lance import sql_literal
from .pictures import RowKey, ThumbnailReader
from .query import create_store, open_store, store_exists
from .store import IndexInfo, Item, check_id, field_types, normalized, on_server

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from twoway.content import ContentError
    from twoway.embedding.writing import EmbedResult

    from .store import Store


@dataclass(frozen=True)
class IndexResult:
    """What lies in the database now, and what this run did."""

    index: str
    items: int
    added: int
    replaced: int
    unchanged: int
    deleted: int
    missing: list[str]  # ids that were to be deleted and are not there
    pictures: int  # thumbnails made by this run
    bad_pictures: int
    bad_rows: str | None  # where those are listed
    kind: str  # exact, or the index of the vectors
    effort: int
    measured: list[EffortMeasurement]
    embedded_all: bool  # whether 'twoway embed' had ended
    seconds: float
    embedded: EmbedResult | None = None  # with a model: what embedding the data gave


class _Counts:
    """What a run has brought so far; pictures that cannot be read are listed."""

    def __init__(self, listed: Path) -> None:
        self.listed, self.policy = listed, Policy("skip", listed)
        self.added = self.replaced = self.unchanged = self.pictures = self.bad = 0

    def refuse(self, error: ContentError) -> None:
        """Count and list a picture that cannot be read."""
        self.bad += 1
        self.policy.refuse(error)


@takes(IndexConfig)
def index(
    data: str | Path | None,
    index: str | Path,
    *,
    config: IndexConfig | None = None,
    overwrite: bool = False,
    **options: Any,
) -> IndexResult:
    """Bring what `twoway embed` wrote into an index, take ids out of it, and bring it up to date; `options` are those of `IndexConfig`.

    With a `model`, `data` is embedded first. `ids` is `own`, or `place` where rows of the data have ids that are not one's own. From
    `exact_below` items on an index of this `kind` looks at a part of the vectors, as hard as this `recall` of the ten nearest takes.
    """
    config = gather(IndexConfig, config, options, _index)
    start, gone = time.monotonic(), list(config.delete)
    made = None if config.model is None else _embed(data, str(index), config, overwrite=overwrite)
    vectors = data if made is None else made.out
    if vectors is None and not (gone or config.compact):
        raise UsageError("nothing to do: name a folder of vectors, ids to delete, or --compact")
    source = None if vectors is None else VectorFolder(Path(vectors), config.ids)
    brought, pictures = _Counts(_list_of(str(index))), None
    if source and config.thumbnails:
        pictures = ThumbnailReader(source.shards.manifest, root=config.root, limits=config.limits, bad=brought.refuse)
    store = _open(str(index), source, overwrite=overwrite)
    try:
        with store.writing():
            if source is not None:
                _bring(store, source, pictures, brought, anew=overwrite)
                store.publish()
            missing, deleted = _take_out(store, gone)
            changed = bool(brought.added or brought.replaced)
            measured = _arrange(store, config, changed=changed)
            if config.compact:
                store.compact()
        found = _result(store, source, brought, deleted=deleted, missing=missing, measured=measured, seconds=time.monotonic() - start)
        return replace(found, embedded=made)
    finally:
        store.close()


_index = index  # which a parameter of it is called, too


def _embed(data: str | Path | None, index: str, config: IndexConfig, *, overwrite: bool) -> EmbedResult:
    """Embed the data, into a folder beside the index where none is named."""
    assert config.model is not None
    if data is None:
        raise UsageError("--model embeds data; name it: twoway index DATA --model MODEL --index PATH")
    if config.out is None and on_server(index):
        raise UsageError("a Milvus server keeps no folder of vectors; name one with --out")
    from twoway.embedding.bulk import embed  # a model's libraries take seconds to import

    out = config.out or f"{index.rstrip('/')}-vectors"
    return embed(config.model, data, out, config=config.embedding(), overwrite=overwrite)


def _open(db: str, source: VectorFolder | None, *, overwrite: bool) -> Store:
    """Open or make the database, and refuse to mix models."""
    if source is not None and (overwrite or not store_exists(db)):
        return create_store(db, source.info, overwrite=overwrite)
    store = open_store(db)
    if source is None:
        return store
    these = source.info.model
    other = f"and these are of {these}" if these != store.model else "which has changed since, or was opened otherwise"
    for had, new, what in (
        (store.fingerprint, source.info.fingerprint, f"vectors of another model ({store.model}, {other})"),
        (store.dimension, source.info.dimension, f"vectors of {store.dimension} numbers, and these have {source.info.dimension}"),
    ):
        if had != new:
            store.close()
            raise UsageError(f"{db} holds {what}; choose another --index, or pass --overwrite to build it anew from these")
    return store


def _bring(store: Store, source: VectorFolder, pictures: ThumbnailReader | None, brought: _Counts, *, anew: bool) -> None:
    """Add every shard that does not stand there as it is."""
    brought.policy.start()
    store.add_fields(source.fields)
    size = int(source.shards.manifest["shard_rows"])
    for number, path in steps(source.steps(), f"indexing {source.many} shards", total=source.many):
        table = source.shards.read(number)
        origin = f"{sha256(path)[:32]}{'+' if pictures else ''}"
        if store.count_origin(origin) == len(table):
            brought.unchanged += len(table)
            continue
        bad = brought.bad
        seen = int(table.schema.metadata[b"twoway.rows"])
        rows = source.keys(table)
        small: list[bytes | None] = pictures.read(number * size, seen, rows) if pictures else [None] * len(table)
        brought.pictures += sum(one is not None for one in small)
        if not len(table):
            continue
        try:
            # What lacks a picture is tried again by the next run.
            added, replaced = store.add(source.items(table, small), origin=origin if brought.bad == bad else f"{origin}?")
        except TwowayError as error:
            there = f"goes on; {number} of {source.many} shards are there"
            raise type(error)(f"{error} (the same command {'begins anew; an index that was there stands' if anew else there})") from error
        brought.added, brought.replaced = brought.added + added, brought.replaced + replaced


def _take_out(store: Store, names: list[str]) -> tuple[list[str], int]:
    """Delete items, and return which of them are not there and how many were."""
    missing = [name for name in names if not store.count(f"id = {sql_literal(name)}")]
    return missing, store.delete(names) if names else 0


EXACT_BELOW, USUAL_KIND = 50_000, "hnsw"  # of an index whose maker does not say


def _arrange(store: Store, config: IndexConfig, *, changed: bool) -> list[EffortMeasurement]:
    """Bring the indexes up to date, and set how hard that of the vectors looks; what is not said stays as it stands."""
    before = dict(store.index_settings())
    usual = 0 if before else EXACT_BELOW
    store.build_indexes(
        exact_below=usual if config.exact_below is None else config.exact_below,
        kind=config.kind or str(before.get("kind") or USUAL_KIND),
    )
    now = store.index_settings()
    if not now or store.info.many or config.recall <= 0 or not (changed or before != now):
        return []
    return find_effort(store, config.recall)


def _result(
    store: Store,
    source: VectorFolder | None,
    brought: _Counts,
    *,
    deleted: int,
    missing: list[str],
    measured: list[EffortMeasurement],
    seconds: float,
) -> IndexResult:
    """Put together what lies there and what was done."""
    said = store.index_settings()
    return IndexResult(
        index=store.location,
        items=store.count(),
        added=brought.added,
        replaced=brought.replaced,
        unchanged=brought.unchanged,
        deleted=deleted,
        missing=missing,
        pictures=brought.pictures,
        bad_pictures=brought.bad,
        bad_rows=str(brought.listed) if brought.bad else None,
        kind=str(said.get("kind") or "exact"),
        effort=int(said.get("effort") or 1),
        measured=measured,
        embedded_all=source is None or bool(source.shards.manifest.get("finished")),
        seconds=seconds,
    )


def _list_of(db: str) -> Path:
    """Return where pictures that cannot be read are listed: in the folder, or beside the file, or here."""
    if on_server(db):
        return Path(BAD_ROWS)
    return Path(f"{db}.{BAD_ROWS}") if db.endswith(".db") else Path(db) / BAD_ROWS


# A folder of vectors as items, looked through before anything is written.

_NAMES, _METAS = ["id", "file", "row", "unit"], ["file", "row", "unit", "meta"]


class VectorFolder:
    """A folder of vectors, looked through before anything is written."""

    def __init__(self, folder: Path, ids: str) -> None:
        self.shards = Shards.open(folder)
        self.place = ids == "place"
        model, manifest = Path(str(self.shards.manifest["model"])), self.shards.manifest
        where = str(model.resolve()) if model.is_dir() else manifest["model"]
        self.info = IndexInfo(where, manifest["fingerprint"], manifest["dim"], self.shards.has_many)
        self.many = self.shards.done()
        self._check()
        self.fields = field_types(meta for table in self.shards.tables(_METAS) for meta in self.metas(table))

    def steps(self) -> Iterator[tuple[int, Path]]:
        """Yield the number and the file of every shard."""
        yield from ((number, self.shards.path(number)) for number in range(self.many))

    def names(self, table: pa.Table) -> list[str]:
        """Return the ids of a shard."""
        if not self.place:
            return [str(name) for name in table["id"].to_pylist()]
        rows = zip(*(table[column].to_pylist() for column in ("id", "file", "row", "unit")), strict=True)
        return [name if file is None else str(Place(file, row, kind)) for name, file, row, kind in rows]

    def keys(self, table: pa.Table) -> list[RowKey | None]:
        """Return what tells the rows of a shard from others in the data; a piece of a text (`embed --chunks`) is no row there."""
        rows = zip(*(table[column].to_pylist() for column in ("id", "file", "row", "meta")), strict=True)
        cut = self.shards.manifest["data"].get("chunks") is not None
        return [None if cut and _is_piece(name, json.loads(said)) else RowKey(name, file, row) for name, file, row, said in rows]

    def metas(self, table: pa.Table) -> list[dict[str, Any]]:
        """Return what filters may ask of the rows of a shard: where they come from, and what they had beside their content."""
        found = []
        for file, row, kind, said in zip(*(table[column].to_pylist() for column in _METAS), strict=True):
            known: dict[str, Any] = {} if file is None else {"file": file} | ({} if row is None else {kind: row})
            meta = json.loads(said)
            meta.pop("id", None)
            found.append(known | meta)
        return found

    def items(self, table: pa.Table, small: Sequence[bytes | None]) -> list[Item]:
        """Return the rows of a shard as items."""
        places = [
            "" if file is None else str(Place(file, row, kind))
            for file, row, kind in zip(*(table[column].to_pylist() for column in _METAS[:3]), strict=True)
        ]
        texts = (text or "" for text in table["text"].to_pylist())
        if self.shards.has_many:
            vectors: Iterable[NDArray[np.float32]] = [normalized(one) for one in self.shards.multi_vectors(table)]
        else:
            vectors = normalized(self.shards.vectors(table))
        media = ("" if file is None or recording_at(file) is None else file for file in table["image"].to_pylist())
        columns = zip(self.names(table), vectors, texts, small, places, self.metas(table), media, strict=True)
        return [Item(*one) for one in columns]

    def _check(self) -> None:
        """Refuse a folder without vectors, and ids that stand twice."""
        for table in self.shards.tables(_NAMES):
            if not {".", ".."}.isdisjoint(self.names(table)):
                for name, file, row, kind in zip(self.names(table), *(table[column].to_pylist() for column in _NAMES[1:]), strict=True):
                    check_id(name, str(Place(file or "?", row, kind)))
        hashes = [np.fromiter(map(hash, self.names(table)), np.int64, len(table)) for table in self.shards.tables(_NAMES)]
        together = np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, np.int64)
        if not len(together):
            raise UsageError(f"{self.shards.folder} holds no vectors yet; let 'twoway embed' end")
        twice = set(together[1:][together[1:] == together[:-1]].tolist())
        seen: dict[str, str] = {}
        for table in self.shards.tables(_NAMES) if twice else ():
            for name, file, row, kind in zip(self.names(table), *(table[column].to_pylist() for column in _NAMES[1:]), strict=True):
                place = str(Place(file or "?", row, kind))
                if name in seen:
                    other = "" if place == seen[name] else ", or pass --ids place"
                    where = f"({seen[name]} and {place}), and one would take the other's place"
                    raise UsageError(f"two rows have the id {name!r} {where}; give each its own{other}")
                if hash(name) in twice:
                    seen[name] = place


def _is_piece(name: str, meta: Mapping[str, Any]) -> bool:
    return "characters" in meta and name.endswith(f"#{meta.get('chunk')}")


# What an index of the vectors finds of the true nearest, and how hard it has to look for a recall that is wanted.

QUERIES, K = 100, 10
EFFORTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class EffortMeasurement:
    """Recall of the ten nearest against exact search, at one effort."""

    effort: int
    recall: float
    milliseconds: float  # of one search, one after the other, with what is shown of the items
    cpu_milliseconds: float  # of all threads of this process, which other work on the machine does not change


def find_effort(store: Store, wanted: float) -> list[EffortMeasurement]:
    """Set the smallest effort that reaches a recall (or the largest there is), and return what was measured on the way."""
    queries, true = true_neighbours(store)
    found: list[EffortMeasurement] = []
    for effort in EFFORTS if len(queries) else ():
        store.set_effort(effort)
        found.append(measure_effort(store, queries, true, effort))
        if found[-1].recall >= wanted:
            break
    return found


def measure_effort(store: Store, queries: dict[str, NDArray[np.float32]], true: dict[str, set[str]], effort: int) -> EffortMeasurement:
    """Ask for the neighbours of items, which themselves do not count."""
    start, spent, shares = time.perf_counter(), time.process_time(), []
    for name, vector in queries.items():
        found = [hit.item.id for hit in store.search(vector, top_k=K + 1) if hit.item.id != name]
        shares.append(len(true[name].intersection(found[:K])) / max(1, len(true[name])))
    took, spent = time.perf_counter() - start, time.process_time() - spent
    return EffortMeasurement(effort, float(np.mean(shares)), took / len(queries) * 1000, spent / len(queries) * 1000)


def true_neighbours(store: Store, *, many: int = QUERIES, seed: int = 0) -> tuple[dict[str, NDArray[np.float32]], dict[str, set[str]]]:
    """Draw items as queries, and return them with the ids of their true nearest; the vectors are gone through twice, block by block."""
    from twoway.embedding.nearest import nearest

    rows = store.count()
    drawn = set(np.random.default_rng(seed).choice(rows, min(many, rows), replace=False).tolist()) if rows else set()
    queries = dict(_picked(store.vectors(), drawn))
    asked = np.stack(list(queries.values())) if queries else np.zeros((0, store.dimension), np.float32)
    best: list[list[tuple[float, str]]] = [[] for _ in queries]
    for names, block in store.vectors() if queries else ():
        scores, places = nearest(asked, normalized(block), min(K + 1, len(block)))
        for mine, near, found in zip(best, scores.tolist(), places.tolist(), strict=True):
            mine[:] = sorted([*mine, *((score, names[place]) for score, place in zip(near, found, strict=True))], reverse=True)[: K + 1]
    true = {name: [other for _, other in mine if other != name][:K] for name, mine in zip(queries, best, strict=True)}
    return queries, {name: set(others) for name, others in true.items()}


def _picked(blocks: Iterable[tuple[list[str], NDArray[np.float32]]], drawn: set[int]) -> Iterable[tuple[str, NDArray[np.float32]]]:
    """Yield the items with these numbers."""
    start = 0
    for names, block in blocks:
        for place in sorted(number - start for number in drawn if start <= number < start + len(names)):
            yield names[place], normalized(block[place])
        start += len(names)
