"""Readers: one class for each format. It gives a source's rows in order, and where the format has random access any row by its position.

What a row becomes is not the reader's business: it is given a function that turns rows into documents, pairs or either of them
(`formats.ToDocument`, `ToPair`, `ToEither`). So whatever is read for one purpose is read for all.

A new format is one class, here or in a file of its own, and one line in the table `dataset.READERS`:

    class CsvReader(Reader[RowT]):
        suffixes, names_files = (".csv",), True

        def files(self):
            return [self.path]

        def positions(self):
            yield from ((byte, number) for byte, number, _ in ...)  # two whole numbers by which `read` finds a row again

        def read(self, at):
            return self.convert_row(values, Place(str(self.path), at[1]), self.path.parent)

Parquet, saved data sets and the hub are in `parquet`, PDFs in `pdf`, the shipped samples in `samples`.
"""

from __future__ import annotations

import glob
import json
import os
import tarfile
from collections import Counter, OrderedDict
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from twoway.content import Audio, ContentError, Document, DocumentOrPair, Image, Media, Pair, Place, Video, media_kinds
from twoway.data.rows import Skip
from twoway.errors import TwowayError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from twoway.data.rows import ReadOptions
    from twoway.limits import Limits

    from .formats import Converter

# Where a row is, in two whole numbers: byte and line of a JSONL file, file and row of Parquet files, file and page of PDFs.
Position = tuple[int, int]
RowT = TypeVar("RowT", bound=DocumentOrPair)


class RowSize(NamedTuple):
    """What is known of a row without decoding a pixel: the characters of its texts, sizes of its media, the task of a pair."""

    characters: int
    media: list[MediaSize]
    task: str


class MediaSize(NamedTuple):
    """The kind of a part that is no text, by its number in `media_kinds()`, and its size."""

    kind: int
    width: int
    height: int
    length: int

    @classmethod
    def of(cls, part: Media, place: Place | None, limits: Limits) -> MediaSize:
        """Measure a part; one whose header cannot be read is an error of its row."""
        return cls(next(number for number, kind in enumerate(media_kinds()) if isinstance(part, kind)), *part.size(place, limits))


