"""What every engine of bulk embedding shares: its sources, and the folder that it fills."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.config import defaults
from twoway.content import ContentError, Document, escaped
from twoway.data.dataset import open_reader, open_source
from twoway.data.rows import BAD_ROWS, Policy, ReadOptions, Skip
from twoway.data.sources.formats import ToDocument, document_format
from twoway.data.sources.readers import MediaReader
from twoway.errors import TwowayError, UsageError
from twoway.images import DEFAULT
from twoway.limits import SHOWN, ReadLimits
from twoway.recordings import Recording

from .shards import MANIFEST, MultiVectors, Shards, StoredRow, alone, cut, scale_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from twoway.data.config import OnBad
    from twoway.data.sources.readers import Reader
    from twoway.embedding import Embedder
    from twoway.limits import Limits

    from .nearest import Sample


# What bulk embedding asks of its sources: all rows in a fixed order from any row on, their number, and whether they
# are still the same.

READ_AHEAD = 16  # rows; a page in memory is several megabytes
# Above this many files or bytes rows are not counted beforehand, since that would open every file or read it whole.
_FILES, _BYTES = 2000, 4 << 30


class Sources:
    """Several sources, one behind the other."""

    def __init__(
        self,
        specs: Sequence[str | Path],
        *,
        root: str | Path | None,
        dpi: int,
        limits: Limits = DEFAULT,
        row_template: str | None = None,
        segment: float | None = None,
    ) -> None:
        self.specs, self.row_template, self.segment = [str(spec) for spec in specs], row_template, segment
        self.options = ReadOptions(None if root is None else Path(root), dpi, limits)
        given: dict[str, Any] = {"root": root, "dpi": dpi, "limits": limits, "row_template": row_template}
        self.sources = [open_source(spec, images="lazy", **given) for spec in self.specs]

    def readers(self) -> Iterator[tuple[str, Reader[Document]]]:
        """Open each source, with its spec."""
        convert = ToDocument(document_format(self.row_template) if self.row_template else None)
        return ((spec, open_reader(spec, self.options, convert)) for spec in self.specs)

    def rows(self, skip: int) -> Iterator[Document | ContentError]:
        """Yield every row from one on; where videos and sounds are cut into segments, each is a row."""
        left = Skip(0 if self.segment else skip)
        whole = (row for source in self.sources for row in source.rows(left))
        if not self.segment:
            return whole
        return islice((one for row in whole for one in cut_into_segments(row, self.segment, self.options.limits)), skip, None)

    def identity(self) -> dict[str, Any]:
        """Return what identifies the data: files with size and time; for a data set on the hub, only its name."""
        digest = hashlib.sha256()
        for _, reader in self.readers():
            for path in reader.files():
                said = path.stat()
                digest.update(json.dumps([str(path), said.st_size, said.st_mtime_ns]).encode())
        known = {"specs": self.specs, "root": str(self.options.root or ""), "dpi": self.options.dpi, "files": digest.hexdigest()}
        known |= {"row_template": self.row_template} if self.row_template else {}
        known |= {"segment": self.segment} if self.segment else {}
        # Which frames are shown decides vectors; nothing is said where it is as usual.
        usual, limits = defaults(ReadLimits), vars(self.options.limits)
        shown = {name: limits[name] for name in SHOWN if limits[name] != usual[name]}
        return known | ({"shown": shown} if shown else {})

    def count(self) -> int | None:
        """Count the rows, bad ones too, where that is quick."""
        if self.segment:
            return None
        total = 0
        for _, reader in self.readers():
            files = reader.files()
            if isinstance(reader, MediaReader):
                total += len(files)
                continue
            if not reader.random_access or len(files) > _FILES or sum(path.stat().st_size for path in files) > _BYTES:
                return None
            total += sum(1 for _ in reader.positions())
        return total


def cut_into_segments(row: Document | ContentError, seconds: float, limits: Limits) -> Iterator[Document | ContentError]:
    """Cut a document with one video or sound into documents of so many seconds of it; any other stays as it is.

    `start` and `end` of each are kept beside it. A rest of less than a tenth belongs to the segment before.
    """
    parts = [] if isinstance(row, ContentError) else [part for part in row.media if isinstance(part, Recording)]
    if isinstance(row, ContentError) or len(parts) != 1:
        yield row
        return
    part = parts[0]
    try:
        last = part.seconds(row.place, limits)
    except ContentError as error:
        yield error
        return
    first, last = part.start or 0.0, min(last, last if part.end is None else part.end)
    count = max(1, math.ceil((last - first) / seconds - 0.1))
    name = name_of(row)
    for number in range(count):
        start = round(first + number * seconds, 3)
        end = round(last if number == count - 1 else start + seconds, 3)
        own = replace(part, start=start, end=end)
        meta = {**row.meta, "id": f"{name}@{start:g}", "start": start, "end": end}
        yield Document(tuple(own if one is part else one for one in row.parts), row.place, meta)


def name_of(document: Document) -> str | None:
    """Return the row's own id, or else its place; nothing where it has neither."""
    named = document.meta.get("id")
    if isinstance(named, str | int) and str(named):
        return str(named)
    return None if document.place is None else str(document.place)


