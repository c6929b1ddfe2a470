"""One call that turns a spec (a path, or `kind:name`) into documents, lazily, with the failure policy applied in this one place."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..content import ContentError, Document, Place
from ..errors import TwowayError, UsageError, did_you_mean
from ..images import DEFAULT, Limits, open_document
from . import hub, jsonl, parquet, pdf
from .policy import OnBad, Policy, Report
from .rows import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .rows import Row, Rows

_log = logging.getLogger(__name__)


class Source:
    """Documents of one spec; each iteration is a new pass, and `report()` tells of the latest."""

    def __init__(self, spec: str, rows: Callable[[], Rows], policy: Policy, *, images: Literal["load", "lazy"], limits: Limits) -> None:
        self.spec = spec
        self.policy = policy
        self._rows = rows
        self._load = images == "load"
        self._limits = limits
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

    def report(self) -> Report:
        """Return the counts of the latest pass."""
        return self._report

    def _ready(self, row: Row) -> Row:
        """Open the pictures of a good row, unless they are to stay closed."""
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
    return Source(str(spec), lambda: reader(argument, options), policy, images=images, limits=limits)


def _samples(argument: str, options: ReadOptions) -> Rows:
    """Read data that the project ships."""
    yield from import_module(".samples", __package__).documents(argument)


_KINDS: dict[str, Callable[[str, ReadOptions], Rows]] = {
    "jsonl": jsonl.rows,
    "parquet": parquet.rows,
    "pdf": pdf.rows,
    "disk": hub.disk_rows,
    "hub": hub.hub_rows,
    "samples": _samples,
}
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pdf": "pdf"}
POSSIBLE = (
    "a .jsonl, .parquet or .pdf file, a folder of Parquet files or PDFs, a folder of datasets.save_to_disk, hub:NAME[:SPLIT], "
    "samples:NAME; jsonl:PATH, parquet:PATH, pdf:PATH and disk:PATH force a kind"
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
        if kind not in ("hub", "samples") and not Path(rest).exists():
            raise UsageError(f"{spec}: there is no {rest}")
        return kind, rest
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
    found = {_SUFFIXES.get(path.suffix.lower()) for path in folder.rglob("*") if path.is_file()} & {"parquet", "pdf"}
    if len(found) > 1:
        raise UsageError(f"{folder} holds both Parquet files and PDFs; write parquet:{folder} or pdf:{folder}")
    return found.pop() if found else None
