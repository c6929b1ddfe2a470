"""Random access to the rows of Parquet files, and to a stream of the hub through a local copy of its first rows."""

from __future__ import annotations

import bisect
import itertools
import logging
import resource
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..content import ContentError, Document, Place
from ..errors import TwowayError
from .finders import Base
from .parquet import parquet_files, require_sound
from .rows import require_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .finders import Position
    from .rows import ReadOptions

# Row groups in memory, in one process, and the size from which a row group is worth a warning.
_CACHE_BYTES, _LARGE_GROUP = 256 << 20, 64 << 20
# What one row group may unpack to: a value that stands once in a file may be one of millions of rows. And so many rows at a time.
_GROUP_BYTES, _BATCH_ROWS = 4 << 30, 256
# Files that one source has open at a time: a folder may hold more than a process may open.
_OPEN_FILES = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 16)
_log = logging.getLogger(__name__)


class Groups:
    """The latest row groups of all sources of a process: ten sources in each of many workers must not hold ten times the bound each."""

    def __init__(self) -> None:
        self.held: OrderedDict[tuple[object, int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, int, int], read: Callable[[], Any]) -> Any:
        """Return a row group, from memory where it is there."""
        with self._lock:
            if key in self.held:
                self.held.move_to_end(key)
                return self.held[key]
        found = read()
        with self._lock:
            self.held[key] = found
            while len(self.held) > 1 and sum(table.nbytes for table in self.held.values()) > _CACHE_BYTES:
                self.held.popitem(last=False)
        return found


GROUPS = Groups()


class ParquetFinder(Base):
    """Rows of Parquet files; the latest row groups stay in memory, up to a bound."""

    _transient = ("_files", "_mark")

    def __init__(self, argument: str, options: ReadOptions, label: str | None = None, root: Path | None = None) -> None:
        """Take a file or a folder; a `label` stands for the files of a copy in the places of rows, and `root` for their folder."""
        super().__init__(options)
        self.paths, self.label, self.root = parquet_files(Path(argument)), label, root
        self._files: OrderedDict[int, tuple[Any, list[int]]] | None = None
        self._mark: object | None = None  # what tells its row groups from another's

    def files(self) -> list[Path]:
        """See `Finder`."""
        return self.paths

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        for number, path in enumerate(self.paths):
            table, starts = self._open(number)
            if self.options.form is None:
                require_columns(table.schema_arrow.names, path)
            sizes = [table.metadata.row_group(group).total_byte_size for group in range(table.num_row_groups)]
            if max(sizes, default=0) > _LARGE_GROUP and len(sizes) > 1:
                _log.warning(
                    "%s has row groups of %d MB, and reading rows in random order reads a whole group for a row; write it again with a "
                    "smaller row_group_size (100 rows with pictures are plenty)",
                    path,
                    max(sizes) >> 20,
                )
            yield from ((number, row) for row in range(starts[-1]))

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        number, row = at
        # A file of a copy is called by its first row (`find_hub`).
        place = Place(self.label, int(self.paths[number].stem) + row + 1) if self.label else Place(str(self.paths[number]), row + 1)
        try:
            values = self._row(number, row)
        except (ValueError, ArithmeticError) as error:  # text that is not UTF-8, dates out of range
            raise ContentError(f"the row cannot be read ({error})", place) from error
        return self._document(values, place, self.root if self.label else self.paths[number].parent)

    def together(self, at: Position) -> tuple[int, int]:
        """Return what a row is read with: its file and row group."""
        return at[0], bisect.bisect_right(self._open(at[0])[1], at[1]) - 1

    def _row(self, number: int, row: int) -> Any:
        """Return one row as plain values."""
        _, starts = self._open(number)
        group = bisect.bisect_right(starts, row) - 1
        found = self._group(number, group)
        if not found.num_rows:
            raise ValueError(f"its row group unpacks to more than {_GROUP_BYTES >> 20:,} MB; write it with a smaller row_group_size")
        return found.slice(row - starts[group], 1).to_pylist()[0]

    def _open(self, number: int) -> tuple[Any, list[int]]:
        """Return a file and the first row of each of its groups, the number of rows at the end."""
        import pyarrow
        import pyarrow.parquet

        files = self._files = OrderedDict() if self._files is None else self._files
        if number not in files:
            while len(files) >= _OPEN_FILES:
                files.popitem(last=False)[1][0].close()
            try:
                table = pyarrow.parquet.ParquetFile(self.paths[number])
            except (OSError, pyarrow.ArrowException) as error:
                raise TwowayError(f"{self.paths[number]} is no readable Parquet file ({str(error).splitlines()[0]})") from error
            require_sound(table, self.paths[number])
            rows = (table.metadata.row_group(group).num_rows for group in range(table.num_row_groups))
            files[number] = table, [0, *itertools.accumulate(rows)]
        files.move_to_end(number)
        return files[number]

    def _group(self, number: int, group: int) -> Any:
        """Return a row group, from memory where it is there."""
        import pyarrow

        self._mark = self._mark or object()
        try:
            return GROUPS.get((self._mark, number, group), lambda: self._unpack(number, group))
        except (OSError, pyarrow.ArrowException) as error:
            raise TwowayError(f"{self.paths[number]} is no readable Parquet file ({str(error).splitlines()[0]})") from error

    def _unpack(self, number: int, group: int) -> Any:
        """Read a row group; one beyond the bound is an empty table."""
        import pyarrow

        table, batches, size = self._open(number)[0], [], 0
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group]):
            batches.append(batch)
            size += batch.nbytes
            if size > _GROUP_BYTES:
                return table.schema_arrow.empty_table()
        rows, said = sum(batch.num_rows for batch in batches), table.metadata.row_group(group).num_rows
        if rows != said:
            raise pyarrow.ArrowInvalid(f"row group {group + 1} has {rows:,} of its {said:,} rows")
        return pyarrow.Table.from_batches(batches, schema=table.schema_arrow)
