"""Random access to a stream of the hub: its first rows are copied once into local Parquet files, and nothing is fetched any more.

A stream has no random access and no length, so the number of rows must be bounded (`cap`). The copy is part of the cache: it is taken
again only where the name or the bound changes, not where the data set on the hub does, so that a run that goes on sees the same rows.

Rows are read in random order, a row group at a time; so a group ends after a megabyte, which is a page or a few hundred texts. Files are
called by their first row, each is whole or not there, and a copy that was cut off goes on behind the last of them.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import time
from typing import TYPE_CHECKING, Any

from ..content import ContentError
from ..errors import TwowayError, UsageError
from ..files import disk_errors, turn, write_errors
from . import hub
from .find_parquet import ParquetFinder
from .rows import require_columns
from .table_sharing import how

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from .policy import Policy
    from .rows import ReadOptions

GROUP_ROWS, GROUP_BYTES = 256, 1 << 20
FILE_ROWS, FILE_BYTES = 32_768, 256 << 20
_log = logging.getLogger(__name__)


def hub_finder(argument: str, options: ReadOptions, *, cap: int | None, folder: Path | None, policy: Policy) -> ParquetFinder:
    """Copy the first `cap` rows into `folder`, unless they are there, and give access to the copy."""
    label = f"hub:{argument}"
    if cap is None or folder is None:
        raise UsageError(f"{label} is a stream without an end; say with cap: N how many of its first rows are used")
    local = hub.local_root(argument)
    copy = copy_of(argument, cap, folder)
    if not copy.is_dir():
        if how().prepared_only:
            raise UsageError(f"{label} is not prepared; prepare it first (twoway data prepare), or set prepared_only=false")
        with turn(folder / f".{copy.name}.lock", lambda: _log.warning("another process copies %s; waiting for it", label)):
            if not copy.is_dir():
                _copy(argument, label, options, cap, copy, policy)
    return ParquetFinder(str(copy), options, label, local)


def copy_of(argument: str, cap: int, folder: Path) -> Path:
    """Return where the copy of a stream's first `cap` rows lies, or would lie."""
    local = hub.local_root(argument)
    name = hashlib.sha256(f"{local.absolute() if local else ''} {argument} {cap}".encode()).hexdigest()[:16]
    return folder / f"hub-{name}"


def _copy(argument: str, label: str, options: ReadOptions, cap: int, copy: Path, policy: Policy) -> None:
    """Copy a stream, or go on with a copy that was cut off."""
    table, root = hub.open_stream(argument)
    if options.form is None and table.column_names is not None:
        require_columns(table.column_names, label)
    part = copy.with_name(f"{copy.name}.part")
    with write_errors(part):
        part.mkdir(parents=True, exist_ok=True)
        _log.info("copying up to %d rows of %s to %s", cap, label, copy)
        began = time.monotonic()
        written = _write(table, label, root, cap, part, policy)
        if not written:
            part.rmdir()
            raise TwowayError(f"{label} holds no rows")
        size = sum(path.stat().st_size for path in part.iterdir())
        _log.info("%s: %d rows, %.1f MB, %.0f seconds", label, written, size / 1e6, time.monotonic() - began)
        with disk_errors():
            part.rename(copy)


def _write(table: Any, label: str, root: Path | None, cap: int, folder: Path, policy: Policy) -> int:
    """Write the rows that are not there yet, and return how many there are.

    One that cannot be fetched leaves an empty row, so that the others keep their numbers.
    """
    import pyarrow
    import pyarrow.parquet

    schema = hub.undecoded(table.features).arrow_schema if table.features is not None else None
    done = 0
    for path in sorted(folder.glob("*.parquet")):
        kept = pyarrow.parquet.read_metadata(path)
        schema, done = schema or kept.schema.to_arrow_schema(), int(path.stem) + kept.num_rows
    if done:
        _log.info("%s: %d rows were copied before", label, done)
    groups = _groups(itertools.islice(hub.raw_rows(table, label, root, done), max(cap - done, 0)), policy)
    beside = folder / ".rows.tmp"
    try:
        while group := next(groups, None):
            writer, first, size = None, done, 0
            try:
                while group:
                    _require_columns_of(schema, group, label)
                    rows = pyarrow.Table.from_pylist(group, schema=schema)
                    schema = rows.schema
                    # Neither dictionaries nor bounds of values are of use where values are pictures.
                    writer = writer or pyarrow.parquet.ParquetWriter(beside, schema, use_dictionary=False, write_statistics=False)
                    writer.write_table(rows)
                    done, size = done + len(group), size + rows.nbytes
                    group = None if done - first >= FILE_ROWS or size >= FILE_BYTES else next(groups, None)
            finally:
                if writer is not None:
                    writer.close()
            beside.rename(folder / f"{first:012d}.parquet")
    except pyarrow.ArrowException as error:
        raise TwowayError(f"{label} cannot be copied ({str(error).splitlines()[0]})") from error
    finally:
        beside.unlink(missing_ok=True)
    return done


def _groups(rows: Iterator[dict[str, Any] | ContentError], policy: Policy) -> Iterator[list[dict[str, Any]]]:
    """Put rows together until they are as large as a row group may be."""
    found: list[dict[str, Any]] = []
    held = 0
    for row in rows:
        if isinstance(row, ContentError):
            policy.refuse(row)
        found.append({} if isinstance(row, ContentError) else row)
        held += _size(found[-1])
        if len(found) >= GROUP_ROWS or held >= GROUP_BYTES:
            yield found
            found, held = [], 0
    if found:
        yield found


def _size(value: Any) -> int:
    """Return about how many bytes a value takes in a file."""
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8


def _require_columns_of(schema: Any, rows: Sequence[Mapping[str, Any]], label: str) -> None:
    """Refuse a column that the first rows of a stream did not have: the copy would lose it in silence."""
    known = None if schema is None else set(schema.names)
    odd = next((key for row in rows for key in row if known is not None and key not in known), None)
    if odd is not None:
        raise TwowayError(
            f"{label} cannot be copied: its first rows have no column {odd}, and later ones do; save it with one set of columns "
            "(datasets.save_to_disk) and name that folder"
        )
