"""What every engine of bulk embedding shares: when a folder may be filled, shards written one behind the other, what is said at the end.

An engine gives rows in their order, shard by shard; only here is anything written, by one process. So what lies in a folder is the same
whichever engine filled it, and one engine goes on where another was stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.data.policy import BAD_ROWS, OnBad, Policy
from twoway.embedding.precision import cut, scale_of
from twoway.embedding.shards import MANIFEST, Row, Shards, alone
from twoway.errors import TwowayError, UsageError
from twoway.model.backbone import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from twoway.content import ContentError
    from twoway.embedding import Embedder

    from .embed_recall import Sample


@dataclass(frozen=True)
class EmbedResult:
    """What lies in the folder now, and what this run did."""

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


def of_model(engine: Embedder) -> dict[str, Any]:
    """Return what a manifest says of the model."""
    return {"model": engine.name, "fingerprint": engine.fingerprint, "versions": versions()}


def width_of(dim: int | None, longest: int) -> int:
    """Check the length that is asked for."""
    if dim is not None and not 0 < dim <= longest:
        raise UsageError(f"--dim {dim} is out of range: this model's vectors have 1 to {longest} numbers")
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

    def write(self, rows: Sequence[Row], vectors: NDArray[np.float32] | None, *, seen: int) -> None:
        """Write the next shard; `seen` is the number of rows that it covers, and without a good one there are no vectors."""
        manifest = self.shards.manifest
        kept = np.zeros((0, manifest["dim"]), np.float32) if vectors is None else cut(vectors, manifest["dim"], normal=self.normal)
        if manifest["precision"] == "int8" and len(kept) and (self.due == 0 or not manifest.get("scale")):
            self.shards.note(scale=scale_of(kept))
        try:
            self.shards.write(self.due, rows, kept, seen=seen)
        except TwowayError as error:
            raise TwowayError(f"{error} (the same command goes on; {self.due} shards are whole)") from error
        self.due += 1

    def end(self) -> None:
        """Say that every row was seen."""
        rows, vectors = self.shards.counts()
        if not rows:
            raise TwowayError("the data holds no rows")
        if not vectors:
            raise TwowayError(f"every row is bad ({rows:,})" + (f", the first: {self.first_bad}" if self.first_bad else ""))
        self.shards.note(finished=True, rows=rows, vectors=vectors)


def fill(
    out: Path,
    conditions: Mapping[str, Any],
    produce: Callable[[Writer], None],
    *,
    normal: bool,
    on_bad: OnBad = "fail",
    sample: Sample | None = None,
    overwrite: bool = False,
) -> EmbedResult:
    """Fill a folder, or go on with it; `produce` gives the writer what is missing."""
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
    return EmbedResult(str(out), rows, vectors, rows - vectors, dim, precision, fingerprint, writer.embedded, seconds, recall)


def _clear(folder: Path) -> None:
    """Take away what an earlier run wrote, and nothing else; the manifest last, so that a kill leaves a folder that can be cleared."""
    for path in [*folder.glob("part-*.parquet"), *folder.glob(".part-*.tmp"), folder / BAD_ROWS, folder / MANIFEST]:
        path.unlink(missing_ok=True)
