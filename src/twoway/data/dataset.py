"""A source by its spec: documents in order, or a table in which any row is found by its number and has a known size."""

from __future__ import annotations

import functools
import glob
import hashlib
import io
import itertools
import json
import logging
import os
import re
import shutil
from array import array
from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from twoway.content import ContentError, Document, DocumentOrPair, Place, open_document
from twoway.errors import TwowayError, UsageError, did_you_mean
from twoway.files import cache_home, contents, fresh_folder, turn, write_whole
from twoway.images import DEFAULT
from twoway.processes import Team, count_of
from twoway.progress import steps

from .rows import Policy, ReadOptions, ReadReport, Skip, describe_picture_paths, describe_unread_pictures, is_picture_path
from .sources.formats import ToDocument, document_format, named_sides
from .sources.parquet import DiskReader, HubReader, ParquetReader
from .sources.pdf import PdfReader
from .sources.readers import (
    ImageReader,
    JsonlReader,
    MediaReader,
    MediaSize,
    Reader,
    RowT,
    SoundReader,
    TarReader,
    VideoReader,
    current_scan_options,
    files_matching,
)
from .sources.samples import SamplesReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from twoway.limits import Limits

    from .config import OnBad
    from .sources.formats import Converter
    from .sources.readers import Position

_log = logging.getLogger(__name__)


# The formats, and what a spec (a path, or `kind:name`) means.


class GlobReader(Reader[RowT]):
    """The files that a pattern matches, each read as what it is, one behind the other."""

    random_access = False

    def files(self) -> list[Path]:
        """See `Reader`."""
        return files_matching(self.source)

    def readers(self) -> Iterator[Reader[RowT]]:
        """Open the files one by one."""
        return (open_reader(str(path), self.options, self.convert) for path in self.files())

    def rows(self, skip: Skip | None = None) -> Iterator[RowT | ContentError]:
        """See `Reader`."""
        skip = skip or Skip()
        for reader in self.readers():
            yield from reader.rows(skip)

    def positions(self) -> Iterator[Position]:
        """Refuse: there are none."""
        raise UsageError(f"{self.source} matches files of several rows each; name them one by one, or their folder")


# Every format, by the name that forces it (`jsonl:PATH`).
READERS: dict[str, type[Reader[Any]]] = {
    "jsonl": JsonlReader,
    "parquet": ParquetReader,
    "images": ImageReader,
    "videos": VideoReader,
    "sounds": SoundReader,
    "pdf": PdfReader,
    "tars": TarReader,
    "disk": DiskReader,
    "hub": HubReader,
    "samples": SamplesReader,
    "glob": GlobReader,
}
_SUFFIXES = {suffix: kind for kind, reader in READERS.items() for suffix in reader.suffixes}
_NAMED = ("hub", "samples")  # kinds whose sources are names, not paths
POSSIBLE = (
    "a .jsonl, .parquet, .pdf or .tar file, a picture, a video or a sound, a folder of Parquet files, tars, PDFs, pictures, videos or "
    "sounds, a pattern such as 'scans/**/*.png', a folder of datasets.save_to_disk, hub:NAME[:SPLIT], samples:NAME; jsonl:PATH, "
    "parquet:PATH, tars:PATH, pdf:PATH, images:PATH, videos:PATH, sounds:PATH and disk:PATH force a kind"
)


def open_reader(spec: str, options: ReadOptions, convert: Converter[RowT]) -> Reader[RowT]:
    """Open a source by its spec, with rows as `convert` makes them; no row is read yet."""
    kind, source = source_kind(spec)
    return READERS[kind](source, options, convert)


def source_files(spec: str) -> list[Path]:
    """Return the files on this machine that a spec reads, in a fixed order; none for what is fetched or shipped."""
    return open_reader(spec, ReadOptions(), ToDocument()).files()


