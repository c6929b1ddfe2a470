"""A filter in the words of LanceDB, which takes the conditions of SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .filters import Group

if TYPE_CHECKING:
    from .filters import Filter, Literal


def sql(one: Filter) -> str:
    """Return the condition."""
    if isinstance(one, Group):
        if one.how == "not":
            return f"NOT ({sql(one.parts[0])})"
        return f" {one.how.upper()} ".join(f"({sql(part)})" for part in one.parts)
    name = f"`{one.field}`"
    if one.sign == "null":
        return f"{name} IS NULL"
    if one.sign == "in":
        return f"{name} IN ({', '.join(quoted(value) for value in one.values)})"
    return f"{name} {one.sign.upper()} {quoted(one.values[0])}"


def quoted(value: Literal) -> str:
    """Return a value as SQL writes it."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value).upper() if isinstance(value, bool) else repr(value)
