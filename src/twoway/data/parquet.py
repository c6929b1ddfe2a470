"""Parquet: a file or a folder of files, pictures embedded as bytes or as the `{"bytes", "path"}` that `datasets` writes.

A few rows are in memory at a time. A damaged file is an error whatever the failure policy: how many rows are lost is unknown.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..content import ContentError, Place
from ..errors import TwowayError
from ..images import DEFAULT
from ..sandbox import SANDBOX, BoundError, SandboxError
from .rows import document, require_columns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .rows import ReadOptions, Rows, Skip

_BATCH_ROWS = 32
# A column that unpacks to more than so many bytes, and so many times its size on disk, is no data.
_LARGE, _PACKED = 256 << 20, 1000


def rows(argument: str, options: ReadOptions) -> Rows:
    """Read every file in order of its name; rows are counted within their file."""
    path = Path(argument)
    for file in parquet_files(path):
        place = str(file)
        for number, row in _records(file, options.skip):
            where = Place(place, number)
            yield (
                ContentError(f"the row cannot be read ({row})", where)
                if isinstance(row, Exception)
                else document(row, where, options.root or file.parent, unread=options.unread, limits=options.limits)
            )


def parquet_files(path: Path) -> list[Path]:
    """Return the files of a folder in a fixed order, or the one file."""
    return sorted(path.rglob("*.parquet")) if path.is_dir() else [path]


def require_sound(table: Any, file: Path) -> None:
    """Refuse a file that names a column twice, says of its rows what is not so, or unpacks to far more than data does."""
    names = table.schema_arrow.names
    twin = next((name for name, times in Counter(names).items() if times > 1), None)
    if twin is not None:
        raise TwowayError(f"{file} has the column {twin} twice; write it again with each column once")
    rows = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) != table.metadata.num_rows:
        raise TwowayError(f"{file} is damaged: it says that it has {table.metadata.num_rows:,} rows, and its row groups {sum(rows):,}")
    try:
        given = {"file": str(file.absolute()), "large": _LARGE, "packed": _PACKED}
        trouble, _ = SANDBOX.call(f"{__name__}:child_trouble", given, seconds=DEFAULT.max_page_seconds, memory=DEFAULT.max_page_memory)
    except SandboxError as error:
        said = f"the file {error}" if isinstance(error, BoundError) else str(error).splitlines()[0]
        raise TwowayError(f"{file} is no readable Parquet file ({said})") from error
    if trouble:
        raise TwowayError(f"{file} {trouble}")


def child_trouble(file: str, large: int, packed: int) -> tuple[str, bytes]:
    """Say what is wrong with the columns of a file; it runs in the child process, because metadata that lies may abort pyarrow's."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as table:
        flat = [not table.schema.column(column).max_repetition_level for column in range(table.metadata.num_columns)]
        for number in range(table.num_row_groups):
            group = table.metadata.row_group(number)
            for column in range(group.num_columns):
                one = group.column(column)
                where = f"{one.path_in_schema} in row group {number + 1}"
                if one.num_values != group.num_rows and flat[column]:
                    return f"is damaged: {where} has {one.num_values:,} values for {group.num_rows:,} rows", b""
                if one.total_uncompressed_size > max(large, packed * one.total_compressed_size):
                    sizes = f"{one.total_compressed_size:,} to {one.total_uncompressed_size:,} bytes"
                    return f"is not read: {where} unpacks from {sizes}, as nothing but an attack does", b""
    return "", b""


def _records(file: Path, skip: Skip) -> Iterator[tuple[int, dict[str, Any] | Exception]]:
    """Read the rows of one file as plain objects with their numbers, with the error in the place of one that cannot be converted."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            require_columns(table.schema_arrow.names, file)
            require_sound(table, file)
            groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            first = bisect.bisect_right([*itertools.accumulate(groups)], skip.left)
            number = skip.take(sum(groups[:first]))
            for batch in table.iter_batches(batch_size=_BATCH_ROWS, row_groups=[*range(first, len(groups))]):
                passed = skip.take(batch.num_rows)
                for index in range(passed, batch.num_rows):
                    try:
                        yield number + index + 1, batch.slice(index, 1).to_pylist()[0]
                    except (ValueError, ArithmeticError) as error:  # text that is not UTF-8, dates out of range
                        yield number + index + 1, error
                number += batch.num_rows
            if number != sum(groups):
                raise TwowayError(f"{file} is damaged: {number:,} of its {sum(groups):,} rows are there")
    except (OSError, pyarrow.ArrowException) as error:
        raise TwowayError(f"{file} is no readable Parquet file ({str(error).splitlines()[0]})") from error