class Reader(Generic[RowT]):
    """The rows of one source. It can be pickled: what is open or large stays behind and is opened again where it is needed."""

    suffixes: ClassVar[tuple[str, ...]] = ()  # of the names of files of this format
    in_folders: ClassVar[str] = ""  # what a folder of such files is said to hold; without it folders are not read
    random_access: ClassVar[bool] = True  # whether `positions` and `read` are there
    has_columns: ClassVar[bool] = True  # whether rows are columns, which may be those of a pair
    names_files: ClassVar[bool] = False  # whether texts of rows may name picture files by mistake

    _transient: ClassVar[tuple[str, ...]] = ()  # attributes that stay behind
    _process: int | None = None

    def __init__(self, source: str, options: ReadOptions, convert: Converter[RowT]) -> None:
        """Take a source without its kind, and what a row becomes; no row is read yet."""
        self.source, self.path, self.options, self.convert = source, Path(source), options, convert

    def files(self) -> list[Path]:
        """Return the files that the rows come from, in a fixed order; where they change, positions are void."""
        return [self.path]

    def rows(self, skip: Skip | None = None) -> Iterator[RowT | ContentError]:
        """Go through all rows in order, a bad one as the error that says why; what is skipped is not read."""
        skip = skip or Skip()
        for at in self.positions():
            if skip.take(1):
                continue
            try:
                yield self.read(at)
            except ContentError as error:
                yield error

    def positions(self) -> Iterator[Position]:
        """Go through the positions of all rows, bad ones among them, in order."""
        raise NotImplementedError

    def read(self, at: Position) -> RowT:
        """Return the row at a position, its pictures unopened, or raise a `ContentError` that says why it is bad."""
        raise NotImplementedError

    def measure(self, at: Position) -> RowSize:
        """Return the size of a row."""
        item = self.read(at)
        sizes = [MediaSize.of(part, item.place, self.options.limits) for part in item.media]
        # Of rows that may be pairs the task is not asked: a source of both kinds has none.
        return RowSize(sum(map(len, item.texts)), sizes, item.task if isinstance(item, Pair) and self.convert.makes == "pairs" else "")

    def read_with(self, at: Position) -> tuple[int, int] | None:
        """Return what is read together with a row, where rows are read in groups."""
        return None

    def convert_row(self, row: object, place: Place, folder: Path | None) -> RowT:
        """Turn what was read into an item; `folder` is that of the row's file."""
        return self.convert(row, place, folder, self.options)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is open or large."""
        return {key: None if key in self._transient else value for key, value in vars(self).items()}

    def _reopen_after_fork(self) -> None:
        """Let go of what was open before this process was forked: a file has one place, and two would move it under each other."""
        if self._process != os.getpid():
            vars(self).update(dict.fromkeys(self._transient), _process=os.getpid())


# How a source that is new is gone through: by so many processes, or not at all.


@dataclass(frozen=True)
class ScanOptions:
    """How a new source is looked through: by so many processes (`None`: more than one where it is large), or not at all.

    `logged` says whether what is odd about a source goes into the log each time that it is opened.
    """

    processes: int | None = None
    prepared_only: bool = False
    logged: bool = True


_DEFAULT_SCAN = ScanOptions()
_SCAN_OPTIONS: ContextVar[ScanOptions] = ContextVar("how sources are looked through", default=_DEFAULT_SCAN)


@contextmanager
def scan_options(*, processes: int | None = None, prepared_only: bool = False, logged: bool = True) -> Iterator[None]:
    """Say for a block how sources are looked through; with `prepared_only` one that was not is refused."""
    token = _SCAN_OPTIONS.set(ScanOptions(processes, prepared_only, logged))
    try:
        yield
    finally:
        _SCAN_OPTIONS.reset(token)


def current_scan_options() -> ScanOptions:
    """Return what the block says."""
    return _SCAN_OPTIONS.get()


# JSON lines: one object a line, picture paths relative to the file; blank lines are passed over but counted.

BOM = b"\xef\xbb\xbf"
_PIECE = 1 << 20


class JsonlReader(Reader[RowT]):
    """Lines by their byte."""

    suffixes, names_files = (".jsonl", ".ndjson"), True
    _transient = ("_file",)
    _file: BinaryIO | None = None

    def rows(self, skip: Skip | None = None) -> Iterator[RowT | ContentError]:
        """See `Reader`; the file is gone through once."""
        skip = skip or Skip()
        for _, number, line in self._lines():
            if skip.take(1):
                continue
            try:
                yield self._parse(line, number)
            except ContentError as error:
                yield error

    def positions(self) -> Iterator[Position]:
        """See `Reader`."""
        yield from ((at, number) for at, number, _ in self._lines())

    def read(self, at: Position) -> RowT:
        """See `Reader`."""
        self._reopen_after_fork()
        with _readable(self.path):
            if self._file is None:
                self._file = self.path.open("rb")
            self._file.seek(at[0])
            line = self._file.readline(self.options.limits.max_line_bytes + 1)
        return self._parse(line.removeprefix(BOM) if at[0] == 0 else line, at[1])

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        with _readable(self.path), self.path.open("rb") as file:
            yield from json_lines(file, self.options.limits.max_line_bytes)

    def _parse(self, line: bytes, number: int) -> RowT:
        place = Place(str(self.path), number)
        return self.convert_row(parse_json(line, place, self.options.limits.max_line_bytes), place, self.path.parent)


def json_lines(file: BinaryIO, longest: int) -> Iterator[tuple[int, int, bytes]]:
    """Go through the lines that are not blank: the byte that a line begins at, its number, and what it holds.

    Of a line above the bound one byte more than that is given, so that `parse` refuses it, and the rest is passed over in pieces. Bytes are
    split, not text: only a newline ends a line, whatever other separators stand inside a string.
    """
    at, number = 0, 0
    while line := file.readline(longest + 1):
        number += 1
        size = len(line)
        if size > longest and not line.endswith(b"\n"):
            while more := file.readline(_PIECE):
                size += len(more)
                if more.endswith(b"\n"):
                    break
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            yield at, number, line
        at += size


def parse_json(line: bytes, place: Place, longest: int) -> Any:
    """Return the value of one line."""
    if len(line) > longest:
        raise ContentError(f"the line is longer than {longest:,} bytes; cut it into several rows", place)
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ContentError(f"the line is not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1})", place) from error
    except json.JSONDecodeError as error:
        raise ContentError(f"invalid JSON ({error.msg} at column {error.colno})", place) from error
    except (ValueError, RecursionError) as error:
        raise ContentError(f"invalid JSON ({error})", place) from error


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that has a key twice, of which JSON would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {next(key for key in counts if counts[key] > 1)!r} is there twice")
    return found


def _no_constant(name: str) -> None:
    """Refuse what Python writes and JSON does not have."""
    raise ValueError(f"{name} is not JSON; write null")


# Pictures, videos and the like as they lie: one file, a folder of them at any depth, or what a pattern matches; each is
# a document of one part.
#
# They come in the order of their paths. A file is a picture by the ending of its name; one that is broken behind it
# is a bad row.


def files_below(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Return the files of a folder that end in one of these, at any depth, in a fixed order; of a file, the file."""
    return sorted(one for one in path.rglob("*") if one.suffix.lower() in suffixes and one.is_file()) if path.is_dir() else [path]


