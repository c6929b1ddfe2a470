"""The tables of the small world: their columns, and writing them so that equal content gives equal bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

WORDS = pa.map_(pa.string(), pa.string())
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
}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as Parquet; the schema is the one of the file's name."""
    schema = SCHEMAS[path.stem]
    columns = {name: [_pairs(row[name]) for row in rows] for name in schema.names}
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd", compression_level=19)


def _pairs(value: Any) -> Any:
    """Give a mapping in the order of its keys, as Parquet's map type wants it."""
    return sorted(value.items()) if isinstance(value, dict) else value
