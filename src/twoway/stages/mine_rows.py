"""Pairs with their hard negatives as Parquet that any stage reads as pairs, each negative with where it comes from.

A picture that lies in a file stays there: its path is written relative to one folder, `root`, which the data's entry in a recipe names.
A picture in memory (out of a table, or a page) is written into the file.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from twoway.content import Text
from twoway.errors import UsageError
from twoway.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twoway.content import Document
    from twoway.data.pair_rows import PairRow

_PART = pa.struct([("text", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
_SIDE = pa.list_(_PART)
SCHEMA = pa.schema(
    [
        ("query", _SIDE),
        ("positives", pa.list_(_SIDE)),
        ("negatives", pa.list_(_SIDE)),
        ("task", pa.string()),
        ("place", pa.string()),
        ("positive_score", pa.float32()),
        # For each of the negatives, in order.
        ("mined_from", pa.list_(pa.string())),  # given (it was in the data), rank, or random
        ("mined_score", pa.list_(pa.float32())),
        ("mined_rank", pa.list_(pa.int32())),
        ("mined_place", pa.list_(pa.string())),
    ]
)


class Negative(NamedTuple):
    """A negative as it is written."""

    document: Document
    origin: str
    score: float | None
    rank: int | None


def write(path: Path, rows: Sequence[tuple[PairRow, float, Sequence[Negative]]], root: Path | None, facts: Mapping[str, int]) -> None:
    """Write one file, whole or not at all; `facts` are counts kept with it."""
    written = [
        {
            "query": _side(pair.query, root),
            "positives": [_side(one, root) for one in (pair.positive, *pair.others)],
            "negatives": [_side(one.document, root) for one in negatives],
            "task": pair.task,
            "place": None if pair.place is None else str(pair.place),
            "positive_score": score,
            "mined_from": [one.origin for one in negatives],
            "mined_score": [one.score for one in negatives],
            "mined_rank": [one.rank for one in negatives],
            "mined_place": [None if one.document.place is None else str(one.document.place) for one in negatives],
        }
        for pair, score, negatives in rows
    ]
    sink = pa.BufferOutputStream()
    schema = SCHEMA.with_metadata({"twoway.facts": json.dumps(dict(facts))})
    pq.write_table(pa.Table.from_pylist(written, schema), sink, row_group_size=100, compression="zstd")
    write_whole(path, memoryview(sink.getvalue()).tobytes())


def facts_of(path: Path) -> dict[str, int]:
    """Return the counts that are kept with a file."""
    return dict(json.loads(pq.read_schema(path).metadata[b"twoway.facts"]))


def _side(document: Document, root: Path | None) -> list[dict[str, Any]]:
    """Return a side as a list of parts."""
    return [{"text": part.text} if isinstance(part, Text) else {"image": _image(part, document, root)} for part in document.parts]


def _image(image: Any, document: Document, root: Path | None) -> dict[str, Any]:
    if isinstance(image.source, Path):
        path = image.path(document.place)
        if root is None or not path.is_relative_to(root):
            raise UsageError(f"{path} does not lie in {root}; the data has changed since it was listed")
        return {"path": str(path.relative_to(root))}
    if isinstance(image.source, bytes):
        return {"bytes": image.source}
    sink = io.BytesIO()
    image.source.save(sink, format="PNG")
    return {"bytes": sink.getvalue()}