def row_of(number: int, document: Document) -> StoredRow:
    """Return what is stored beside a document's vector; a file's name or a column that is no Unicode ends no run."""
    place, meta = document.place, dict(document.meta)
    name = name_of(document) or str(number)
    shown = next((part.address if isinstance(part, Recording) else part.file for part in document.media if part.file is not None), None)
    return StoredRow(
        escaped(name),
        None if place is None else escaped(place.file),
        None if place is None else place.row,
        "row" if place is None else place.unit,
        "\n".join(document.texts) or None,
        None if shown is None else escaped(str(shown)),
        escaped(json.dumps(meta, ensure_ascii=False, default=_plain, allow_nan=False)),
    )


def _plain(value: object) -> str:
    """Convert values that JSON has no form for; of bytes only the number is kept."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


# What every engine of bulk embedding shares: when a folder may be filled, writing shards in order, and the final
# report.
#
# An engine yields rows in order, shard by shard; only this code writes, in one process. So the content of a folder
# does not depend on the engine, and one engine resumes where another was stopped.


@dataclass(frozen=True)
class EmbedResult:
    """The content of the folder, and what this run added."""

    out: str
    rows: int
    vectors: int
    bad: int
    dim: int
    precision: str
    fingerprint: str
    embedded: int  # by this run
    seconds: float
    recall: dict[str, float]
    many: bool = False  # each row has many vectors (late interaction), and `vectors` counts the rows that have some


def of_model(engine: Embedder) -> dict[str, Any]:
    """Return the manifest's entries about the model."""
    from twoway.models.loading import versions  # whoever reads a folder needs no model, whose libraries take seconds to import

    return {"model": engine.name, "fingerprint": engine.fingerprint, "versions": versions()}


def width_of(dim: int | None, longest: int) -> int:
    """Check the requested length of vectors."""
    if dim is not None and not 0 < dim <= longest:
        raise UsageError(f"truncate_dim {dim} is out of range: this model's vectors have 1 to {longest} numbers")
    return dim or longest


class Writer:
    """Writes the shards that are still missing."""

    def __init__(self, shards: Shards, policy: Policy, sample: Sample | None, *, normal: bool) -> None:
        self.shards, self.policy, self.sample, self.normal = shards, policy, sample, normal
        self.size: int = shards.manifest["shard_rows"]
        self.due = shards.done()  # the shard to be written next
        self.embedded = 0
        self.first_bad: ContentError | None = None

    def refuse(self, error: ContentError) -> None:
        """Take a bad row."""
        self.policy.refuse(error)
        self.first_bad = self.first_bad or error

    def note(self, number: int, vector: NDArray[np.float32]) -> None:
        """Count a vector, and let it be part of what recall is measured on."""
        self.embedded += 1
        if self.sample is not None:
            self.sample.add(number, vector)

    def write(self, rows: Sequence[StoredRow], vectors: NDArray[np.float32] | MultiVectors | None, *, seen: int) -> None:
        """Write the next shard; `seen` is the number of rows that it covers, and without a good one there are no vectors."""
        manifest = self.shards.manifest
        none: NDArray[np.float32] = np.zeros((0, manifest["dim"]), np.float32)
        kept = (
            vectors if isinstance(vectors, MultiVectors) else cut(none if vectors is None else vectors, manifest["dim"], normal=self.normal)
        )
        if manifest["precision"] == "int8" and len(kept) and (self.due == 0 or not manifest.get("scale")):
            self.shards.note(scale=scale_of(kept.flat if isinstance(kept, MultiVectors) else kept))
        try:
            self.shards.write(self.due, rows, kept, seen=seen)
        except TwowayError as error:
            raise TwowayError(f"{error} (the same command resumes; {self.due} shards are complete)") from error
        self.due += 1

    def end(self) -> None:
        """Say that every row was seen."""
        rows, vectors = self.shards.counts()
        if not rows:
            raise TwowayError("the data holds no rows")
        if not vectors:
            raise TwowayError(f"every row is bad ({rows:,})" + (f", the first: {self.first_bad}" if self.first_bad else ""))
        self.shards.note(finished=True, rows=rows, vectors=vectors)


def fill_folder(
    out: Path,
    conditions: Mapping[str, Any],
    produce: Callable[[Writer], None],
    *,
    normal: bool,
    on_bad: OnBad = "fail",
    sample: Sample | None = None,
    overwrite: bool = False,
) -> EmbedResult:
    """Fill a folder, or resume it; `produce` gives the writer the missing shards."""
    start = time.monotonic()
    with alone(out):
        if overwrite:
            _clear(out)
        shards = Shards.begin(out, dict(conditions))
        writer = Writer(shards, Policy(on_bad, out / BAD_ROWS, keep=True), sample, normal=normal)
        if not shards.manifest.get("finished"):
            produce(writer)
            writer.end()
    seconds = time.monotonic() - start
    rows, vectors = shards.counts()
    recall = sample.measure() if sample is not None else {}
    dim, precision, fingerprint = (conditions[name] for name in ("dim", "precision", "fingerprint"))
    many = bool(conditions.get("late_interaction"))
    return EmbedResult(str(out), rows, vectors, rows - vectors, dim, precision, fingerprint, writer.embedded, seconds, recall, many)


def _clear(folder: Path) -> None:
    """Take away what an earlier run wrote, and nothing else; the manifest last, so that a kill leaves a folder that can be cleared."""
    for path in [*folder.glob("part-*.parquet"), *folder.glob(".part-*.tmp"), folder / BAD_ROWS, folder / MANIFEST]:
        path.unlink(missing_ok=True)
