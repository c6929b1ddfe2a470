"""Which engine a location means: a folder LanceDB, `milvus://host:port/collection` a server, a name ending in `.db` Milvus Lite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    from .store import About, Store


def open_store(location: str | Path) -> Store:
    """Open an index that is there."""
    place = _checked(location)
    if _is_milvus(place):
        from .milvus import MilvusStore

        return MilvusStore.open(place)
    from .lance import LanceStore

    return LanceStore.open(place)


def create_store(location: str | Path, about: About, *, overwrite: bool = False) -> Store:
    """Make an empty index; with `overwrite` beside one that is there, which stands until the new one is published (`Store.publish`)."""
    place = _checked(location)
    if _is_milvus(place):
        from .milvus import MilvusStore

        return MilvusStore.create(place, about, overwrite=overwrite)
    from .lance import LanceStore

    return LanceStore.create(place, about, overwrite=overwrite)


def exists(location: str | Path) -> bool:
    """Say whether there is an index at a location; what cannot be reached is an error."""
    place = _checked(location)
    if _is_milvus(place):
        from .milvus import MilvusStore

        return MilvusStore.exists(place)
    from .lance import LanceStore

    return LanceStore.exists(place)


def _checked(location: str | Path) -> str:
    place = str(location)
    scheme, found, _ = place.partition("://")
    if found and scheme not in ("milvus", "milvus+https"):
        raise UsageError(f"{place}: an index is a folder, a Milvus Lite file that ends in .db, or milvus://host:port/collection")
    return place


def _is_milvus(place: str) -> bool:
    return place.startswith(("milvus://", "milvus+https://")) or Path(place).suffix == ".db"