def files_matching(pattern: str) -> list[Path]:
    """Return the files that a pattern matches, in a fixed order."""
    return sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())


class MediaReader(Reader[Document]):
    """Files of one kind by number."""

    has_columns = False
    kind: ClassVar[type[Media]]

    def __init__(self, source: str, options: ReadOptions, convert: Converter[Document]) -> None:
        super().__init__(source, options, convert)
        matching = [path for path in files_matching(source) if path.suffix.lower() in self.suffixes]
        self.paths = files_below(self.path, self.suffixes) if self.path.exists() else matching

    def files(self) -> list[Path]:
        """See `Reader`."""
        return self.paths

    def positions(self) -> Iterator[Position]:
        """See `Reader`."""
        yield from ((number, 0) for number in range(len(self.paths)))

    def read(self, at: Position) -> Document:
        """See `Reader`."""
        path = self.paths[at[0]]
        return Document.from_parts([{self.kind.key: path}], place=Place(str(path)), limits=self.options.limits)


class ImageReader(MediaReader):
    """Picture files."""

    suffixes, in_folders, kind = Image.suffixes, "pictures", Image


class VideoReader(MediaReader):
    """Video files."""

    suffixes, in_folders, kind = Video.suffixes, "videos", Video


class SoundReader(MediaReader):
    """Sound files."""

    suffixes, in_folders, kind = Audio.suffixes, "sounds", Audio


# WebDataset: tar files in which the files of one stem stand one behind the other and form a row (`0001.jpg`,
# `0001.txt`, `0001.json`).
#
# What stands behind a file's stem says what it is: a picture is the column `image`, a video `video`, `.txt` the column `text`, the
# keys of a `.json` are columns, and any other file is a column of its ending (`.cls`). With a name between
# (`0001.query.txt`, `0001.positive.jpg`) it is the column of that name: `query`, `positive_image`. So pairs and ready
# formats read tars as they read tables.
#
# An index is made once, by going from header to header: no content is read. A tar that is torn, that has two archives
# in it, or in which a stem comes a second time, is an error that names the file and the byte, whatever the policy for
# bad rows: nobody knows how many rows are lost. Compressed tars have no positions; they are refused.

_BLOCK = tarfile.BLOCKSIZE
_TEXTS = ("txt", "text", "caption", "cls")
# A position's first number holds the file and the row: no tar has more rows than this.
_ROWS = 1 << 40
_OPEN = 8


class Member(NamedTuple):
    """One file of a tar: its stem, its ending, and where its header and its content begin."""

    stem: str
    ending: str
    header: int
    start: int
    size: int


class TarReader(Reader[RowT]):
    """Rows by the byte of their first header; a few files are open at a time."""

    suffixes, in_folders = (".tar",), "tars"
    _transient = ("_open",)

    def __init__(self, source: str, options: ReadOptions, convert: Converter[RowT]) -> None:
        super().__init__(source, options, convert)
        self.paths = files_below(self.path, self.suffixes) if self.path.exists() else files_matching(source)
        if not self.paths:
            raise UsageError(f"{source} holds no {self.suffixes[0]} files")
        self._open: OrderedDict[int, BinaryIO] | None = None

    def files(self) -> list[Path]:
        """See `Reader`."""
        return self.paths

    def positions(self) -> Iterator[Position]:
        """See `Reader`."""
        for number, path in enumerate(self.paths):
            keys: set[str] = set()
            current, row = None, 0
            with _readable(path), path.open("rb") as file:
                for member in _members(path, file, 0):
                    if member.stem == current:
                        continue
                    if member.stem in keys:
                        where = f"{path}: the key {member.stem} comes a second time, at byte {member.header:,}"
                        raise TwowayError(f"{where}; the files of a row stand together, and no two rows have one key")
                    keys.add(member.stem)
                    current, row = member.stem, row + 1
                    yield number * _ROWS + row, member.header

    def read(self, at: Position) -> RowT:
        """See `Reader`."""
        number, row = divmod(at[0], _ROWS)
        path = self.paths[number]
        place = Place(str(path), row)
        with _readable(path):
            found = _tar_row(path, self._file(number), at[1], place)
        return self.convert_row(found, place, path.parent)

    def _file(self, number: int) -> BinaryIO:
        """Open a file, and close the one that was not used for longest."""
        self._reopen_after_fork()
        files = self._open = OrderedDict() if self._open is None else self._open
        if number not in files:
            while len(files) >= _OPEN:
                files.popitem(last=False)[1].close()
            files[number] = self.paths[number].open("rb")
        files.move_to_end(number)
        return files[number]