def source_kind(spec: str) -> tuple[str, str]:
    """Find the kind of a spec and what its reader is given."""
    if not spec.strip():
        raise UsageError(f"no data is named (possible: {POSSIBLE})")
    path = Path(spec)
    kind, colon, rest = spec.partition(":")
    if colon and not path.exists():
        if kind not in READERS:
            raise UsageError(f"{spec} is not data: there is no kind {kind!r}{did_you_mean(kind, READERS)} (possible: {POSSIBLE})")
        if not rest:
            raise UsageError(f"{spec} names no data; write {kind}:{'NAME' if kind in _NAMED else 'PATH'}")
        if kind not in _NAMED and not Path(rest).exists() and not (kind == "tars" and files_matching(rest)):
            raise UsageError(f"{spec}: there is no {rest}")
        return kind, rest
    if not path.exists() and glob.has_magic(spec):
        return _pattern_kind(spec), spec
    if not path.exists():
        near = did_you_mean(path.name, [other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise UsageError(f"there is no {spec}{near} (possible: {POSSIBLE})")
    found = _folder_kind(path) if path.is_dir() else _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise UsageError(f"{spec} is not data of a known kind (possible: {POSSIBLE})")
    return found, spec


def _folder_kind(folder: Path) -> str | None:
    """Tell what a folder holds by its files."""
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return "disk"
    held = {_SUFFIXES.get(path.suffix.lower()) for path in folder.rglob("*") if path.is_file()}
    found = [kind for kind, reader in READERS.items() if reader.in_folders and kind in held]
    if "parquet" in found:
        found = [kind for kind in found if not issubclass(READERS[kind], MediaReader)]  # those beside Parquet files are named by its rows
    if len(found) > 1:
        first, second = found[:2]
        what = f"{READERS[first].in_folders} and {READERS[second].in_folders}"
        raise UsageError(f"{folder} holds both {what}; write {first}:{folder} or {second}:{folder}")
    return found[0] if found else None


def _pattern_kind(pattern: str) -> str:
    """Tell what a pattern's files are: pictures alone are a set of pictures, anything else is read file by file."""
    matching = files_matching(pattern)
    if not matching:
        raise UsageError(f"no file matches {pattern}")
    odd = next((path for path in matching if path.suffix.lower() not in _SUFFIXES), None)
    if odd is not None:
        raise UsageError(f"{odd}, which {pattern} matches, is not data of a known kind; narrow the pattern (possible: {POSSIBLE})")
    kinds = {_SUFFIXES[path.suffix.lower()] for path in matching}
    return kinds.pop() if len(kinds) == 1 and kinds <= {"images", "videos", "sounds", "tars"} else "glob"


# Documents in order, lazily, with the failure policy applied in this one place.


class Source:
    """Documents of one spec; each iteration is a new pass, and `report()` tells of the latest."""

    def __init__(
        self, spec: str, policy: Policy, options: ReadOptions, convert: Converter[Document], *, images: Literal["load", "lazy"]
    ) -> None:
        self.spec = spec
        self.policy = policy
        self._options, self._convert = options, convert
        self._unread_logged = 0
        self._load = images == "load"
        self._report = ReadReport(spec)

    def __iter__(self) -> Iterator[Document]:
        """Yield the good documents; bad rows go to the policy."""
        self.policy.start()
        report = self._report = ReadReport(self.spec, bad_rows=self.policy.bad_rows)
        for row in self.rows():
            report.rows += 1
            if isinstance(row, ContentError):
                report.add_bad(row)
                self.policy.refuse(row)
                continue
            report.kept += 1
            yield row
        if not report.rows:
            raise TwowayError(f"{self.spec} holds no rows")
        if not report.kept:
            raise TwowayError(f"every row of {self.spec} is bad ({report.bad:,}), the first: {report.first[0]}")
        if report.bad:
            _log.warning("%s", report)

    def rows(self, skip: Skip | int = 0) -> Iterator[Document | ContentError]:
        """Yield every row, bad ones as the error that says why; the caller decides about those. A `skip` may go through several sources."""
        reader = open_reader(self.spec, self._options, self._convert)
        return map(self._ready, reader.rows(Skip(skip) if isinstance(skip, int) else skip))

    def report(self) -> ReadReport:
        """Return the counts of the latest pass."""
        return self._report

    def _ready(self, row: Document | ContentError) -> Document | ContentError:
        """Open the pictures of a good row, unless they are to stay closed."""
        unread = self._options.unread_pictures
        if len(unread) > self._unread_logged:
            self._unread_logged = len(unread)
            _log.warning("%s", describe_unread_pictures(self.spec, unread))
        if isinstance(row, ContentError):
            return row if row.place is not None else ContentError(row.reason, Place(self.spec))
        try:
            return open_document(row, limits=self._options.limits) if self._load else row
        except ContentError as error:
            return error


def open_source(
    spec: str | Path,
    *,
    on_bad: OnBad = "fail",
    bad_rows: str | Path | None = None,
    root: str | Path | None = None,
    row_template: str | None = None,
    images: Literal["load", "lazy"] = "load",
    limits: Limits = DEFAULT,
    dpi: int = 144,
    policy: Policy | None = None,
) -> Source:
    """Open data by its spec; nothing is read before the first iteration, but a spec that cannot be is refused here.

    `images="load"` decodes every picture as its row passes, so that a broken one is found there; `"lazy"` leaves them to
    `images.open_image`. `root` is the folder that picture paths are relative to and may not leave (default: the file's own). A
    `row_template` reads columns of other names, as in the sources of a training. A `policy` given replaces `on_bad` and `bad_rows`, and
    may be shared by several sources.
    """
    source_kind(str(spec))
    options = ReadOptions(None if root is None else Path(root), dpi, limits)
    convert = ToDocument(document_format(row_template) if row_template else None)
    return Source(str(spec), Policy(on_bad, bad_rows) if policy is None else policy, options, convert, images=images)


# A source as a table: any row by its number, and what a row will cost, known without holding rows in memory.
#
# One pass over the source finds the position of every row, counts its characters and reads the size of its pictures
# from their headers; bad rows go to the failure policy here, before any training. The result is a few numpy arrays.
# With a folder they are kept there and mapped into memory, and found again by whoever asks the same: they are named
# by the source's files as they are (path, size and time), the code that reads them, and what the source was asked for
# (cap, root, row_template and so on). Where rows are of several kinds (the tasks of pairs), the kind of each is kept too.
#
# A large source is looked through by several processes. What is done lies in parts beside the table, so that a pass
# that was cut off goes on; of two processes that need the same table at once the second waits for the first.
#
# A hash of what those files hold is part of the digest of the data, so that a run does not go on with other rows of
# the same lengths. Pictures that good rows name by path are told by their sizes alone, and not looked at again: one
# that changes size makes a batch costlier, not wrong. Of a bad row the size and time of its pictures' files are kept
# too, and where one has changed that row is looked at once more.

_VERSION = 7
_ARRAYS = {"positions": np.int64, "numbers": np.int64, "characters": np.int64, "first": np.int64, "sizes": np.int32, "kinds": np.int32}
# Rows that are looked at in one go, and how many such blocks this process does itself before others are started for the rest.
_BLOCK, _ALONE = 2048, 8
_NUMBERS = len(MediaSize._fields)  # of a size
_FIRST = 20  # rows whose texts are compared with the names of files


class BadRow(NamedTuple):
    """Where a bad row is, and the files of its pictures as they were: (path, size, time), or -1 where there is none."""

    number: int
    at: tuple[int, int]
    files: tuple[tuple[str, int, int], ...]

    def changed(self) -> bool:
        """Whether a picture has changed since."""
        return any(_stamp(path) != (size, time) for path, size, time in self.files)


@dataclass
class RowTable:
    """The good rows of one source. `first` says where a row's media begin in `sizes` (rows as `MediaSize`); it has one entry more."""

    spec: str
    reader: Reader[Any]
    positions: NDArray[np.int64]
    numbers: NDArray[np.int64]  # of the row in its source, bad ones counted
    characters: NDArray[np.int64]
    first: NDArray[np.int64]
    sizes: NDArray[np.int32]
    kinds: NDArray[np.int32]  # the number of each row's kind in `names`
    names: tuple[str, ...] = ("",)
    contents: str = ""  # a hash of what the source's files held
    bad: list[ContentError] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)  # of the same rows
    unread_pictures: dict[str, int] = field(default_factory=dict)  # columns that hold pictures and are not read, and in how many rows
    picture_paths: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # texts of the first rows that name picture files, and all, by side
    folder: Path | None = None
    scanned: bool = False  # whether the source was looked through just now

    def __len__(self) -> int:
        """Count the good rows."""
        return len(self.positions)

    def read(self, index: int) -> DocumentOrPair:
        """Return a row, its pictures unopened; a row that went bad since the table was made raises a `ContentError`."""
        at = self.positions[index]
        item: DocumentOrPair = self.reader.read((int(at[0]), int(at[1])))
        return item

    def images(self) -> NDArray[np.int64]:
        """Return the number of pictures of each row."""
        return np.diff(self.first)

    def digest(self) -> str:
        """Return a hash of the rows and of what the source's files hold: equal for the same data wherever and whenever it is read."""
        found = hashlib.sha256(self.contents.encode())
        for name in ("numbers", "characters", "first", "sizes"):
            found.update(np.ascontiguousarray(getattr(self, name)).data)
        if self.names != ("",):
            found.update(json.dumps(self.names).encode())
            found.update(np.ascontiguousarray(self.kinds).data)
        return found.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is kept on disk."""
        state = dict(vars(self))
        return state if self.folder is None else {key: value for key, value in state.items() if key not in _ARRAYS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the arrays again."""
        vars(self).update(state)
        if self.folder is not None:
            vars(self).update(_mapped(self.folder))


def open_table(
    spec: str,
    *,
    options: ReadOptions | None = None,
    convert: Converter[Any] | None = None,
    cap: int | None = None,
    folder: Path | None = None,
    policy: Policy | None = None,
) -> RowTable:
    """Open a source for random access, with at most its first `cap` rows; `folder` keeps the table for the next time.

    Rows are what `convert` makes of them (default: documents). `scan_options` says by how many processes a new table is made, and whether
    it may be.
    """
    options, policy, convert = options or ReadOptions(), policy or Policy(), convert or ToDocument()
    kind, source = source_kind(spec)
    if convert.makes == "pairs" and not READERS[kind].has_columns:
        raise UsageError(f"{spec} has documents, not pairs of a query and a positive")
    reader: Reader[Any] = READERS[kind](source, options, convert)
    if isinstance(reader, HubReader):
        reader = reader.copied(cap=cap, folder=folder, policy=policy)
    conditions = _table_conditions(f"{kind}:{Path(source).absolute()}" if Path(source).exists() else spec, reader, cap)
    key = hashlib.sha256(json.dumps(conditions).encode()).hexdigest()[:16]
    kept = _TableCache(folder, spec, key) if folder is not None and reader.files() else None
    table = find_shared(key) or (None if kept is None else kept.load_repaired(reader, conditions))
    if table is not None:
        policy.start()
        for error in table.bad:
            policy.refuse(error)
        return _log_warnings(table)
    if kept is not None:
        table = kept.make(reader, cap, policy, conditions)
    else:
        table = _join_blocks(spec, reader, list(_scan_blocks(spec, reader, cap, policy, None)))
    share(key, table)
    return _log_warnings(table)


def _log_warnings(table: RowTable) -> RowTable:
    """Say which pictures are not read, and which texts look like pictures, each time that a source is opened."""
    if not current_scan_options().logged:
        return table
    if table.unread_pictures:
        _log.warning("%s", describe_unread_pictures(table.spec, table.unread_pictures))
    if table.picture_paths:
        _log.warning("%s: %s", table.spec, describe_picture_paths(table.picture_paths))
    return table


class _TableCache:
    """A table's place in a folder of tables."""

    def __init__(self, folder: Path, spec: str, key: str) -> None:
        self.spec = spec
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(spec).name)[-40:]
        self.home, self.folder, self.sign = folder, folder / f"{name}-{key}", name
        self.parts = folder / f"{name}-{key}.part"

    def load(self, reader: Reader[Any]) -> RowTable | None:
        """Open the table, where it is there."""
        if not self.folder.is_dir():
            return None
        _log.info("%s was looked through before: %s", self.spec, self.folder)
        return _load(self.spec, reader, self.folder)

    def load_repaired(self, reader: Reader[Any], conditions: dict[str, Any]) -> RowTable | None:
        """Open the table; bad rows whose pictures have changed since are looked at once more, and the table is kept as it then is."""
        table = self.load(reader)
        if table is None or not any(row.changed() for row in table.bad_rows):
            return table
        with self._lock():
            table = self.load(reader) or table
            changed = [row.changed() for row in table.bad_rows]
            if not any(changed):
                return table
            table = _scan_again(table, changed)
            try:
                _save(table, self.folder, conditions)
            except (OSError, TwowayError) as error:  # a cache that others keep
                _log.warning("%s is not kept as it is now: %s", self.folder, error)
                return table
        return _load(self.spec, reader, self.folder)

    def _lock(self) -> AbstractContextManager[None]:
        lock = self.folder.with_name(f".{self.folder.name}.lock")
        return turn(lock, lambda: _log.warning("another process looks through %s; waiting for it", self.spec))

    def make(self, reader: Reader[Any], cap: int | None, policy: Policy, conditions: dict[str, Any]) -> RowTable:
        """Look through the source, or wait for the process that does, and keep the table."""
        other = self._describe_change(conditions)
        if current_scan_options().prepared_only:
            raise UsageError(
                f"{other or f'{self.spec} is not prepared'}; prepare it first (twoway data prepare), or set prepared_only=false"
            )
        if other:
            _log.warning("%s; it is looked through once more", other)
        with self._lock():
            table = self.load(reader)
            if table is not None:
                policy.start()
                for error in table.bad:
                    policy.refuse(error)
                return table
            blocks = list(_scan_blocks(self.spec, reader, cap, policy, self.parts))
            try:
                _save(_join_blocks(self.spec, reader, blocks), self.folder, conditions)
            finally:
                shutil.rmtree(self.parts, ignore_errors=True)
        made = _load(self.spec, reader, self.folder)
        made.scanned = True
        return made

    def _describe_change(self, conditions: dict[str, Any]) -> str:
        """Say in what the tables of the same source differ from the one that is asked for; nothing where there is none."""
        best: list[str] | None = None
        for path in self.home.glob(f"{self.sign}-*/table.json"):
            try:
                before = json.loads(path.read_text())["conditions"]
            except (OSError, ValueError, KeyError):
                continue
            if before.get("spec") == conditions["spec"] and before.get("task") == conditions.get("task"):
                now = json.loads(json.dumps(conditions))
                differs = [name for name in now if now[name] != before.get(name)]
                best = differs if best is None or len(differs) < len(best) else best
        if best is None:
            return ""
        changed = [_CHANGES.get(name, f"another {name}") for name in best]
        return f"{self.spec} was prepared before and cannot be used as it is: {', '.join(changed)}"


