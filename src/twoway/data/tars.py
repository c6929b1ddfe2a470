"""WebDataset: tar files in which the files of one stem stand one behind the other and form a row (`0001.jpg`, `0001.txt`, `0001.json`).

What stands behind a file's stem says what it is: a picture is the column `image`, `.txt` the column `text`, the keys of a `.json` are
columns, and any other file is a column of its ending (`.cls`). With a name between (`0001.query.txt`, `0001.positive.jpg`) it is the column
of that name: `query`, `positive_image`. So pairs and ready formats read tars as they read tables.

An index is made once, by going from header to header: no content is read. A tar that is torn, that has two archives in it, or in which a
stem comes a second time, is an error that names the file and the byte, whatever the policy for bad rows: nobody knows how many rows are
lost. Compressed tars have no positions; they are refused.
"""

from __future__ import annotations

import glob
import json
import tarfile
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..content import ContentError, Document, Place
from ..errors import TwowayError, UsageError
from .finders import Base
from .rows import SUFFIXES as PICTURES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from .finders import Position
    from .rows import ReadOptions, Rows

SUFFIX = ".tar"
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
    found = path.rglob(f"*{SUFFIX}") if path.is_dir() else map(Path, glob.glob(argument, recursive=True))
    return sorted(one for one in found if one.is_file())


def rows(argument: str, options: ReadOptions) -> Rows:
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
            raise UsageError(f"{argument} holds no {SUFFIX} files")
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
            found = _row(path, self._file(number), at[1], place)
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


def _row(path: Path, file: BinaryIO, at: int, place: Place) -> dict[str, Any]:
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
    if f".{ending.lower()}" in PICTURES:
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
