"""How sources are opened within a block of code: shared by all who ask for the same, by how many processes, and whether they may be new.

Who counts what many configurations read of the same data opens each source once (`shared_tables`): what is shared lasts as long as the
block, and goes by what a table is told by (`table.open_table`).
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Looking:
    """How a new source is looked through: by so many processes (`None`: more than one where it is large), or not at all.

    `logged` says whether what is odd about a source goes into the log each time that it is opened.
    """

    processes: int | None = None
    prepared_only: bool = False
    logged: bool = True


_USUAL = Looking()
_LOOKING: ContextVar[Looking] = ContextVar("how sources are looked through", default=_USUAL)


@contextmanager
def looking(*, processes: int | None = None, prepared_only: bool = False, logged: bool = True) -> Iterator[None]:
    """Say for a block how sources are looked through; with `prepared_only` one that was not is refused."""
    token = _LOOKING.set(Looking(processes, prepared_only, logged))
    try:
        yield
    finally:
        _LOOKING.reset(token)


def how() -> Looking:
    """Return what the block says."""
    return _LOOKING.get()
