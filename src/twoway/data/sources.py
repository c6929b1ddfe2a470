"""One call that turns a spec (a path, or `kind:name`) into documents, lazily, with the failure policy applied in this one place."""

from __future__ import annotations

import glob
import logging
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..content import ContentError, Document, Place
from ..errors import TwowayError, UsageError, did_you_mean
from ..images import DEFAULT, Limits, open_document
from . import hub, jsonl, parquet, pdf, pictures, tars
from .policy import OnBad, Policy, Report
from .rows import SUFFIXES, ReadOptions, Skip, say_unread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .rows import Row, Rows

_log = logging.getLogger(__name__)


class Source:
    """Documents of one spec; each iteration is a new pass, and `report()` tells of the latest."""

    def __init__(
        self, spec: str, rows: Callable[..., Rows], policy: Policy, options: ReadOptions, *, images: Literal["load", "lazy"]
    ) -> None:
        self.spec = spec
        self.policy = policy
        self._rows = rows
        self._unread, self._said = options.unread, 0
        self._load = images == "load"
        self._limits = options.limits
        self._report = Report(spec)

    def __iter__(self) -> Iterator[Document]:
        """Yield the good documents; bad rows go to the policy."""
        self.policy.start()
        report = self._report = Report(self.spec, bad_rows=self.policy.bad_rows)
        for row in self._rows():
            report.rows += 1
            ready = self._ready(row)
            if isinstance(ready, ContentError):
                report.add_bad(ready)
                self.policy.refuse(ready)
                continue
            report.kept += 1
            yield ready
        if not report.rows:
            raise TwowayError(f"{self.spec} holds no rows")
        if not report.kept:
            raise TwowayError(f"every row of {self.spec} is bad ({report.bad:,}), the first: {report.first[0]}")
        if report.bad:
            _log.warning("%s", report)

    def rows(self, skip: Skip | int = 0) -> Iterator[Document | ContentError]:
        """Yield every row, bad ones as the error that says why; the caller decides about those. A `skip` may go through several sources."""
        return map(self._ready, self._rows(Skip(skip) if isinstance(skip, int) else skip))

    def report(self) -> Report:
        """Return the counts of the latest pass."""
        return self._report

    def _ready(self, row: Row) -> Row:
        """Open the pictures of a good row, unless they are to stay closed."""
        if len(self._unread) > self._said:
            self._said = len(self._unread)
            _log.warning("%s", say_unread(self.spec, self._unread))
        if isinstance(row, ContentError):
            return row if row.place is not None else ContentError(row.reason, Place(self.spec))
        try:
            return open_document(row, limits=self._limits) if self._load else row
        except ContentError as error:
            return error


def open_source(
    spec: str | Path,
    *,
    on_bad: OnBad = "fail",
    bad_rows: str | Path | None = None,
    root: str | Path | None = None,
    images: Literal["load", "lazy"] = "load",
    limits: Limits = DEFAULT,
    dpi: int = 144,
    policy: Policy | None = None,
) -> Source:
    """Open data by its spec; nothing is read before the first iteration, but a spec that cannot be is refused here.

    `images="load"` decodes every picture as its row passes, so that a broken one is found there; `"lazy"` leaves them to
    `images.open_image`. `root` is the folder that picture paths are relative to and may not leave (default: the file's own).
    A `policy` given replaces `on_bad` and `bad_rows`, and may be shared by several sources.
    """
    kind, argument = kind_of(str(spec))
    reader = _KINDS[kind]
    options = ReadOptions(None if root is None else Path(root), dpi, limits)
    policy = Policy(on_bad, bad_rows) if policy is None else policy

    def rows(skip: Skip | None = None) -> Rows:
        return reader(argument, replace(options, skip=skip or Skip()))

    return Source(str(spec), rows, policy, options, images=images)


def _samples(argument: str, options: ReadOptions) -> Rows:
    """Read data that the project ships."""
    for found in import_module(".samples", __package__).documents(argument):
        if not options.skip.take(1):
            yield found


def _matches(argument: str, options: ReadOptions) -> Rows:
    """Read the files that a pattern matches, each as what it is."""
    for path in _matching(argument):
        yield from _KINDS[str(_SUFFIXES.get(path.suffix.lower()))](str(path), options)


