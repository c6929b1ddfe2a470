"""Readers of JSON lines, pictures and tar files; what random access to rows is, for every format.

Parquet and the hub are in `parquet`, PDFs in `pdf`.
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
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from twoway.content import ContentError, Document, Image, Place
from twoway.errors import TwowayError, UsageError
from twoway.images import image_size

from .rows import SUFFIXES, require_columns
from .rows import document as document_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from .rows import ReadOptions, Row, Rows


# Random access to rows: a reader that lists the positions of its rows once, and finds any of them again without
# holding the others.
#
# A position is two whole numbers: byte and line of a JSONL file, file and row of Parquet files, file and page of
# PDFs, row of a saved data set, number of a sample. A finder can be pickled: what is open or in memory stays behind
# and is opened again where it is needed.

Position = tuple[int, int]


class Finder(Protocol):
    """Random access to the rows of one source."""

    def files(self) -> list[Path]:
        """Return the files that the rows come from; where they change, positions are void."""

    def scan(self) -> Iterator[Position]:
        """Go through the positions of all rows, in order."""

    def read(self, at: Position) -> Document:
        """Return the row at a position, its pictures unopened, or raise a `ContentError` that says why it is none."""

    def measure(self, at: Position) -> tuple[int, list[tuple[int, int]]]:
        """Return the characters of the row's texts and (width, height) of its pictures, no pixel decoded."""

    def kind(self, at: Position) -> str:
        """Return which kind of row it is, where a source has several; it is asked right after `measure`."""