_CHANGES = {"files": "its files have changed since", "code": "by another version of the code that reads it"}


class _ScannedBlock(NamedTuple):
    """What a block of rows was found to be: arrays as those of a table, and the bad rows by their number in the source."""

    arrays: dict[str, NDArray[Any]]
    names: list[str]
    bad: list[ContentError]
    bad_rows: list[BadRow]
    seen: int
    unread: dict[str, int]


def _scan_blocks(spec: str, reader: Reader[Any], cap: int | None, policy: Policy, parts: Path | None) -> Iterator[_ScannedBlock]:
    """Go through the source once, block by block: what lies in `parts` already is taken from there, and the rest goes there."""
    policy.start()
    wanted = current_scan_options().processes
    team: Team | None = None
    waiting: list[tuple[int, Callable[[], _ScannedBlock]]] = []

    def finish(number: int, wait: Callable[[], _ScannedBlock]) -> _ScannedBlock:
        found = wait()
        # What is bad may be load_repaired before the next try, also in a picture's own file, which no key knows of.
        if parts is not None and not found.bad and not (path := _block_file(parts, number)).exists():
            parts.mkdir(parents=True, exist_ok=True)
            write_whole(path, _block_to_bytes(found))
        for error in found.bad:
            policy.refuse(error)
        return found

    try:
        blocks = _blocks(reader, cap)
        ahead = list(itertools.islice(blocks, 2))
        if len(ahead) < 2:
            wanted = 1  # a process would take longer to start
        blocks = itertools.chain(ahead, blocks)
        for number, (first, positions) in enumerate(steps(blocks, f"looking through {spec}, {_BLOCK:,} rows a step")):
            if parts is not None and _block_file(parts, number).exists():
                wait: Callable[[], _ScannedBlock] = functools.partial(_read_block, _block_file(parts, number))
            elif wanted == 1 or (wanted is None and (number < _ALONE or count_of(None) == 1)):
                wait = functools.partial(_scan_block, spec, reader, first, positions)
            else:
                team = team or Team(count_of(wanted), _start_worker, spec, reader, title=f"looking through {spec}")
                wait = team.submit(_scan_in_worker, first, positions)
            waiting.append((number, wait))
            while len(waiting) > (2 * team.count if team is not None else 0):
                yield finish(*waiting.pop(0))
        while waiting:
            yield finish(*waiting.pop(0))
    finally:
        if team is not None:
            team.close()


