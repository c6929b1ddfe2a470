"""Items as rows of a Milvus collection, and back; and the three ways to ask it: by vector, by words, by both."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .fields import OPEN, OWN, as_kind, name_of
from .milvus_collection import LONGEST_ID
from .store import Hit, Item

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .store import Value

SHOWN = ["id", "text", "place", "thumbnail", "vector", "$meta"]
_FUSED = 50  # of each list, at least, when two are fused
_LONGEST_TEXT, _LONGEST = 60_000, 65_535  # bytes; what Milvus takes of one value, metadata together, is the second


def check_sizes(items: Sequence[Item]) -> None:
    """Refuse what Milvus cannot hold; a text is cut instead, since the vector has all of it."""
    for one in items:
        said = {
            "id": (len(one.id.encode()), LONGEST_ID),
            "place": (len(one.place.encode()), _LONGEST),
            "metadata": (len(json.dumps(dict(one.metadata), ensure_ascii=False, default=str).encode()), _LONGEST),
        }
        for what, (size, most) in said.items():
            if size > most:
                raise UsageError(f"the {what} of the item {one.id[:60]!r} has {size:,} bytes; {most:,} are the most in Milvus")


def row_of(one: Item, origin: str, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return an item as a row; of a very long text the beginning.

    A field that the item lacks is written as nothing, since a row that takes another's place may otherwise keep what that one had.
    """
    named = {name_of(key): value for key, value in one.metadata.items()}
    meta: dict[str, Any] = {name: as_kind(named.get(name), kind) for name, kind in kinds.items() if name not in OPEN}
    return meta | {
        "id": one.id,
        "text": one.text.encode()[:_LONGEST_TEXT].decode(errors="ignore"),
        "place": one.place,
        "origin": origin,
        "thumbnail": base64.b64encode(one.thumbnail or b"").decode(),
        "vector": np.asarray(one.vector, np.float32).tolist(),
    }


def item_of(row: Mapping[str, Any], vector: NDArray[np.float32] | None = None) -> Item:
    """Return a row as an item."""
    meta = {name: value for name, value in row.items() if name not in (*OWN, "sparse") and not name.startswith("$") and value is not None}
    small = row.get("thumbnail")
    return Item(str(row["id"]), vector, row.get("text") or "", base64.b64decode(small) if small else None, row.get("place") or "", meta)


def hit_of(row: Mapping[str, Any], near: NDArray[np.float32] | None, score: float) -> Hit:
    """Return a row as a hit, with its cosine where there is a vector to compare."""
    # Of words, Milvus gives what is the larger the better, and Milvus Lite the same below zero.
    return Hit(item_of(row), abs(score) if near is None else float(near @ np.asarray(row["vector"], np.float32)))


def found(
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
