"""The collections behind an index in Milvus: one of items, and beside it one of a single row, which is what the index remembers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_ID, _LONGEST = 2048, 65_535
_VERSION, _OLDEST = re.compile(r"v?(\d+)\.(\d+)"), (2, 5)  # of a server: the first with full text
_INDEXES: Mapping[str, dict[str, Any]] = {
    "": {"index_type": "FLAT"},  # every vector is compared
    "hnsw": {"index_type": "HNSW", "params": {"M": 16, "efConstruction": 200}},
    "ivf": {"index_type": "IVF_FLAT", "params": {"nlist": 1024}},
    "ivf-pq": {"index_type": "IVF_PQ", "params": {"nlist": 1024, "nbits": 8}},
}


def make(client: Any, name: str, dimension: int) -> None:
    """Make the collection of items."""
    from pymilvus import DataType, Function, FunctionType, MilvusClient

    version = client.get_server_version()
    if (found := _VERSION.match(version)) and (int(found[1]), int(found[2])) < _OLDEST:
        raise UsageError(f"this server runs Milvus {version}; an index needs 2.5 or later, the first with full text")
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=LONGEST_ID)
    schema.add_field("text", DataType.VARCHAR, max_length=_LONGEST, enable_analyzer=True)
    for other in ("place", "thumbnail", "origin"):
        schema.add_field(other, DataType.VARCHAR, max_length=_LONGEST)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    words = {"input_field_names": ["text"], "output_field_names": ["sparse"]}
    schema.add_function(Function(name="words", function_type=FunctionType.BM25, **words))
    indexes = client.prepare_index_params()
    indexes.add_index(field_name="vector", index_name="vector", metric_type="COSINE", **_INDEXES[""])
    indexes.add_index(field_name="sparse", index_name="sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")


def vector_index(client: Any, name: str, kind: str) -> None:
    """Put another index of the vectors in place of the one there."""
    if kind not in _INDEXES:
        known = [one for one in _INDEXES if one]
        raise UsageError(f"unknown kind of index {kind!r}{did_you_mean(kind, known)} (there are: {', '.join(known)})")
    client.release_collection(name)
    client.drop_index(name, "vector")
    indexes = client.prepare_index_params()
    indexes.add_index(field_name="vector", index_name="vector", metric_type="COSINE", **_INDEXES[kind])
    client.create_index(name, indexes)
    client.load_collection(name)


def drop(client: Any, name: str) -> None:
    """Take a collection away, where it is there."""
    if client.has_collection(name):
        client.drop_collection(name)


def keep(client: Any, name: str, said: dict[str, Any]) -> None:
    """Write what an index remembers, in one request; the collection for it is made with the first."""
    if not client.has_collection(_about(name)):
        _make_about(client, name)
    client.upsert(_about(name), [{"id": "about", "said": said, "vector": [0.0, 1.0]}])


def kept(client: Any, name: str) -> dict[str, Any] | None:
    """Read it."""
    if not client.has_collection(_about(name)):
        return None
    client.load_collection(_about(name))
    found = client.get(_about(name), ids=["about"], output_fields=["said"])
    return dict(found[0]["said"]) if found else None


def forget(client: Any, name: str) -> None:
    """Take it away."""
    drop(client, _about(name))


def _make_about(client: Any, name: str) -> None:
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("said", DataType.JSON)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)  # Milvus has no collection without one
    indexes = client.prepare_index_params()
    indexes.add_index(field_name="vector", index_type="FLAT", metric_type="L2")
    client.create_collection(_about(name), schema=schema, index_params=indexes, consistency_level="Strong")


def _about(name: str) -> str:
    return f"{name}_about"