def _blocks(reader: Reader[Any], cap: int | None) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Cut the positions of a source into blocks, with the number of rows before each; what is read together is in one block."""
    found, first, last = array("q"), 0, None
    for number, at in enumerate(reader.positions()):
        if number == cap:
            break
        group = reader.read_with(at)
        if len(found) >= 2 * _BLOCK and (group is None or group != last):
            yield first, np.array(found, np.int64).reshape(-1, 2)
            first, found = number, array("q")
        found.extend(at)
        last = group
    if found:
        yield first, np.array(found, np.int64).reshape(-1, 2)


_WORKER: dict[str, Any] = {}  # of a process that looks through a source: what it reads


def _start_worker(spec: str, reader: Reader[Any]) -> None:
    _WORKER.update(spec=spec, reader=reader)


def _scan_in_worker(first: int, positions: NDArray[np.int64]) -> _ScannedBlock:
    return _scan_block(_WORKER["spec"], _WORKER["reader"], first, positions)


def _scan_block(spec: str, reader: Reader[Any], before: int, positions: NDArray[np.int64]) -> _ScannedBlock:
    """Measure a block of rows."""
    numbers, characters, first, sizes, kinds = array("q"), array("q"), array("q", [0]), array("i"), array("i")
    good, names, bad, bad_rows = array("q"), dict[str, int](), list[ContentError](), list[BadRow]()
    counter = reader.options.unread_pictures
    known = Counter(counter)
    for number, (one, other) in enumerate(positions.tolist(), before + 1):
        at = one, other
        try:
            size = reader.measure(at)
        except ContentError as error:
            bad.append(error if error.place is not None else ContentError(error.reason, Place(spec, number)))
            bad_rows.append(BadRow(number, at, _pictures(reader, at)))
            continue
        good.extend(at)
        numbers.append(number)
        kinds.append(names.setdefault(size.task, len(names)))
        characters.append(size.characters)
        for one in size.media:
            sizes.extend(one)
        first.append(len(sizes) // _NUMBERS)
    lists = {"positions": good, "numbers": numbers, "characters": characters, "first": first, "sizes": sizes, "kinds": kinds}
    arrays = {name: np.array(values, _ARRAYS[name]) for name, values in lists.items()}
    return _ScannedBlock(arrays, list(names), bad, bad_rows, len(positions), dict(counter - known))


def _pictures(reader: Reader[Any], at: tuple[int, int]) -> tuple[tuple[str, int, int], ...]:
    """Return the files of a row's pictures as they are; nothing where the row itself cannot be read."""
    try:
        paths = [str(path) for part in reader.read(at).media if (path := part.path()) is not None]
    except ContentError:
        return ()
    return tuple((path, *_stamp(path)) for path in paths)


