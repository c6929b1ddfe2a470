"""`embed`: any amount of documents to a folder of vectors, gone on with after any kind of end.

Rows are numbered through all sources, bad ones too, and shard k covers a fixed range of these numbers, so a run that goes on passes over
the rows of the shards that are there and knows nothing else of the run before. A shard is written when all of its rows are answered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from twoway.content import ContentError
from twoway.data.policy import BAD_ROWS, OnBad, Policy
from twoway.data.progress import steps
from twoway.embedding import Embedder, open_embedder
from twoway.embedding.ahead import read_ahead
from twoway.embedding.precision import cut, require, scale_of
from twoway.embedding.prompts import prompt_of
from twoway.embedding.shards import MANIFEST, Row, Shards, alone
from twoway.errors import TwowayError, UsageError
from twoway.model.backbone import versions

from .embed_recall import Sample
from .embed_source import Sources, row_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from twoway.content import Document
    from twoway.embedding.precision import Precision
    from twoway.embedding.prompts import Side

SHARD_ROWS = 2048
_READ = 16  # rows read ahead; a page in memory is several megabytes


class Rows(Protocol):
    """What is embedded: rows in a fixed order, bad ones as errors."""

    def rows(self, skip: int) -> Iterator[Document | ContentError]:
        """Yield every row from one on."""

    def identity(self) -> dict[str, Any]:
        """Return what changes when the rows do."""

    def count(self) -> int | None:
        """Count the rows, where that is quick."""


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


def embed(
    model: str | Path | Embedder,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    side: Side | None = None,
    instruction: str | None = None,
    prompt_name: str | None = None,
    dim: int | None = None,
    precision: Precision = "float32",
    on_bad: OnBad = "fail",
    shard_rows: int = SHARD_ROWS,
    measure_recall: bool = False,
    overwrite: bool = False,
    root: str | Path | None = None,
    dpi: int = 144,
    **opening: Any,
) -> EmbedResult:
    """Embed documents into `out`, or go on where an earlier run of the same ended; `opening` goes to `open_embedder`."""
    if shard_rows < 1:
        raise UsageError(f"--shard-rows is 1 or more, not {shard_rows}")
    sources = Sources([data] if isinstance(data, str | Path) else data, root=root, dpi=dpi)
    if Path(out).exists() and not Path(out).is_dir():
        raise UsageError(f"{out} is a file; name a folder")
    engine = open_embedder(model, **opening)
    prompts = {"side": side, "instruction": instruction, "prompt_name": prompt_name}
    width = _width(engine, dim)
    require(precision, width)
    sample = Sample(width, precision, normal=engine.normal) if measure_recall else None
    how = {"dim": width, "precision": precision, "shard_rows": shard_rows}
    return embed_rows(engine, sources, Path(out), prompts, how, on_bad=on_bad, sample=sample, overwrite=overwrite)


def embed_rows(
    engine: Embedder,
    sources: Rows,
    out: Path,
    prompts: Mapping[str, Any],
    how: Mapping[str, Any],
    *,
    on_bad: OnBad = "fail",
    sample: Sample | None = None,
    overwrite: bool = False,
    title: str = "embedding",
) -> EmbedResult:
    """Embed what `sources` gives; `how` has the length, the precision and the rows of a shard."""
    prompt = prompt_of(engine.sentence, **prompts)
    conditions = {
        "model": engine.name,
        "fingerprint": engine.fingerprint,
        **how,
        "prompt": [prompt or "", prompts.get("side")],
        "data": sources.identity(),
        "versions": versions(),
    }
    start = time.monotonic()
    with alone(out):
        if overwrite:
            _clear(out)
        shards = Shards.begin(out, conditions)
        run = _Run(shards, Policy(on_bad, out / BAD_ROWS, keep=True), sample, normal=engine.normal)
        if not shards.manifest.get("finished"):
            skip = shards.done() * how["shard_rows"]
            total = sources.count()
            results = engine.embed(run.documents(sources.rows(skip), skip), **prompts, refuse=run.refused)
            for index, vector in steps(results, title, total=None if total is None else max(total - skip, 0)):
                run.add(index, vector)
            run.end()
    seconds = time.monotonic() - start
    rows, vectors = shards.counts()
    recall = sample.measure() if sample is not None else {}
    width, precision = how["dim"], how["precision"]
    return EmbedResult(str(out), rows, vectors, rows - vectors, width, precision, conditions["fingerprint"], run.embedded, seconds, recall)


def _width(engine: Embedder, dim: int | None) -> int:
    """Check the length that is asked for."""
    if dim is not None and not 0 < dim <= engine.dimension:
        raise UsageError(f"--dim {dim} is out of range: this model's vectors have 1 to {engine.dimension} numbers")
    return dim or engine.dimension


class _Run:
    """The shards that are still open."""

    def __init__(self, shards: Shards, policy: Policy, sample: Sample | None, *, normal: bool) -> None:
        self.shards, self.policy, self.sample, self.normal = shards, policy, sample, normal
        self.size: int = shards.manifest["shard_rows"]
        self.due = shards.done()  # the shard to be written next
        self.read = self.due * self.size  # rows of all sources that were read, or passed over
        self.given = self.embedded = 0
        self.numbers: dict[int, int] = {}  # of rows on their way, by the engine's index
        self.rows: dict[int, Row] = {}
        self.vectors: dict[int, NDArray[np.float32]] = {}
        self.first_bad: ContentError | None = None

    def documents(self, rows: Iterator[Document | ContentError], skip: int) -> Iterator[Document]:
        """Give the engine the good rows, and remember which is which."""
        for number, row in enumerate(read_ahead(rows, _READ), skip):
            self.read = number + 1
            if isinstance(row, ContentError):
                self._refuse(number, row)
                continue
            self.numbers[self.given] = number
            self.rows[number] = row_of(number, row)
            self.given += 1
            yield row

    def refused(self, index: int, error: ContentError) -> None:
        """Take a row that turned out bad on its way."""
        number = self.numbers.pop(index)
        del self.rows[number]
        self._refuse(number, error)

    def add(self, index: int, vector: NDArray[np.float32]) -> None:
        """Take a vector."""
        number = self.numbers.pop(index)
        self.vectors[number] = vector
        self.embedded += 1
        if self.sample is not None:
            self.sample.add(number, vector)
        self._write_full()

    def end(self) -> None:
        """Write what is left; a run that ends here has seen every row."""
        self._write_full()
        if self.read > self.due * self.size:
            self._write(self.read - self.due * self.size)
        rows, vectors = self.shards.counts()
        if not rows:
            raise TwowayError("the data holds no rows")
        if not vectors:
            raise TwowayError(f"every row is bad ({rows:,})" + (f", the first: {self.first_bad}" if self.first_bad else ""))
        self.shards.note(finished=True, rows=rows, vectors=vectors)

    def _refuse(self, number: int, error: ContentError) -> None:
        self.policy.refuse(error)
        self.first_bad = self.first_bad or error

    def _write_full(self) -> None:
        """Write the next shard, and those behind it, while every row of it is answered."""
        while self.read >= (self.due + 1) * self.size and self._answered() == self.size:
            self._write(self.size)

    def _answered(self) -> int:
        waiting = sum(1 for number in self.numbers.values() if number // self.size == self.due)
        return self.size - waiting

    def _write(self, seen: int) -> None:
        """Write the next shard."""
        numbers = sorted(number for number in self.vectors if number // self.size == self.due)
        whole = np.stack([self.vectors.pop(number) for number in numbers]) if numbers else np.zeros((0, 1), np.float32)
        manifest = self.shards.manifest
        kept = cut(whole, manifest["dim"], normal=self.normal) if numbers else np.zeros((0, manifest["dim"]), np.float32)
        if manifest["precision"] == "int8" and numbers and (self.due == 0 or not manifest.get("scale")):
            self.shards.note(scale=scale_of(kept))
        try:
            self.shards.write(self.due, [self.rows.pop(number) for number in numbers], kept, seen=seen)
        except TwowayError as error:
            raise TwowayError(f"{error} (the same command goes on; {self.due} shards are whole)") from error
        self.due += 1


def _clear(folder: Path) -> None:
    """Take away what an earlier run wrote, and nothing else; the manifest last, so that a kill leaves a folder that can be cleared."""
    for path in [*folder.glob("part-*.parquet"), *folder.glob(".part-*.tmp"), folder / BAD_ROWS, folder / MANIFEST]:
        path.unlink(missing_ok=True)
