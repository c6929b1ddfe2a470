"""`index`: a folder of vectors into a database, added to, gone on with, never half a row.

Every shard of the folder is one step (in LanceDB; see `milvus.py`), and each of its items remembers which file of vectors it came from. So
the same command again passes over the shards that stand as they were, and a run that was cut off is gone on with by running it again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.policy import BAD_ROWS, Policy
from ..data.progress import steps
from ..errors import TwowayError, UsageError
from ..files import sha256
from .lance_filter import quoted
from .opening import create_store, exists, open_store
from .pictures import Name, Pictures
from .recall import Measured, find_effort
from .source import Source

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..content import ContentError
    from .store import Store

EXACT_BELOW, RECALL = 50_000, 0.95


@dataclass(frozen=True)
class IndexResult:
    """What lies in the database now, and what this run did."""

    db: str
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
    measured: list[Measured]
    embedded_all: bool  # whether 'twoway embed' had ended
    seconds: float


@dataclass
class _Counts:
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    pictures: int = 0
    bad: int = 0


def index(
    vectors: str | Path | None,
    db: str | Path,
    *,
    delete: Iterable[str] = (),
    thumbnails: bool = True,
    root: str | Path | None = None,
    ids: str = "own",
    exact_below: int = EXACT_BELOW,
    kind: str = "hnsw",
    recall: float = RECALL,
    compact: bool = False,
    overwrite: bool = False,
) -> IndexResult:
    """Bring what `twoway embed` wrote into a database, take ids out of it, and bring its indexes up to date.

    `ids` is `own`, or `place` where rows of the data have ids that are not one's own. From `exact_below` items on an index of this `kind`
    looks at a part of the vectors, as hard as this `recall` of the ten nearest takes.
    """
    start, gone = time.monotonic(), list(delete)
    _check(bool(vectors is not None or gone or compact), ids, recall)
    source = None if vectors is None else Source(Path(vectors), ids)
    listed = _list_of(str(db))
    policy, counts = Policy("skip", listed), _Counts()

    def bad(error: ContentError) -> None:
        counts.bad += 1
        policy.refuse(error)

    pictures = Pictures(source.shards.manifest, root=root, bad=bad) if source and thumbnails else None
    store = _open(str(db), source, overwrite=overwrite)
    try:
        with store.writing():
            if source is not None:
                policy.start()
                store.declare(source.fields)
                _bring(store, source, pictures, counts)
            missing = [name for name in gone if not store.count(f"id = {quoted(name)}")]
            deleted = store.delete(gone) if gone else 0
            measured = _arrange(store, exact_below, kind, recall, changed=bool(counts.added or counts.replaced))
            if compact:
                store.compact()
        said = store.arranged()
        return IndexResult(
            str(db),
            store.count(),
            counts.added,
            counts.replaced,
            counts.unchanged,
            deleted,
            missing,
            counts.pictures,
            counts.bad,
            str(listed) if counts.bad else None,
            str(said.get("kind") or "exact"),
            int(said.get("effort") or 1),
            measured,
            source is None or bool(source.shards.manifest.get("finished")),
            time.monotonic() - start,
        )
    finally:
        store.close()


def _check(something: bool, ids: str, recall: float) -> None:
    """Refuse what says nothing to do, names rows in no known way, or cannot be reached."""
    if not something:
        raise UsageError("nothing to do: name a folder of vectors, ids to delete, or --compact")
    if ids not in ("own", "place"):
        raise UsageError(f"ids are own or place, not {ids!r}")
    if not 0 <= recall <= 1:
        raise UsageError(f"the recall that is wanted is from 0 to 1, not {recall:g}")


def _open(db: str, source: Source | None, *, overwrite: bool) -> Store:
    """Open or make the database, and refuse to mix models."""
    if source is not None and (overwrite or not exists(db)):
        return create_store(db, source.about, overwrite=overwrite)
    store = open_store(db)
    if source is None:
        return store
    these = source.about.model
    other = f"and these are of {these}" if these != store.model else "which has changed since, or was opened otherwise"
    for had, new, what in (
        (store.fingerprint, source.about.fingerprint, f"vectors of another model ({store.model}, {other})"),
        (store.dimension, source.about.dimension, f"vectors of {store.dimension} numbers, and these have {source.about.dimension}"),
    ):
        if had != new:
            store.close()
            raise UsageError(f"{db} holds {what}; choose another --db, or pass --overwrite to build it anew from these")
    return store


def _bring(store: Store, source: Source, pictures: Pictures | None, counts: _Counts) -> None:
    """Add every shard that does not stand there as it is."""
    size = int(source.shards.manifest["shard_rows"])
    for number, path in steps(source.steps(), f"indexing {source.many} shards", total=source.many):
        table = source.shards.read(number)
        origin = f"{sha256(path)[:32]}{'+' if pictures else ''}"
        if store.held(origin) == len(table):
            counts.unchanged += len(table)
            continue
        bad = counts.bad
        seen = int(table.schema.metadata[b"twoway.rows"])
        rows = [Name(*row) for row in zip(*(table[column].to_pylist() for column in ("id", "file", "row")), strict=True)]
        small: list[bytes | None] = pictures.of(number * size, seen, rows) if pictures else [None] * len(table)
        counts.pictures += sum(one is not None for one in small)
        if not len(table):
            continue
        try:
            # What lacks a picture is tried again by the next run.
            added, replaced = store.add(source.items(table, small), origin=origin if counts.bad == bad else f"{origin}?")
        except TwowayError as error:
            raise type(error)(f"{error} (the same command goes on; {number} of {source.many} shards are there)") from error
        counts.added, counts.replaced = counts.added + added, counts.replaced + replaced


def _arrange(store: Store, exact_below: int, kind: str, recall: float, *, changed: bool) -> list[Measured]:
    """Bring the indexes up to date, and set how hard that of the vectors looks."""
    before = dict(store.arranged())
    store.arrange(exact_below=exact_below, kind=kind)
    now = store.arranged()
    if not now or recall <= 0 or not (changed or before != now):
        return []
    return find_effort(store, recall)


def _list_of(db: str) -> Path:
    """Return where pictures that cannot be read are listed: in the folder, or beside the file, or here."""
    if db.startswith("milvus"):
        return Path(BAD_ROWS)
    return Path(f"{db}.{BAD_ROWS}") if db.endswith(".db") else Path(db) / BAD_ROWS