def _stamp(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _scan_again(table: RowTable, chosen: Sequence[bool]) -> RowTable:
    """Look at these bad rows once more, and put those that are good now where they belong."""
    rows = [row for row, again in zip(table.bad_rows, chosen, strict=True) if again]
    left = [pair for pair, again in zip(zip(table.bad, table.bad_rows, strict=True), chosen, strict=True) if not again]
    arrays = {name: np.ravel(getattr(table, name)) for name in _ARRAYS}
    before = _ScannedBlock(
        arrays, list(table.names), [one for one, _ in left], [row for _, row in left], len(table) + len(left), table.unread_pictures
    )
    after = [_scan_block(table.spec, table.reader, row.number - 1, np.array([row.at], np.int64)) for row in rows]
    _log.info("%s: %d bad rows whose pictures have changed were looked at again", table.spec, len(rows))
    made = _join_blocks(table.spec, table.reader, [before, *after], held=table.contents)
    made.scanned = False
    order = np.argsort(made.numbers, kind="stable")
    counts = made.images()[order]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    made.sizes = made.sizes[np.repeat(made.first[:-1][order], counts) + within]
    made.first = np.concatenate([[0], np.cumsum(counts)])
    for name in ("positions", "numbers", "characters", "kinds"):
        setattr(made, name, getattr(made, name)[order])
    names = [made.names[kind] for kind in dict.fromkeys(made.kinds.tolist())]  # as they come first
    made.kinds, made.names = np.array([names.index(name) for name in made.names], np.int32)[made.kinds], tuple(names)
    pairs = sorted(zip(made.bad_rows, made.bad, strict=True), key=lambda pair: pair[0].number)
    made.bad_rows, made.bad = [row for row, _ in pairs], [error for _, error in pairs]
    return made


def _join_blocks(spec: str, reader: Reader[Any], blocks: list[_ScannedBlock], held: str | None = None) -> RowTable:
    """Put the blocks together; `held` is what the source's files are known to hold."""
    bad = [error for one in blocks for error in one.bad]
    if not any(len(one.arrays["numbers"]) for one in blocks):
        first = f", the first: {bad[0]}" if bad else ""
        raise TwowayError(f"every row of {spec} is bad ({len(bad):,}){first}" if bad else f"{spec} holds no rows")
    names: dict[str, int] = {}
    arrays: dict[str, list[Any]] = {name: [] for name in _ARRAYS}
    pictures = 0
    for one in blocks:
        kinds = np.array([names.setdefault(name, len(names)) for name in one.names], np.int32)
        for name in ("positions", "numbers", "characters", "sizes"):
            arrays[name].append(one.arrays[name])
        arrays["kinds"].append(kinds[one.arrays["kinds"]] if len(kinds) else one.arrays["kinds"])
        arrays["first"].append(one.arrays["first"][1:] + pictures)
        pictures += int(one.arrays["first"][-1])
    arrays["first"].insert(0, np.zeros(1, np.int64))
    made: dict[str, Any] = {name: np.concatenate(values).astype(_ARRAYS[name]) for name, values in arrays.items()}
    for name in ("positions", "sizes"):
        made[name] = made[name].reshape(-1, _NUMBERS if name == "sizes" else 2)
    if bad:
        _log.warning("%s: %d of %d rows are bad and left out, the first: %s", spec, len(bad), sum(one.seen for one in blocks), bad[0])
    unread = sum((Counter(one.unread) for one in blocks), Counter[str]())
    if held is None:
        held = contents([path for path in reader.files() if path.exists()]) if reader.files() else ""
    known: dict[str, Any] = {
        "contents": held,
        "unread_pictures": dict(unread),
        "picture_paths": _count_picture_paths(reader, made["positions"][:_FIRST]),
    }
    known |= {"bad": bad, "bad_rows": [row for one in blocks for row in one.bad_rows]}
    return RowTable(spec, reader, **made, names=tuple(names) or ("",), scanned=True, **known)


def _count_picture_paths(reader: Reader[Any], positions: NDArray[np.int64]) -> dict[str, tuple[int, int]]:
    """Count the texts of each side that name picture files which are there, and all of its texts."""
    found: dict[str, tuple[int, int]] = {}
    if not reader.names_files:
        return found  # the others' rows name no files
    for one, other in positions.tolist():
        item = reader.read((one, other))
        own = Path(item.place.file) if item.place is not None else Path()
        folders = [reader.options.root or (own if own.is_dir() else own.parent), Path()]
        for side, documents in named_sides(item).items():
            texts = [text for one in documents for text in one.texts]
            count, many = found.get(side, (0, 0))
            found[side] = count + sum(is_picture_path(text, folders) for text in texts), many + len(texts)
    return {side: counts for side, counts in found.items() if counts[0]}


def _block_file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npz"


def _block_to_bytes(block: _ScannedBlock) -> bytes:
    """Return a block as bytes that numpy reads without pickle."""
    description, file = json.dumps([block.names, _errors_as_json(block.bad), block.seen, block.unread]), io.BytesIO()
    arrays: dict[str, Any] = {"description": np.frombuffer(description.encode(), np.uint8), **block.arrays}
    np.savez(file, **arrays)
    return file.getvalue()


def _read_block(path: Path) -> _ScannedBlock:
    try:
        with np.load(path, allow_pickle=False) as file:
            names, bad, seen, unread = json.loads(file["description"].tobytes())
            errors = [ContentError(why, Place(*at)) for why, *at in bad]
            return _ScannedBlock(
                {name: file[name] for name in _ARRAYS}, names, errors, [], seen, unread
            )  # a block with bad rows is not kept
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise TwowayError(f"{path} cannot be read ({error}); delete the folder {path.parent} and it is made again") from error


def _errors_as_json(bad: Sequence[ContentError]) -> list[list[Any]]:
    return [[error.reason, *(vars(error.place).values() if error.place else (None, None, "row"))] for error in bad]


@functools.cache
def reading_code() -> str:
    """Return a hash of the code that reads rows: what it made of them before it changed is not taken for what it makes now."""
    home, found = Path(__file__).parent, hashlib.sha256()
    for path in (
        *sorted(home.rglob("*.py")),
        *(home.parent / f"{name}.py" for name in ("content", "images", "parts", "recordings", "videos", "sounds")),
    ):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _table_conditions(spec: str, reader: Reader[Any], cap: int | None) -> dict[str, Any]:
    """Return what this very table is known by: its source's files as they are, and how they are read."""
    stamps = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in reader.files() if path.exists()]
    return {
        "version": _VERSION,
        "code": reading_code(),
        "reader": type(reader).__name__,
        "spec": spec,
        "cap": cap,
        "root": str(reader.options.root),
        "dpi": reader.options.dpi,
        "limits": vars(reader.options.limits),
        "files": hashlib.sha256(json.dumps(stamps).encode()).hexdigest(),
        **reader.convert.conditions(),
    }


