"""Random access to a stream of the hub: its first rows are copied once into a local Parquet file of small row groups.

A stream has no random access and no length, so the number of rows must be bounded (`cap`). The copy is part of the cache: it is taken
again only where the name or the bound changes, not where the data set on the hub does, so that a run that goes on sees the same rows.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from typing import TYPE_CHECKING, Any

from ..content import ContentError
from ..errors import TwowayError, UsageError
from ..files import fresh_folder
from . import hub
from .find_parquet import ParquetFinder
from .rows import require_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .policy import Policy
    from .rows import ReadOptions

GROUP_ROWS = 32
_log = logging.getLogger(__name__)


def hub_finder(argument: str, options: ReadOptions, *, cap: int | None, folder: Path | None, policy: Policy) -> ParquetFinder:
    """Copy the first `cap` rows into `folder`, unless they are there, and give access to the copy."""
    label = f"hub:{argument}"
    if cap is None or folder is None:
        raise UsageError(f"{label} is a stream without an end; say with cap: N how many of its first rows are used")
    name = hashlib.sha256(f"{argument} {cap}".encode()).hexdigest()[:16]
    copy = folder / f"hub-{name}"
    table, root = hub.open_stream(argument) if not copy.is_dir() else (None, hub.local_root(argument))
    if table is not None:
        if options.form is None and table.column_names is not None:
            require_columns(table.column_names, label)
        _log.info("copying up to %d rows of %s to %s", cap, label, copy)
        with fresh_folder(copy) as beside:
            _write(table, label, root, cap, beside / "rows.parquet", policy)
    return ParquetFinder(str(copy / "rows.parquet"), options, label, root)


def _require_columns_of(schema: Any, rows: Sequence[Mapping[str, Any]], label: str) -> None:
    """Refuse a column that the first rows of a stream did not have: the copy would lose it in silence."""
    known = None if schema is None else set(schema.names)
    odd = next((key for row in rows for key in row if known is not None and key not in known), None)
    if odd is not None:
        raise TwowayError(
            f"{label} cannot be copied: its first rows have no column {odd}, and later ones do; save it with one set of columns "
            "(datasets.save_to_disk) and name that folder"
        )


def _write(table: Any, label: str, root: Path | None, cap: int, path: Path, policy: Policy) -> None:
    """Write the rows; one that cannot be fetched leaves an empty row, so that the others keep their numbers."""
    import pyarrow
    import pyarrow.parquet

    schema = hub.undecoded(table.features).arrow_schema if table.features is not None else None
    rows = itertools.islice(hub.raw_rows(table, label, root), cap)
    writer = None
    try:
        while batch := list(itertools.islice(rows, GROUP_ROWS)):
            for row in batch:
                if isinstance(row, ContentError):
                    policy.refuse(row)
            plain = [{} if isinstance(row, ContentError) else row for row in batch]
            _require_columns_of(schema, plain, label)
            group = pyarrow.Table.from_pylist(plain, schema=schema)
            schema = group.schema
            writer = pyarrow.parquet.ParquetWriter(path, schema) if writer is None else writer
            writer.write_table(group)
    except pyarrow.ArrowException as error:
        raise TwowayError(f"{label} cannot be copied ({str(error).splitlines()[0]})") from error
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise TwowayError(f"{label} holds no rows")
