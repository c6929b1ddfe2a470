"""Sources that are opened again and again, looked through once: for who counts what many configurations read of the same data.

What is shared lasts as long as the block that asks for it, and goes by what a table is told by (`table.open_table`).
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .table import RowTable

_SHARED: ContextVar[dict[str, RowTable] | None] = ContextVar("tables of the block", default=None)


@contextmanager
def shared_tables() -> Iterator[None]:
    """Share tables within a block; one within another shares the other's."""
    before = _SHARED.get()
    token = _SHARED.set({} if before is None else before)
    try:
        yield
    finally:
        _SHARED.reset(token)


def find(key: str) -> RowTable | None:
    """Return a table that was opened in this block."""
    return (_SHARED.get() or {}).get(key)


def put(key: str, table: RowTable) -> None:
    """Keep a table for the rest of the block; outside of one nothing is kept."""
    shared = _SHARED.get()
    if shared is not None:
        shared[key] = table
