"""A source as a table: any row by its number, and what a row will cost, known without holding rows in memory.

One pass over the source finds the position of every row, counts its characters and reads the size of its pictures from their headers; bad
rows go to the failure policy here, before any training. The result is a few numpy arrays. With a folder they are kept there and mapped into
memory, and used again while path, size and time of the source's files, the version of this file and what the source was asked for are the
same. Where rows are of several kinds (the tasks of pairs), the kind of each is kept too.

A hash of what those files hold is part of the digest of the data, so that a run does not go on with other rows of the same lengths.
Pictures that a row names by path are told by their sizes alone, and not looked at again: one that changes size makes a batch costlier,
not wrong.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..content import ContentError, Document, Place
from ..errors import TwowayError, UsageError
from ..files import contents, fresh_folder
from .find_hub import hub_finder
from .find_parquet import ParquetFinder
from .find_pdf import PdfFinder
from .finders import DiskFinder, JsonlFinder, SamplesFinder
from .pictures import PicturesFinder
from .policy import Policy
from .progress import steps
from .rows import ReadOptions, say_unread
from .sources import kind_of
from .table_sharing import find, put

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from .finders import Finder

_VERSION = 5
FINDERS: dict[str, Any] = {
    "jsonl": JsonlFinder,
    "parquet": ParquetFinder,
    "pdf": PdfFinder,
    "images": PicturesFinder,
    "disk": DiskFinder,
    "samples": SamplesFinder,
}
_ARRAYS = {"positions": np.int64, "numbers": np.int64, "characters": np.int64, "first": np.int64, "sizes": np.int32, "kinds": np.int32}
_log = logging.getLogger(__name__)


@dataclass
class RowTable:
    """The good rows of one source. `first` says where a row's pictures begin in `sizes` (width, height); it has one entry more."""

    spec: str
    finder: Finder
    positions: NDArray[np.int64]
    numbers: NDArray[np.int64]  # of the row in its source, bad ones counted
    characters: NDArray[np.int64]
    first: NDArray[np.int64]
    sizes: NDArray[np.int32]
    kinds: NDArray[np.int32]  # the number of each row's kind in `names`
    names: tuple[str, ...] = ("",)
    contents: str = ""  # a hash of what the source's files held
    bad: list[ContentError] = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)  # columns that hold pictures and are not read, and in how many rows
    folder: Path | None = None

    def __len__(self) -> int:
        """Count the good rows."""
        return len(self.positions)

    def read(self, index: int) -> Document:
        """Return a row, its pictures unopened; a row that went bad since the table was made raises a `ContentError`."""
        at = self.positions[index]
        return self.finder.read((int(at[0]), int(at[1])))

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
    cap: int | None = None,
    folder: Path | None = None,
    policy: Policy | None = None,
    finders: Mapping[str, Callable[..., Finder]] = FINDERS,
) -> RowTable:
    """Open a source for random access, with at most its first `cap` rows; `folder` keeps the table for the next time."""
    options, policy = options or ReadOptions(), policy or Policy()
    kind, argument = kind_of(spec)
    if kind == "hub":
        copy = hub_finder(argument, options, cap=cap, folder=folder, policy=policy)
        finder: Finder = finders["hub copy"](copy, options) if "hub copy" in finders else copy
    elif kind == "glob":
        raise UsageError(f"{spec} matches files of several rows each; name them one by one, or their folder")
    elif kind in finders:
        finder = finders[kind](argument, options)
    else:
        raise UsageError(f"{spec} has documents, not pairs of a query and a positive")
    key = _key(spec, finder, options, cap)
    kept = folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', Path(spec).name)[-40:]}-{key}" if folder is not None and finder.files() else None
    table = find(key) or (_load(spec, finder, kept) if kept is not None and kept.is_dir() else None)
    if table is not None:
        policy.start()
        for error in table.bad:
            policy.refuse(error)
        return _said(table)
    table = _build(spec, finder, cap, policy)
    if not len(table):
        first = f", the first: {table.bad[0]}" if table.bad else ""
        raise TwowayError(f"every row of {spec} is bad ({len(table.bad):,}){first}" if table.bad else f"{spec} holds no rows")
    put(key, _said(table))
    if kept is not None:
        _keep(table, kept)
        return _load(spec, finder, kept)
    return table