_KINDS: dict[str, Callable[[str, ReadOptions], Rows]] = {
    "jsonl": jsonl.rows,
    "parquet": parquet.rows,
    "pdf": pdf.rows,
    "disk": hub.disk_rows,
    "hub": hub.hub_rows,
    "images": pictures.rows,
    "tars": tars.rows,
    "glob": _matches,
    "samples": _samples,
}
_SUFFIXES = dict.fromkeys(SUFFIXES, "images") | {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pdf": "pdf",
    tars.SUFFIX: "tars",
}
POSSIBLE = (
    "a .jsonl, .parquet, .pdf or .tar file, a picture, a folder of Parquet files, tars, PDFs or pictures, a pattern such as "
    "'scans/**/*.png', a folder of datasets.save_to_disk, hub:NAME[:SPLIT], samples:NAME; jsonl:PATH, parquet:PATH, tars:PATH, pdf:PATH, "
    "images:PATH and disk:PATH force a kind"
)


def kind_of(spec: str) -> tuple[str, str]:
    """Find the kind of a spec and what its reader is given."""
    if not spec.strip():
        raise UsageError(f"no data is named (possible: {POSSIBLE})")
    path = Path(spec)
    kind, colon, rest = spec.partition(":")
    if colon and not path.exists():
        if kind not in _KINDS:
            raise UsageError(f"{spec} is no data: there is no kind {kind!r}{did_you_mean(kind, _KINDS)} (possible: {POSSIBLE})")
        if not rest:
            raise UsageError(f"{spec} names no data; write {kind}:{'NAME' if kind in ('hub', 'samples') else 'PATH'}")
        if kind not in ("hub", "samples") and not Path(rest).exists() and not (kind == "tars" and tars.tar_files(rest)):
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
    found = {_SUFFIXES.get(path.suffix.lower()) for path in folder.rglob("*") if path.is_file()} & {"parquet", "pdf", "images", "tars"}
    if {"parquet", "pdf"} <= found:
        raise UsageError(f"{folder} holds both Parquet files and PDFs; write parquet:{folder} or pdf:{folder}")
    if {"images", "pdf"} <= found:
        raise UsageError(f"{folder} holds both pictures and PDFs; write images:{folder} or pdf:{folder}")
    if "tars" in found and len(found) > 1:
        other = next(kind for kind in ("parquet", "pdf", "images") if kind in found)
        raise UsageError(f"{folder} holds both tars and others; write tars:{folder} or {other}:{folder}")
    # Pictures beside Parquet files are those that its rows name.
    return next((kind for kind in ("parquet", "pdf", "tars", "images") if kind in found), None)


def _matching(pattern: str) -> list[Path]:
    """Return the files that a pattern matches, in a fixed order."""
    return sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())


def files_of(spec: str) -> list[Path]:
    """Return the files on this machine that a spec reads, in a fixed order; none for what is fetched or shipped."""
    kind, argument = kind_of(spec)
    path = Path(argument)
    if kind in ("hub", "samples"):
        return []
    if kind in ("images", "tars"):
        return (pictures.files if kind == "images" else tars.tar_files)(argument)
    if kind == "glob":
        return _matching(argument)
    if kind == "disk":
        return sorted(one for one in path.rglob("*") if one.is_file())
    return {"parquet": parquet.parquet_files, "pdf": pdf.pdf_files}[kind](path) if path.is_dir() else [path]


def _pattern_kind(pattern: str) -> str:
    """Tell what a pattern's files are: pictures alone are a set of pictures, anything else is read file by file."""
    matching = _matching(pattern)
    if not matching:
        raise UsageError(f"no file matches {pattern}")
    odd = next((path for path in matching if path.suffix.lower() not in _SUFFIXES), None)
    if odd is not None:
        raise UsageError(f"{odd}, which {pattern} matches, is not data of a known kind; narrow the pattern (possible: {POSSIBLE})")
    kinds = {_SUFFIXES[path.suffix.lower()] for path in matching}
    return kinds.pop() if len(kinds) == 1 and kinds <= {"images", "tars"} else "glob"
