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
    """Refuse a file that names a column twice, of which one would be lost without a word, or that unpacks to far more than data does."""
    names = table.schema_arrow.names
    twin = next((name for name, times in Counter(names).items() if times > 1), None)
    if twin is not None:
        raise TwowayError(f"{file} has the column {twin} twice; write it again with each column once")
    for group in range(table.num_row_groups):
        said = table.metadata.row_group(group)
        for column in range(said.num_columns):
            packed, size = said.column(column).total_compressed_size, said.column(column).total_uncompressed_size
            if size > _LARGE and size > _PACKED * packed:
                what = f"{said.column(column).path_in_schema} in row group {group + 1} unpacks from {packed:,} to {size:,} bytes"
                raise TwowayError(f"{file} is not read: {what}, as nothing but an attack does")


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
    except (OSError, pyarrow.ArrowException) as error:
        raise TwowayError(f"{file} is no readable Parquet file ({str(error).splitlines()[0]})") from error