def _said(table: RowTable) -> RowTable:
    """Say which pictures are not read, each time that a source is opened."""
    if table.unread:
        _log.warning("%s", say_unread(table.spec, table.unread))
    return table


def _build(spec: str, finder: Finder, cap: int | None, policy: Policy) -> RowTable:
    """Go through the source once."""
    positions, numbers, characters, first, sizes = array("q"), array("q"), array("q"), array("q", [0]), array("i")
    kinds, names = array("i"), dict[str, int]()
    bad: list[ContentError] = []
    policy.start()
    number = 0
    for at in steps(finder.scan(), f"looking through {spec}"):
        if cap is not None and number == cap:
            break
        number += 1
        try:
            count, pictures = finder.measure(at)
            kind = finder.kind(at)
        except ContentError as error:
            found = error if error.place is not None else ContentError(error.reason, Place(spec, number))
            policy.refuse(found)
            bad.append(found)
            continue
        positions.extend(at)
        numbers.append(number)
        kinds.append(names.setdefault(kind, len(names)))
        characters.append(count)
        for picture in pictures:
            sizes.extend(picture)
        first.append(len(sizes) // 2)
    if bad:
        _log.warning("%s: %d of %d rows are bad and left out, the first: %s", spec, len(bad), number, bad[0])
    lists = {"positions": positions, "numbers": numbers, "characters": characters, "first": first, "sizes": sizes, "kinds": kinds}
    arrays: dict[str, Any] = {name: np.array(values, _ARRAYS[name]) for name, values in lists.items()}
    for name in ("positions", "sizes"):
        arrays[name] = arrays[name].reshape(-1, 2)
    unread = dict(getattr(getattr(finder, "options", None), "unread", {}))
    held = contents([path for path in finder.files() if path.exists()]) if finder.files() else ""
    return RowTable(spec, finder, **arrays, names=tuple(names) or ("",), contents=held, bad=bad, unread=unread)


def _key(spec: str, finder: Finder, options: ReadOptions, cap: int | None) -> str:
    """Return what this very table is known by: its source's files as they are, and how they are read."""
    stamps = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in finder.files() if path.exists()]
    form = getattr(options.form, "pieces", None) or getattr(options.form, "__name__", None)
    asked = [
        _VERSION,
        type(finder).__name__,
        [getattr(finder, "task", None)] if getattr(finder, "alone", False) else getattr(finder, "task", None),  # of all rows, or of some
        spec,
        cap,
        str(options.root),
        options.dpi,
        vars(options.limits),
        form,
        stamps,
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _keep(table: RowTable, folder: Path) -> None:
    """Write the arrays and the bad rows."""
    with fresh_folder(folder, overwrite=True) as beside:
        for name, kind in _ARRAYS.items():
            np.save(beside / f"{name}.npy", np.asarray(getattr(table, name), kind))
        bad = [[error.reason, *(vars(error.place).values() if error.place else (None, None, "row"))] for error in table.bad]
        said = {"spec": table.spec, "rows": len(table), "names": table.names, "contents": table.contents}
        (beside / "table.json").write_text(json.dumps(said | {"bad": bad, "unread": table.unread}, ensure_ascii=False))


def _mapped(folder: Path) -> dict[str, Any]:
    """Map the arrays of a folder into memory."""
    try:
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS}
    except (OSError, ValueError, EOFError) as error:
        raise TwowayError(f"the table in {folder} cannot be read ({error}); delete that folder and it is made again") from error


def _load(spec: str, finder: Finder, folder: Path) -> RowTable:
    """Open a table that was kept."""
    try:
        said = json.loads((folder / "table.json").read_text())
        bad = [ContentError(reason, None if file is None else Place(file, row, unit)) for reason, file, row, unit in said["bad"]]
    except (OSError, ValueError, KeyError) as error:
        raise TwowayError(f"the table in {folder} cannot be read ({error}); delete that folder and it is made again") from error
    known = {"names": tuple(said["names"]), "contents": said["contents"], "unread": said["unread"]}
    return RowTable(spec, finder, **_mapped(folder), **known, bad=bad, folder=folder)