def _save(table: RowTable, folder: Path, conditions: Mapping[str, Any]) -> None:
    """Write the arrays and the bad rows."""
    with fresh_folder(folder, overwrite=True) as beside:
        for name, kind in _ARRAYS.items():
            np.save(beside / f"{name}.npy", np.asarray(getattr(table, name), kind))
        saved = {
            "spec": table.spec,
            "rows": len(table),
            "names": table.names,
            "contents": table.contents,
            "bad": _errors_as_json(table.bad),
        }
        saved |= {"bad_rows": table.bad_rows, "conditions": conditions, "unread": table.unread_pictures, "named": table.picture_paths}
        (beside / "table.json").write_text(json.dumps(saved, ensure_ascii=False))


def _mapped(folder: Path) -> dict[str, Any]:
    """Map the arrays of a folder into memory."""
    try:
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS}
    except (OSError, ValueError, EOFError) as error:
        raise TwowayError(f"the table in {folder} cannot be read ({error}); delete that folder and it is made again") from error


def _load(spec: str, reader: Reader[Any], folder: Path) -> RowTable:
    """Open a table that was kept."""
    try:
        saved = json.loads((folder / "table.json").read_text())
        old, new = (one.partition(":")[2] if one.partition(":")[0] in READERS else one for one in (saved["spec"], spec))
        bad = []
        for reason, file, row, unit in saved["bad"]:
            # The same source may be named in another way now: from another folder, say.
            moved = new + file.removeprefix(old) if file and file.startswith(old) else file
            bad.append(ContentError(reason, None if file is None else Place(moved, row, unit)))
        rows = [
            BadRow(number, tuple(at), tuple((path, size, time) for path, size, time in files)) for number, at, files in saved["bad_rows"]
        ]
        known = {"names": tuple(saved["names"]), "contents": saved["contents"], "unread_pictures": saved["unread"], "bad_rows": rows}
        known["picture_paths"] = {side: tuple(counts) for side, counts in saved["named"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise TwowayError(f"the table in {folder} cannot be read ({error}); delete that folder and it is made again") from error
    return RowTable(spec, reader, **_mapped(folder), **known, bad=bad, folder=folder)


def data_folder(cache_dir: Path | None = None) -> Path:
    """Return where what is found out about data is kept: tables of rows, copies of streams, lengths."""
    return Path(cache_dir or cache_home()) / "data"


# How sources are opened within a block of code: shared by all who ask for the same, by how many processes, and
# whether they may be new.
#
# Who counts what many configurations read of the same data opens each source once (`shared_tables`): what is shared
# lasts as long as the block, and goes by what a table is told by (`table.open_table`).

_SHARED: ContextVar[dict[str, RowTable] | None] = ContextVar("tables of the block", default=None)


@contextmanager
def shared_tables() -> Iterator[None]:
    """Share tables within a block; one within another shares the other's."""
    before = _SHARED.get()
    token = _SHARED.set({} if before is None else before)
    try:
        yield
    finally:
        _SHARED.reset(token)


def find_shared(key: str) -> RowTable | None:
    """Return a table that was opened in this block."""
    return (_SHARED.get() or {}).get(key)


def share(key: str, table: RowTable) -> None:
    """Keep a table for the rest of the block; outside of one nothing is kept."""
    shared = _SHARED.get()
    if shared is not None:
        shared[key] = table
