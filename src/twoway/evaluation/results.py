"""What an evaluation leaves: `results.json`, and beside it the outcome of every item, by which two models are compared pair by pair."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UsageError
from ..files import write_whole
from .run import means, official_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .run import Result

ITEMS = ".items.parquet"
_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("item", pa.string()),
        ("places", pa.list_(pa.int32())),
        ("size", pa.int32()),
        ("tied", pa.bool_()),
        ("about", pa.list_(pa.string())),
        ("score", pa.float64()),
    ]
)


def items_path(path: Path) -> Path:
    """Return where the items of a results file lie."""
    return path.with_name(f"{path.stem}{ITEMS}")


def collect(suite: str, model: str, fingerprint: str, settings: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """Put results together as `results.json` has them."""
    groups, mean = means(results)
    tasks = {result.name: result.entry() for result in results}
    official = official_mean(results)
    return {
        "suite": suite,
        "model": model,
        "fingerprint": fingerprint,
        "settings": dict(settings),
        "tasks": tasks,
        "groups": groups,
        "mean": mean,
    } | ({} if official is None else {"official_mean": official})


def write(path: Path, found: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Write items, then results: where the second file stands, the first does too."""
    rows = [{"task": result.name} | row for result in results for row in result.rows()]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), buffer)
    write_whole(items_path(path), buffer.getvalue())
    write_whole(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


class Kept(NamedTuple):
    """What is kept of an item: the places of its right candidates, how many candidates it has, and marks of what it is about.

    A `score` stands where the places alone do not give it (mteb knows candidates that are more or less right).
    """

    places: tuple[int, ...]
    size: int
    about: tuple[str, ...]
    score: float | None = None


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Kept]]]:
    """Return a results file, and its items: task -> item -> what is kept of it."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = pq.read_table(items_path(path)).to_pylist()
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename or path} is not there; results and their items are written by twoway evaluate") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no results file of twoway evaluate ({error})") from error
    if not isinstance(found, dict) or "tasks" not in found:
        raise UsageError(f"{path} is no results file of twoway evaluate: it has no tasks")
    items: dict[str, dict[str, Kept]] = {}
    for row in rows:
        # Results of before there were marks: each item stands for itself.
        kept = Kept(tuple(row["places"]), row["size"], tuple(row.get("about") or ()), row.get("score"))
        items.setdefault(row["task"], {})[row["item"]] = kept
    return found, items
