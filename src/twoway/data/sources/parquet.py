"""Parquet files and Hugging Face `datasets`: files and folders by random access, the hub as a stream or a local copy of its first rows."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import logging
import re
import resource
import threading
import time
from collections import Counter, OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from twoway.content import ContentError, Place
from twoway.data.rows import Skip
from twoway.errors import TwowayError, UsageError
from twoway.files import disk_errors, turn, write_errors
from twoway.images import DEFAULT
from twoway.sandbox import SANDBOX, BoundError, SandboxError

from .readers import Reader, RowT, current_scan_options, files_below

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from twoway.data.rows import Policy, ReadOptions

    from .formats import Converter
    from .readers import Position

_log = logging.getLogger(__name__)


# Parquet: a file or a folder of files, pictures embedded as bytes or as the `{"bytes", "path"}` that `datasets`
# writes.
#
# A few rows are in memory at a time. A damaged file is an error whatever the failure policy: how many rows are lost
# is unknown.

_BATCH_ROWS = 32
# A column that unpacks to more than so many bytes, and so many times its size on disk, is no data.
_LARGE, _PACKED = 256 << 20, 1000


def check_parquet(table: Any, file: Path) -> None:
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
        message = f"the file {error}" if isinstance(error, BoundError) else str(error).splitlines()[0]
        raise TwowayError(f"{file} is not a readable Parquet file ({message})") from error
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


# Row groups in memory, in one process, and the size from which a row group is worth a warning.
_CACHE_BYTES, _LARGE_GROUP = 256 << 20, 64 << 20
# What one row group may unpack to: a value that stands once in a file may be one of millions of rows. And so many rows at a time.
_GROUP_BYTES, _READ_ROWS = 4 << 30, 256
# Files that one source has open at a time: a folder may hold more than a process may open.
_OPEN_FILES = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 16)


class RowGroupCache:
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


ROW_GROUPS = RowGroupCache()


class ParquetReader(Reader[RowT]):
    """Rows of Parquet files by file and row. In order they are read a few at a time; at random the latest row groups stay in memory."""

    suffixes, in_folders, names_files = (".parquet",), "Parquet files", True
    _transient = ("_files", "_mark")

    def __init__(
        self, source: str, options: ReadOptions, convert: Converter[RowT], *, label: str | None = None, root: Path | None = None
    ) -> None:
        """Take a file or a folder; a `label` stands for the files of a copy in the places of rows, and `root` for their folder."""
        super().__init__(source, options, convert)
        self.paths, self.label, self.root = files_below(self.path, self.suffixes), label, root
        self._files: OrderedDict[int, tuple[Any, list[int]]] | None = None
        self._mark: object | None = None  # what tells its row groups from another's

    def files(self) -> list[Path]:
        """See `Reader`."""
        return self.paths

    def rows(self, skip: Skip | None = None) -> Iterator[RowT | ContentError]:
        """See `Reader`; only a batch of rows is in memory."""
        import pyarrow

        skip = skip or Skip()
        for number, path in enumerate(self.paths):
            try:
                for row, table in self._batches(number, skip):
                    try:
                        yield self._item(number, row, table)
                    except ContentError as error:
                        yield error
            except (OSError, pyarrow.ArrowException) as error:
                raise _unreadable(path, error) from error
            finally:
                self._close(number)

    def positions(self) -> Iterator[Position]:
        """See `Reader`."""
        for number, path in enumerate(self.paths):
            table, starts = self._open(number)
            self.convert.require_columns(table.schema_arrow.names, path)
            sizes = [table.metadata.row_group(group).total_byte_size for group in range(table.num_row_groups)]
            if max(sizes, default=0) > _LARGE_GROUP and len(sizes) > 1:
                _log.warning(
                    "%s has row groups of %d MB, and reading rows in random order reads a whole group for a row; write it again with a "
                    "smaller row_group_size (100 rows with pictures are plenty)",
                    path,
                    max(sizes) >> 20,
                )
            yield from ((number, row) for row in range(starts[-1]))

    def read(self, at: Position) -> RowT:
        """See `Reader`."""
        number, row = at
        _, starts = self._open(number)
        group = bisect.bisect_right(starts, row) - 1
        found = self._group(number, group)
        return self._item(number, row, found.slice(row - starts[group], 1) if found.num_rows else None)

    def read_with(self, at: Position) -> tuple[int, int]:
        """Return a row's file and row group."""
        return at[0], bisect.bisect_right(self._open(at[0])[1], at[1]) - 1

    def _item(self, number: int, row: int, table: Any) -> RowT:
        """Turn a table of one row into an item; without a table its row group is too large."""
        path = self.paths[number]
        # A file of a copy is called by its first row.
        place = Place(self.label, int(path.stem) + row + 1) if self.label else Place(str(path), row + 1)
        if table is None:
            reason = f"its row group unpacks to more than {_GROUP_BYTES >> 20:,} MB; write it with a smaller row_group_size"
            raise ContentError(f"the row cannot be read ({reason})", place)
        try:
            values = table.to_pylist()[0]
        except (ValueError, ArithmeticError) as error:  # text that is not UTF-8, dates out of range
            raise ContentError(f"the row cannot be read ({error})", place) from error
        return self.convert_row(values, place, self.root if self.label else path.parent)

    def _batches(self, number: int, skip: Skip) -> Iterator[tuple[int, Any]]:
        """Go through the rows of one file that are not skipped, each as a table of one row; whole row groups are passed over unread."""
        (table, starts), path = self._open(number), self.paths[number]
        self.convert.require_columns(table.schema_arrow.names, path)
        first = bisect.bisect_right(starts[1:], skip.left)
        row = skip.take(starts[first])
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, row_groups=[*range(first, len(starts) - 1)]):
            for index in range(skip.take(batch.num_rows), batch.num_rows):
                yield row + index, batch.slice(index, 1)
            row += batch.num_rows
        if row != starts[-1]:
            raise TwowayError(f"{path} is damaged: {row:,} of its {starts[-1]:,} rows are there")

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
                raise _unreadable(self.paths[number], error) from error
            check_parquet(table, self.paths[number])
            rows = (table.metadata.row_group(group).num_rows for group in range(table.num_row_groups))
            files[number] = table, [0, *itertools.accumulate(rows)]
        files.move_to_end(number)
        return files[number]

    def _close(self, number: int) -> None:
        """Close a file that was gone through."""
        if self._files and number in self._files:
            self._files.pop(number)[0].close()

    def _group(self, number: int, group: int) -> Any:
        """Return a row group, from memory where it is there."""
        import pyarrow

        self._mark = self._mark or object()
        try:
            return ROW_GROUPS.get((self._mark, number, group), lambda: self._unpack(number, group))
        except (OSError, pyarrow.ArrowException) as error:
            raise _unreadable(self.paths[number], error) from error

    def _unpack(self, number: int, group: int) -> Any:
        """Read a row group; one beyond the bound is an empty table."""
        import pyarrow

        table, batches, size = self._open(number)[0], [], 0
        for batch in table.iter_batches(batch_size=_READ_ROWS, row_groups=[group]):
            batches.append(batch)
            size += batch.nbytes
            if size > _GROUP_BYTES:
                return table.schema_arrow.empty_table()
        rows, expected = sum(batch.num_rows for batch in batches), table.metadata.row_group(group).num_rows
        if rows != expected:
            raise pyarrow.ArrowInvalid(f"row group {group + 1} has {rows:,} of its {expected:,} rows")
        return pyarrow.Table.from_batches(batches, schema=table.schema_arrow)