class Base:
    """What finders share."""

    _transient: tuple[str, ...] = ()
    _process: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is open or large."""
        return {key: None if key in self._transient else value for key, value in vars(self).items()}

    def _part(self) -> None:
        """Let go of what was open before this process was forked: a file has one place, and two would move it under each other."""
        if self._process != os.getpid():
            vars(self).update(dict.fromkeys(self._transient), _process=os.getpid())

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        raise NotImplementedError

    def measure(self, at: Position) -> tuple[int, list[tuple[int, int]]]:
        """See `Finder`."""
        found = self.read(at)
        return sum(map(len, found.texts)), [image_size(image, place=found.place, limits=self.options.limits) for image in found.images]

    def kind(self, at: Position) -> str:
        """See `Finder`."""
        return ""

    def __init__(self, options: ReadOptions) -> None:
        self.options = options

    def _document(self, row: object, place: Place, root: Path | None) -> Document:
        """Turn a row into a document, or raise."""
        found = document_rows(row, place, self.options.root or root, self.options.form, self.options.unread, limits=self.options.limits)
        if isinstance(found, ContentError):
            raise found
        return found


class JsonlFinder(Base):
    """Lines by their byte."""

    _transient = ("_file",)

    def __init__(self, argument: str, options: ReadOptions) -> None:
        super().__init__(options)
        self.path = Path(argument)
        self._file: BinaryIO | None = None

    def files(self) -> list[Path]:
        """See `Finder`."""
        return [self.path]

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        try:
            with self.path.open("rb") as file:
                yield from ((at, number) for at, number, _ in json_lines(file, self.options.limits.max_line_bytes))
        except OSError as error:
            raise TwowayError(f"{self.path} cannot be read ({error.strerror})") from error

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        self._part()
        try:
            if self._file is None:
                self._file = self.path.open("rb")
            self._file.seek(at[0])
            longest = self.options.limits.max_line_bytes
            line = self._file.readline(longest + 1)
        except OSError as error:
            raise TwowayError(f"{self.path} cannot be read ({error.strerror})") from error
        place = Place(str(self.path), at[1])
        value = parse_json(line.removeprefix(BOM) if at[0] == 0 else line, place, longest)
        if isinstance(value, ContentError):
            raise value
        return self._document(value, place, self.path.parent)


class DiskFinder(Base):
    """Rows of a folder that `datasets.save_to_disk` wrote, mapped into memory by `datasets`."""

    _transient = ("_table",)

    def __init__(self, argument: str, options: ReadOptions) -> None:
        super().__init__(options)
        self.path = Path(argument)
        self._table: Any = None

    def files(self) -> list[Path]:
        """See `Finder`."""
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        if self.options.form is None:
            require_columns(self._rows().column_names, self.path)
        yield from ((0, row) for row in range(len(self._rows())))

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        place = Place(str(self.path), at[1] + 1)
        try:
            # As Arrow, because plain rows would come with their pictures decoded.
            row = self._rows()[at[1] : at[1] + 1].to_pylist()[0]
        except (ValueError, ArithmeticError) as error:
            raise ContentError(f"the row cannot be read ({error})", place) from error
        return self._document(row, place, self.path)

    def _rows(self) -> Any:
        """Open the folder."""
        if self._table is None:
            self._table = import_module(".parquet", __package__).load_disk(str(self.path)).with_format("arrow")
        return self._table


class SamplesFinder(Base):
    """Rows of a view of the shipped samples, which are small and held in memory."""

    _transient = ("_documents",)

    def __init__(self, argument: str, options: ReadOptions) -> None:
        super().__init__(options)
        self.name = argument
        self._documents: list[Document] | None = None

    def files(self) -> list[Path]:
        """See `Finder`."""
        return []

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        yield from ((0, row) for row in range(len(self._all())))

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        return self._all()[at[1]]

    def _all(self) -> list[Document]:
        """Make the view."""
        if self._documents is None:
            self._documents = list(import_module(".samples", __package__).documents(self.name))
        return self._documents


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


# JSON lines: one object a line, picture paths relative to the file; blank lines are passed over but counted.

BOM = b"\xef\xbb\xbf"
_PIECE = 1 << 20


def jsonl_rows(argument: str, options: ReadOptions) -> Rows:
    """Read a file line by line."""
    path = Path(argument)
    root = options.root or path.parent
    try:
        with path.open("rb") as file:
            for _, number, line in json_lines(file, options.limits.max_line_bytes):
                if not options.skip.take(1):
                    yield _jsonl_row(line, Place(str(path), number), root, options)
    except OSError as error:
        raise TwowayError(f"{path} cannot be read ({error.strerror})") from error


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


def _jsonl_row(line: bytes, place: Place, root: Path, options: ReadOptions) -> Row:
    """Read one line."""
    value = parse_json(line, place, options.limits.max_line_bytes)
    return value if isinstance(value, ContentError) else document_rows(value, place, root, unread=options.unread, limits=options.limits)


def parse_json(line: bytes, place: Place, longest: int) -> Any:
    """Return the value of one line, or the error that says why it has none."""
    if len(line) > longest:
        return ContentError(f"the line is longer than {longest:,} bytes; cut it into several rows", place)
    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        return ContentError(f"the line is not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1})", place)
    except json.JSONDecodeError as error:
        return ContentError(f"invalid JSON ({error.msg} at column {error.colno})", place)
    except (ValueError, RecursionError) as error:
        return ContentError(f"invalid JSON ({error})", place)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that has a key twice, of which JSON would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {next(key for key in counts if counts[key] > 1)!r} is there twice")
    return found


def _no_constant(name: str) -> None:
    """Refuse what Python writes and JSON does not have."""
    raise ValueError(f"{name} is no JSON; write null")


# Pictures as they lie: one file, a folder of them at any depth, or what a pattern matches; each is a document of one
# part.
#
# They come in the order of their paths. A file is a picture by the ending of its name; one that is broken behind it
# is a bad row.


def picture_files(argument: str) -> list[Path]:
    """Return the pictures of a folder or a pattern in a fixed order, or the one file."""
    path = Path(argument)
    if path.is_file():
        return [path]
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(argument, recursive=True))
    return sorted(one for one in found if one.suffix.lower() in SUFFIXES and one.is_file())


def picture_rows(argument: str, options: ReadOptions) -> Rows:
    """Go through the files; none is opened here."""
    found = picture_files(argument)
    for path in found[options.skip.take(len(found)) :]:
        yield document(path)


def document(path: Path) -> Document:
    """Return one picture."""
    return Document((Image(path),), Place(str(path)))


class PicturesFinder(Base):
    """Random access by number; see `finders`."""

    def __init__(self, argument: str, options: ReadOptions) -> None:
        super().__init__(options)
        self.paths = picture_files(argument)

    def files(self) -> list[Path]:
        """See `Finder`."""
        return self.paths

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        yield from ((number, 0) for number in range(len(self.paths)))

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        return document(self.paths[at[0]])


# WebDataset: tar files in which the files of one stem stand one behind the other and form a row (`0001.jpg`,
# `0001.txt`, `0001.json`).
#
# What stands behind a file's stem says what it is: a picture is the column `image`, `.txt` the column `text`, the
# keys of a `.json` are columns, and any other file is a column of its ending (`.cls`). With a name between
# (`0001.query.txt`, `0001.positive.jpg`) it is the column of that name: `query`, `positive_image`. So pairs and ready
# formats read tars as they read tables.
#
# An index is made once, by going from header to header: no content is read. A tar that is torn, that has two archives
# in it, or in which a stem comes a second time, is an error that names the file and the byte, whatever the policy for
# bad rows: nobody knows how many rows are lost. Compressed tars have no positions; they are refused.

TAR_SUFFIX = ".tar"
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


def tar_files(argument: str) -> list[Path]:
    """Return the tars of a folder or a pattern in a fixed order, or the one file."""
    path = Path(argument)
    if path.is_file():
        return [path]
    found = path.rglob(f"*{TAR_SUFFIX}") if path.is_dir() else map(Path, glob.glob(argument, recursive=True))
    return sorted(one for one in found if one.is_file())


def tar_rows(argument: str, options: ReadOptions) -> Rows:
    """Go through the rows of all files."""
    finder = TarFinder(argument, options)
    for at in finder.scan():
        if options.skip.take(1):
            continue
        try:
            yield finder.read(at)
        except ContentError as error:
            yield error


class TarFinder(Base):
    """Rows by the byte of their first header; a few files are open at a time."""

    _transient = ("_open",)

    def __init__(self, argument: str, options: ReadOptions) -> None:
        super().__init__(options)
        self.paths = tar_files(argument)
        if not self.paths:
            raise UsageError(f"{argument} holds no {TAR_SUFFIX} files")
        self._open: OrderedDict[int, BinaryIO] | None = None

    def files(self) -> list[Path]:
        """See `Finder`."""
        return self.paths

    def scan(self) -> Iterator[Position]:
        """See `Finder`."""
        for number, path in enumerate(self.paths):
            met: set[str] = set()
            current, row = None, 0
            with _errors(path), path.open("rb") as file:
                for member in _members(path, file, 0):
                    if member.stem == current:
                        continue
                    if member.stem in met:
                        where = f"{path}: the key {member.stem} comes a second time, at byte {member.header:,}"
                        raise TwowayError(f"{where}; the files of a row stand together, and no two rows have one key")
                    met.add(member.stem)
                    current, row = member.stem, row + 1
                    yield number * _ROWS + row, member.header

    def read(self, at: Position) -> Document:
        """See `Finder`."""
        number, row = divmod(at[0], _ROWS)
        path = self.paths[number]
        place = Place(str(path), row)
        with _errors(path):
            found = _tar_row(path, self._file(number), at[1], place)
        return self._document(found, place, path.parent)

    def _file(self, number: int) -> BinaryIO:
        """Open a file, and close the one that was not used for longest."""
        self._part()
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
    if f".{ending.lower()}" in SUFFIXES:
        return {f"{name}_image" if name else "image": content}
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
    """Go from header to header, from one on; what is no file is passed over, and what is wrong with the archive is said."""
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
            raise TwowayError(f"{path} is no readable tar from byte {header:,} on ({error}); fetch it again") from error
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
def _errors(path: Path) -> Iterator[None]:
    """Say in one line what the system says of a file."""
    try:
        yield
    except OSError as error:
        raise TwowayError(f"{path} cannot be read ({error.strerror or error})") from error
