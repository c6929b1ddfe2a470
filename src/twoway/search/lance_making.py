"""Making an index in LanceDB; one that takes another's place is a table of its own until it is whole.

It grows beside the one that is there, in the same folder, and then becomes that one's next version, in one step. Who reads sees the old
index until then, and a run that fails, or is killed, has changed nothing of it. That takes room for both, and for the copy of the new one.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..embedding.shards import alone
from ..errors import BusyError, UsageError, with_extra
from . import lance_index
from .lance_live import ABOUT, FRESH, TABLE, Live
from .lance_rows import schema_of
from .said import engine_errors

if TYPE_CHECKING:
    from .store import About

BESIDE = f"{TABLE}-anew"


def connect(location: str) -> Any:
    """Reach the tables of a folder."""
    try:
        import lancedb
    except ImportError as error:
        raise UsageError(f"an index in a folder needs LanceDB; {with_extra('index')}") from error
    return lancedb.connect(location, read_consistency_interval=FRESH)


def exists(location: str) -> bool:
    """Say whether there is an index in a folder; what a run that was killed has only begun is none."""
    return any((Path(location) / f"{TABLE}.lance").glob("_versions/*.manifest"))


def make(location: str, about: About, *, overwrite: bool) -> Any:
    """Make an empty table, beside the one that is there where there is one; one that is damaged goes, since nothing can follow it."""
    folder = Path(location)
    if folder.is_file():
        raise UsageError(f"{location} is a file; name a folder, or a Milvus Lite file that ends in .db")
    anew = overwrite and exists(location)
    if folder.exists() and any(one.suffix != ".lance" and one.name != ".lock" for one in folder.iterdir()) and not anew:
        raise UsageError(f"{location} holds other files; choose a new folder for the index")
    if exists(location) and not overwrite:
        raise UsageError(f"{location} holds an index already; pass --overwrite to replace it")
    with engine_errors(location, "making"), alone(folder):
        if anew and not _opens(location):
            shutil.rmtree(folder / f"{TABLE}.lance")
            anew = False
        name = BESIDE if anew else TABLE
        shutil.rmtree(folder / f"{BESIDE}.lance", ignore_errors=True)  # of a run that was killed
        try:
            table = connect(location).create_table(name, schema=schema_of(about.dimension, ABOUT, asdict(about)))
            Live(table, location, about).write("making", lance_index.index_words)
        except BaseException:
            shutil.rmtree(folder / f"{name}.lance", ignore_errors=True)  # or a half would stand in the way of the next try
            raise
    return table


def publish(table: Any, location: str, about: About) -> Any:
    """Put a table that was made beside in the place of the one there, and return that; the folder is held by who calls."""
    connection = connect(location)

    def put(standing: Any) -> None:
        version = standing.version
        try:
            rows = pa.RecordBatchReader.from_batches(table.schema, iter(table.search().to_batches()))
            connection.create_table(TABLE, data=rows, mode="overwrite")
            standing.checkout_latest()
            lance_index.index_words(standing)
        except BaseException:
            standing.checkout_latest()
            if standing.version != version:
                standing.restore(version)
            raise

    with engine_errors(location, "opening"):
        standing = connection.open_table(TABLE)
    Live(standing, location, about).write("writing", put)
    shutil.rmtree(Path(location) / f"{BESIDE}.lance", ignore_errors=True)
    return standing


def discard(location: str) -> None:
    """Take away what was made beside and is not to be; another run may have begun its own, which is left alone."""
    with suppress(BusyError), alone(Path(location)):
        shutil.rmtree(Path(location) / f"{BESIDE}.lance", ignore_errors=True)


def _opens(location: str) -> bool:
    """Say whether the table there can be opened; what the system forbids is an error of its own."""
    try:
        connect(location).open_table(TABLE)
    except PermissionError:
        raise
    except Exception:
        return False
    return True