def _unreadable(path: Path, error: Exception) -> TwowayError:
    """Say in one line why a file cannot be read."""
    return TwowayError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]})")


# Hugging Face `datasets`: a folder that `save_to_disk` wrote, or a data set of the hub, streamed.
#
# Pictures are taken undecoded, so that one broken picture is one bad row and not the end of the stream. What a hub
# row names by path is fetched only from the hub itself; a path on this machine counts only below a local folder.

_ASK_SECONDS = 5.0
_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?$")


def load_disk(argument: str) -> Any:
    """Open a folder that `save_to_disk` wrote."""
    import datasets

    try:
        table = datasets.load_from_disk(argument)
    except Exception as error:  # datasets raises many kinds for a damaged folder
        raise TwowayError(f"{argument} is not a readable folder of datasets.save_to_disk ({_line(error)})") from error
    if isinstance(table, datasets.DatasetDict):
        if len(table) != 1:
            splits = ", ".join(str(Path(argument) / split) for split in table)
            raise UsageError(f"{argument} holds several splits; name one of {splits}")
        (table,) = table.values()
    return table


class DiskReader(Reader[RowT]):
    """Rows of a folder that `save_to_disk` wrote by their number, mapped into memory by `datasets`."""

    names_files = True
    _transient = ("_table",)
    _table: Any = None

    def files(self) -> list[Path]:
        """See `Reader`."""
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def positions(self) -> Iterator[Position]:
        """See `Reader`."""
        self.convert.require_columns(self._opened().column_names, self.path)
        yield from ((0, row) for row in range(len(self._opened())))

    def read(self, at: Position) -> RowT:
        """See `Reader`."""
        place = Place(str(self.path), at[1] + 1)
        try:
            row = self._opened()[at[1] : at[1] + 1].to_pylist()[0]
        except (ValueError, ArithmeticError) as error:
            raise ContentError(f"the row cannot be read ({error})", place) from error
        return self.convert_row({key: _fetched(value, self.path, place) for key, value in row.items()}, place, self.path)

    def _opened(self) -> Any:
        """Open the folder, as Arrow, because plain rows would come with their pictures decoded."""
        if self._table is None:
            self._table = load_disk(self.source).with_format("arrow")
        return self._table


