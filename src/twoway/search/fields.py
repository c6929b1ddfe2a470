"""The columns that a filter may name: their names, their types, and the values that go into them.

Metadata is what the rows of the data had beside their content, of any shape. A field has one type in an index: whole numbers and others
together are numbers, anything else together is text, and what is nested is kept as JSON text.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from ..content import escaped
from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .store import Value

# What an item has by itself; the first three may be asked for in a filter too.
OPEN = {"id": "string", "text": "string", "place": "string"}
OWN = (*OPEN, "thumbnail", "origin", "vector", "sparse")  # the last where an engine keeps the words of a text
_LONGEST = 120


def name_of(key: str) -> str:
    """Return the name of a metadata column: engines take no dots and quotes, and an item's own columns are taken."""
    name = re.sub(r"[^\w -]", "_", key).strip()[:_LONGEST] or "_"
    return f"meta_{name}" if name in OWN or name.startswith(("_", "$")) else name


def kind_of(value: object) -> str | None:
    """Return the type of a value; of nothing there is none."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer" if abs(value) < 1 << 63 else "string"
    return "number" if isinstance(value, float) else "string"


def merged(one: str | None, other: str | None) -> str | None:
    """Return the type that holds values of both."""
    if one is None or other is None or one == other:
        return one or other
    return "number" if {one, other} == {"integer", "number"} else "string"


def kinds_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return names and types of all columns that these rows need."""
    found: dict[str, str | None] = {}
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for row in rows:
        for key, value in row.items():
            if key not in names:
                name = names[key] = name_of(key)
                if taken.setdefault(name, key) != key:
                    raise UsageError(f"the metadata {taken[name]!r} and {key!r} would both be the field {name!r}; rename one of them")
            found[names[key]] = merged(found.get(names[key]), kind_of(value))
    return {name: kind for name, kind in found.items() if kind is not None}


def fitting(wanted: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that an index has yet to get; values that no field of it can hold are refused."""
    for name, kind in wanted.items():
        had = there.get(name)
        if had is not None and merged(had, kind) != had and had != "string":
            raise UsageError(
                f"the field {name!r} is of the type {had} in the index, and {kind} in what is to be added; rename it in the data"
            )
    return {name: kind for name, kind in wanted.items() if name not in there}


def as_kind(value: Any, kind: str) -> Value:
    """Return a value as a field of this type holds it; a number that is none, or without end, is no value: JSON has no sign for it."""
    if value is None or (kind == "number" and not math.isfinite(value)):
        return None
    if kind == "number":
        return float(value)
    if kind == "string":
        return escaped(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    return value  # type: ignore[no-any-return]
