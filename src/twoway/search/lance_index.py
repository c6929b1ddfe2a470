"""What makes a LanceDB table fast: an index of its words, one of its ids and, from a size on, one of its vectors.

Below that size every vector is compared, which is exact. Above, LanceDB's graph (`hnsw`, which keeps one byte for a number and looks again
at the whole numbers of what it found) or its cells (`ivf` with whole numbers, `ivf-pq` with a few bytes a vector) look at a part of them.
How hard they look is one number, the effort, so that recall is set by measuring and not by guessing; it stands beside the column.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .store import Value

KINDS = ("hnsw", "ivf", "ivf-pq")
_NOTE = "twoway.search"
_IDS = 10_000  # from this many items on a list of ids pays


def arrange(table: Any, *, exact_below: int, kind: str) -> None:
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
    had = settings(table)
    if rows < exact_below:
        if had:
            table.drop_index("vector_idx")
            note(table, {})
    elif had.get("kind") != kind or rows > 2 * int(had.get("rows") or 0):
        # An index takes new rows in, but its cells and scales stay those of the rows it was made from.
        table.create_index("vector", config=_config(kind))
        note(table, {"kind": kind, "rows": rows, "effort": 1})
    table.optimize()


def index_words(table: Any) -> None:
    """Make the index of words; texts that come later are found by it too, at once."""
    from lancedb.index import FTS

    table.create_index("text", config=FTS())


def has_words(table: Any) -> bool:
    """Say whether there is an index of words."""
    return any("text" in one.columns for one in table.list_indices())


def settings(table: Any) -> dict[str, Value]:
    """Return what stands beside the column of the vectors."""
    said = (table.schema.field("vector").metadata or {}).get(_NOTE.encode())
    found: dict[str, Value] = json.loads(said) if said else {}
    return found


def note(table: Any, said: Mapping[str, Value]) -> None:
    """Write it there."""
    table.update_field_metadata({"path": "vector", "metadata": {_NOTE: json.dumps(dict(said)) if said else None}})


def query(table: Any, vector: NDArray[np.float32] | None, words: str | None) -> Any:
    """Return the question by vector, by words, by both or by neither."""
    from lancedb.query import MatchQuery

    if vector is None and words is None:
        return table.search()
    if words is None:
        return table.search(np.asarray(vector, np.float32), vector_column_name="vector", query_type="vector")
    match = MatchQuery(words, "text")
    if vector is None:
        return table.search(match, query_type="fts")
    return table.search(query_type="hybrid", vector_column_name="vector").vector(np.asarray(vector, np.float32)).text(match)


def ask(query: Any, said: Mapping[str, Value], *, exact: bool) -> Any:
    """Tell a query how hard to look."""
    if not said:
        return query
    if exact:
        return query.bypass_vector_index()
    effort = int(said.get("effort") or 1)
    if said["kind"] == "hnsw":
        return query.ef(64 * effort).refine_factor(2 * effort)
    query = query.nprobes(20 * effort)
    return query.refine_factor(4 * effort) if said["kind"] == "ivf-pq" else query


def _config(kind: str) -> Any:
    from lancedb.index import HnswSq, IvfFlat, IvfPq

    return {"hnsw": HnswSq, "ivf": IvfFlat, "ivf-pq": IvfPq}[kind](distance_type="cosine")