class HubReader(Reader[RowT]):
    """Rows of a stream of the hub, which has no end that is known and no random access; `copied` gives a reader that has both."""

    random_access = False

    def files(self) -> list[Path]:
        """Return nothing: what is fetched is not on this machine."""
        return []

    def rows(self, skip: Skip | None = None) -> Iterator[RowT | ContentError]:
        """See `Reader`."""
        skip, label = skip or Skip(), f"hub:{self.source}"
        table, root = open_stream(self.source)
        if table.column_names is not None:
            self.convert.require_columns(table.column_names, label)
        for number, row in enumerate(stream_rows(table, label, self.options.root or root, reads=self.convert.reads), 1):
            if skip.take(1):
                continue
            try:
                if isinstance(row, ContentError):
                    raise row
                yield self.convert_row(row, Place(label, number), root)
            except ContentError as error:
                yield error

    def positions(self) -> Iterator[Position]:
        """Refuse: there are none."""
        raise UsageError(f"hub:{self.source} is a stream; save it with datasets.save_to_disk and name the folder")

    def copied(self, *, cap: int | None, folder: Path | None, policy: Policy) -> ParquetReader[RowT]:
        """Copy the first `cap` rows into `folder`, unless they are there, and give access to the copy."""
        label = f"hub:{self.source}"
        if cap is None or folder is None:
            raise UsageError(f"{label} is a stream without an end; say with cap: N how many of its first rows are used")
        copy = copy_of(self.source, cap, folder)
        if not copy.is_dir():
            if current_scan_options().prepared_only:
                raise UsageError(f"{label} is not prepared; prepare it first (twoway data prepare), or set prepared_only=false")
            with turn(folder / f".{copy.name}.lock", lambda: _log.warning("another process copies %s; waiting for it", label)):
                if not copy.is_dir():
                    _copy(self.source, label, self.convert, cap, copy, policy)
        return ParquetReader(str(copy), self.options, self.convert, label=label, root=local_root(self.source))


def open_stream(argument: str) -> tuple[Any, Path | None]:
    """Stream `NAME[/CONFIG][:SPLIT]` from the hub, or from a local folder that `load_dataset` understands; the split defaults to train."""
    import datasets

    name, config, local = argument, None, local_root(argument)
    split = argument.rpartition(":")[2] if local is not None and not Path(argument).is_dir() else ""
    if local is not None:
        name = str(local)
    elif (match := _NAME.match(argument)) is not None:
        name, config, split = match["name"], match["config"], match["split"]
    else:
        raise UsageError(
            f"hub:{argument} is not a name of a data set; write hub:OWNER/NAME, hub:OWNER/NAME:SPLIT or hub:OWNER/NAME/CONFIG:SPLIT"
        )
    try:
        table = datasets.load_dataset(name, config, split=split or "train", streaming=True)
    except Exception as error:  # network, names, splits and scripts each raise their own kind
        raise TwowayError(f"hub:{argument} cannot be opened ({_line(error)})") from error
    return table, local


def repository_of(argument: str) -> str | None:
    """Return the data set of the hub that is meant; nothing where a folder of this machine is, or where it is no name."""
    match = None if local_root(argument) is not None else _NAME.match(argument)
    return None if match is None else match["name"]


