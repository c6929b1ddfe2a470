"""The tables of the small world: their columns, and writing them so that equal content gives equal bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WORDS = pa.map_(pa.string(), pa.string())
SIDE = pa.struct([("text", pa.string()), ("picture", pa.string()), ("text_first", pa.bool_())])
SCHEMAS: dict[str, pa.Schema] = {
    "pictures": pa.schema(
        [
            ("id", pa.string()),
            ("concept", pa.string()),
            ("source", pa.string()),
            ("style", pa.string()),
            ("image", pa.binary()),
            ("half", pa.string()),
        ]
    ),
    "concepts": pa.schema(
        [
            ("concept", pa.string()),
            ("cluster", pa.string()),
            ("half", pa.string()),
            ("kind", pa.string()),
            ("group", pa.string()),
            ("names", WORDS),
            ("keywords", pa.map_(pa.string(), pa.list_(pa.string()))),
            ("gloss", pa.string()),
            ("facts", WORDS),
        ]
    ),
    "texts": pa.schema([(name, pa.string()) for name in ("id", "text", "term", "gloss", "half", "source")]),
    "pages": pa.schema(
        [
            ("id", pa.string()),
            ("image", pa.binary()),
            ("language", pa.string()),
            ("concepts", pa.list_(pa.string())),
            ("text", pa.string()),
            ("boxes", pa.list_(pa.list_(pa.int16(), 4))),
            ("half", pa.string()),
            ("queries", WORDS),
        ]
    ),
    "scenes": pa.schema(
        [("id", pa.string()), ("kind", pa.string()), ("image", pa.binary()), ("concepts", pa.list_(pa.string())), ("half", pa.string())]
    ),
    "questions": pa.schema(
        [
            *((name, pa.string()) for name in ("id", "task", "group", "half")),
            ("query", SIDE),
            ("answers", pa.list_(SIDE)),
        ]
    ),
}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema | None = None) -> None:
    """Write rows as Parquet; the schema is the one of the file's name where none is given."""
    schema = schema or SCHEMAS[path.stem]
    columns = {field.name: [_pairs(row[field.name], field.type) for row in rows] for field in schema}
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd", compression_level=19)


def _pairs(value: Any, kind: pa.DataType) -> Any:
    """Give a mapping in the order of its keys, as Parquet's map type wants it."""
    return sorted(value.items()) if pa.types.is_map(kind) and value is not None else value
