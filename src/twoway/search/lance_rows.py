"""Items as rows of a LanceDB table, and back: a column for each field of the metadata beside an item's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .fields import OPEN, OWN, as_kind, name_of
from .store import Item

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

TYPES = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_KINDS = {kind: name for name, kind in TYPES.items()}


def schema_of(dimension: int, key: bytes, said: dict[str, Any]) -> pa.Schema:
    """Return the columns of an empty table, which remembers something under a key."""
    kinds = {"id": pa.string(), "text": pa.string(), "place": pa.string(), "thumbnail": pa.binary(), "origin": pa.string()}
    vector = pa.field("vector", pa.list_(pa.float32(), dimension))
    return pa.schema([*(pa.field(*one) for one in kinds.items()), vector]).with_metadata({key: json.dumps(said)})


def fields_of(schema: pa.Schema) -> dict[str, str]:
    """Return what a filter may name, and its type."""
    return OPEN | {field.name: _KINDS[field.type] for field in schema if field.name not in OWN}


def rows_of(items: Sequence[Item], origin: str, schema: pa.Schema, dimension: int) -> pa.Table:
    """Return items as rows."""
    flat = pa.array(np.concatenate([np.asarray(one.vector, np.float32) for one in items]))
    columns: dict[str, Any] = {
        "id": [one.id for one in items],
        "text": [one.text or None for one in items],
        "place": [one.place for one in items],
        "thumbnail": [one.thumbnail for one in items],
        "origin": [origin] * len(items),
        "vector": pa.FixedSizeListArray.from_arrays(flat, dimension),
    }
    rows = [{name_of(key): value for key, value in one.metadata.items()} for one in items]
    for name, kind in fields_of(schema).items():
        if name not in columns:
            columns[name] = [as_kind(row.get(name), kind) for row in rows]
    return pa.Table.from_arrays([_array(columns[field.name], field.type) for field in schema], schema=schema)


def items_of(found: pa.Table, vectors: NDArray[np.float32] | None = None) -> Iterator[Item]:
    """Return rows as items."""
    names = [field.name for field in found.schema if field.name not in OWN and not field.name.startswith("_")]
    kinds = {name: "number" if pa.types.is_floating(found.schema.field(name).type) else "" for name in names}
    for number, row in enumerate(found.select(["id", "text", "place", "thumbnail", *names]).to_pylist()):
        meta = {name: value for name in names if (value := as_kind(row[name], kinds[name])) is not None}
        yield Item(row["id"], None if vectors is None else vectors[number], row["text"] or "", row["thumbnail"], row["place"] or "", meta)


def matrix(found: pa.Table, dimension: int) -> NDArray[np.float32]:
    """Return the vectors of a result as rows."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in found["vector"].chunks]
    return np.concatenate(chunks).reshape(-1, dimension) if chunks else np.zeros((0, dimension), np.float32)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)