def repository_status(repository: str) -> Literal["there", "gated", "missing", "unreachable"]:
    """Say whether the hub has a data set, and gives it to anybody; nothing of it is fetched."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        found = huggingface_hub.HfApi().dataset_info(repository, timeout=_ASK_SECONDS)
    except GatedRepoError:
        return "gated"
    except RepositoryNotFoundError:
        return "missing"
    except Exception:  # offline, no network, a proxy: each raises its own kind
        return "unreachable"
    return "gated" if found.gated else "there"


def local_root(argument: str) -> Path | None:
    """Return the folder on this machine that is meant, if one is."""
    folder, colon, _ = argument.rpartition(":")
    if Path(argument).is_dir():
        return Path(argument)
    return Path(folder) if colon and Path(folder).is_dir() else None


def stream_rows(
    table: Any, label: str, root: Path | None, passed: int = 0, *, reads: Callable[[str], bool] = lambda _: True
) -> Iterator[dict[str, Any] | ContentError]:
    """Go through a stream's rows, pictures undecoded but with their bytes in the columns that are read; the first few are passed over."""
    table = table.cast(undecoded(table.features)) if table.features else table
    for number, row in enumerate(_guarded(table.skip(passed) if passed else table, label), passed + 1):
        try:
            yield {key: _fetched(value, root, Place(label, number)) if reads(key) else value for key, value in row.items()}
        except ContentError as error:
            yield error


def _guarded(table: Any, label: str) -> Iterator[dict[str, Any]]:
    """Say a stream that breaks off in one line."""
    try:
        yield from table
    except Exception as error:
        raise TwowayError(f"{label} cannot be read on ({_line(error)})") from error


def undecoded(feature: Any) -> Any:
    """Return the same features with every image (sound, video) left undecoded, at any depth."""
    import datasets

    if hasattr(feature, "decode"):
        return type(feature)(decode=False)
    if isinstance(feature, datasets.Features):
        return datasets.Features({key: undecoded(value) for key, value in feature.items()})
    if isinstance(feature, dict):
        return {key: undecoded(value) for key, value in feature.items()}
    if isinstance(feature, list):
        return [undecoded(value) for value in feature]
    if isinstance(feature, datasets.List | datasets.LargeList):
        return type(feature)(undecoded(feature.feature))
    return feature


def _fetched(value: Any, root: Path | None, place: Place) -> Any:
    """Put the bytes in where a picture is named by its address on the hub."""
    if isinstance(value, list):
        return [_fetched(item, root, place) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) != {"bytes", "path"}:
        return {key: _fetched(item, root, place) for key, item in value.items()}
    if value["bytes"] is not None or value["path"] is None:
        return value
    if re.match(r"hf://|\w+://[^:]*::hf://", value["path"]):
        from datasets.utils.file_utils import xopen

        try:
            with xopen(value["path"], "rb") as file:
                return {"bytes": file.read(), "path": value["path"]}
        except Exception as error:
            raise ContentError(f"picture {value['path']} cannot be fetched ({_line(error)})", place) from error
    if root is None:
        raise ContentError(f"picture {value['path']} is a path on this machine, which a data set of the hub may not name", place)
    return value


def _line(error: Exception) -> str:
    """Return the first line of another library's error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# Random access to a stream of the hub: its first rows are copied once into local Parquet files, and nothing is
# fetched any more.
#
# A stream has no random access and no length, so the number of rows must be bounded (`cap`). The copy is part of the
# cache: it is taken again only where the name or the bound changes, not where the data set on the hub does, so that a
# run that goes on sees the same rows.
#
# Rows are read in random order, a row group at a time; so a group ends after a megabyte, which is a page or a few
# hundred texts. Files are called by their first row, each is whole or not there, and a copy that was cut off goes on
# behind the last of them.

GROUP_ROWS, GROUP_BYTES = 256, 1 << 20
FILE_ROWS, FILE_BYTES = 32_768, 256 << 20


def copy_of(argument: str, cap: int, folder: Path) -> Path:
    """Return where the copy of a stream's first `cap` rows lies, or would lie."""
    local = local_root(argument)
    name = hashlib.sha256(f"{local.absolute() if local else ''} {argument} {cap}".encode()).hexdigest()[:16]
    return folder / f"hub-{name}"


def _copy(argument: str, label: str, convert: Converter[Any], cap: int, copy: Path, policy: Policy) -> None:
    """Copy a stream, or go on with a copy that was cut off."""
    table, root = open_stream(argument)
    if table.column_names is not None:
        convert.require_columns(table.column_names, label)
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

    schema = undecoded(table.features).arrow_schema if table.features is not None else None
    done = 0
    for path in sorted(folder.glob("*.parquet")):
        kept = pyarrow.parquet.read_metadata(path)
        schema, done = schema or kept.schema.to_arrow_schema(), int(path.stem) + kept.num_rows
    if done:
        _log.info("%s: %d rows were copied before", label, done)
    groups = _groups(itertools.islice(stream_rows(table, label, root, done), max(cap - done, 0)), policy)
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