def _tar_row(path: Path, file: BinaryIO, at: int, place: Place) -> dict[str, Any]:
    """Read the files of a row as the columns of a table."""
    found: dict[str, Any] = {}
    stem = None
    for member in _members(path, file, at):
        if stem is not None and member.stem != stem:
            break
        stem = member.stem
        file.seek(member.start)
        for name, value in _columns(member, file.read(member.size), place).items():
            if name in found and found[name] != value:
                raise ContentError(f"two files of {stem} say what {name} is (one of them is {stem}.{member.ending})", place)
            found[name] = value
    return {"__key__": stem, **found}


def _columns(member: Member, content: bytes, place: Place) -> dict[str, Any]:
    """Return the columns that a file is: of its kind, or of the name that stands before its ending."""
    name, _, ending = member.ending.rpartition(".")
    kind = next((kind for kind in media_kinds() if f".{ending.lower()}" in kind.suffixes), None)
    if kind is not None:
        return {f"{name}_{kind.columns[0]}" if name else kind.columns[0]: content}
    if ending in ("json", *_TEXTS):
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ContentError(f"{member.stem}.{member.ending} is not UTF-8 (byte {content[error.start]:#04x})", place) from error
        if ending != "json":
            return {name or ("text" if ending in ("txt", "text") else ending): text}
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ContentError(f"{member.stem}.{member.ending} is invalid JSON ({error})", place) from error
        return value if isinstance(value, dict) and not name else {name or "json": value}
    return {member.ending: content}


def _members(path: Path, file: BinaryIO, at: int) -> Iterator[Member]:
    """Go from header to header, from one on; what is not a file is passed over, and what is wrong with the archive is said."""
    file.seek(0, 2)
    size, header, archive = file.tell(), at, None
    while True:
        file.seek(header)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise TwowayError(f"{path} is torn: it ends at byte {size:,} without the mark of its end; fetch it again")
        if not any(block):
            _require_end(path, file, size)
            return
        file.seek(header)
        try:
            archive = archive or tarfile.TarFile(fileobj=file, mode="r")
            file.seek(header)
            info = tarfile.TarInfo.fromtarfile(archive)
        except tarfile.TarError as error:
            raise TwowayError(f"{path} is not a readable tar from byte {header:,} on ({error}); fetch it again") from error
        if info.isfile() and info.offset_data + info.size > size:
            raise TwowayError(
                f"{path} is torn: {info.name} at byte {header:,} has {info.size:,} bytes, and the file ends before; fetch it again"
            )
        begins, header = header, archive.offset
        folder, _, name = info.name.removeprefix("./").rpartition("/")
        stem, dot, ending = name.partition(".")
        if info.isdir() or (info.isfile() and (not stem or not dot)):
            continue  # folders, hidden files, and files without an ending say nothing of a row
        if not info.isfile():
            raise TwowayError(f"{path}: {info.name} at byte {begins:,} is a link or a device, and no file")
        yield Member(f"{folder}/{stem}" if folder else stem, ending, begins, info.offset_data, info.size)


def _require_end(path: Path, file: BinaryIO, size: int) -> None:
    """Refuse an archive behind whose end more is written: its rows would be lost without a word."""
    at = file.tell()
    while piece := file.read(1 << 20):
        if any(piece):
            raise TwowayError(
                f"{path}: more is written behind the end of the archive at byte {at - _BLOCK:,} of {size:,}; give each archive its own file"
            )


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one line what the system says of a file."""
    try:
        yield
    except OSError as error:
        raise TwowayError(f"{path} cannot be read ({error.strerror or error})") from error
