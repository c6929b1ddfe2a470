"""`embed`: any number of documents to a folder of vectors; resumes after any interruption.

Rows are numbered through all sources, bad ones included, and shard k covers a fixed range of these numbers. So a resumed run skips the
rows of existing shards and needs no other state. A shard is written when all of its rows are done.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from twoway.config import gather, takes
from twoway.content import ContentError
from twoway.embedding import Embedder
from twoway.errors import UsageError
from twoway.limits import Limits
from twoway.progress import steps

from .chunks import ChunkedRows, LateEmbedder
from .config import EmbedConfig
from .embedder import MultiVectorEmbedder
from .inputs import prompt_of
from .nearest import Sample
from .opening import open_embedders
from .prefetch import read_ahead
from .shards import MultiVectors, require_precision
from .writing import READ_AHEAD, EmbedResult, Sources, Writer, fill_folder, of_model, row_of, width_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from twoway.content import Document
    from twoway.data.config import OnBad

    from .shards import StoredRow


_SHARD_ROWS, _SHARD_ROWS_OF_MANY = 2048, 256


class RowSource(Protocol):
    """What is embedded: rows in a fixed order, bad ones as errors."""

    def rows(self, skip: int) -> Iterator[Document | ContentError]:
        """Yield every row from one on."""

    def identity(self) -> dict[str, Any]:
        """Return what changes when the rows do."""

    def count(self) -> int | None:
        """Count the rows, where that is quick."""


@takes(EmbedConfig)
def embed(
    model: str | Path | Embedder,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    config: EmbedConfig | None = None,
    overwrite: bool = False,
    **options: Any,
) -> EmbedResult:
    """Embed documents into `out`, or resume an earlier run; `options` are the settings of `EmbedConfig`.

    A `row_template` reads columns of other names, as in the sources of a training: `"{title} {photo:image}"`, or a format by its name.

    With `engine="ray"`, Ray runs it on all machines of the `cluster`.
    """
    config = gather(EmbedConfig, config, options, embed)
    specs = [data] if isinstance(data, str | Path) else data
    sources = Sources(
        specs,
        root=config.root,
        dpi=config.dpi,
        row_template=config.row_template,
        limits=Limits.reading(config.limits),
        segment=config.segment,
    )
    if Path(out).exists() and not Path(out).is_dir():
        raise UsageError(f"{out} is a file; name a folder")
    prompts = {"side": config.side, "prompt": config.prompt, "prompt_name": config.prompt_name}
    how: dict[str, Any] = {
        "dim": config.truncate_dim,
        "precision": config.precision or "float32",
        "shard_rows": config.shard_rows or _SHARD_ROWS,
    }
    filling: dict[str, Any] = {"on_bad": config.on_bad, "overwrite": overwrite}
    if config.engine == "ray":
        from .ray import embed_on  # Ray takes seconds to import

        if isinstance(model, Embedder):
            raise UsageError("a model in memory cannot be sent to other machines; name its folder or hub id")
        opening = {"model": str(model), **config.opening()}
        return embed_on(config.cluster, opening, sources, Path(out), prompts, how, recall=config.measure_recall, **filling)
    pooled = config.pool_factor > 1
    opening = config.opening() | ({"processes": 1} if config.late or pooled else {})
    with contextlib.closing(open_embedders(model, **opening, late_interaction=not config.late)) as engine:
        rows: RowSource = sources
        if engine.late_interaction:
            how |= _many_vectors(engine, config)
        elif pooled:
            raise UsageError(f"{engine.name or 'the model'} gives one vector a document, and pool_factor makes many fewer; leave it out")
        if config.chunks is not None or config.late:
            rows = ChunkedRows(sources, engine, size=config.chunks, late=config.late)
        engine = LateEmbedder(engine) if config.late else engine
        return _embed_with(engine, rows, Path(out), prompts, how, filling, recall=config.measure_recall)


def _many_vectors(engine: Embedder, config: EmbedConfig) -> dict[str, Any]:
    """Return how many vectors a document are stored, and let a model pool them."""
    if config.measure_recall:
        raise UsageError("measure_recall compares one vector a document; leave it out")
    if config.truncate_dim not in (None, engine.dimension):
        raise UsageError(f"{engine.name or 'the model'} gives many vectors, of {engine.dimension} numbers each; leave truncate_dim out")
    if config.pool_factor > 1 and config.side != "document":
        raise UsageError("pool_factor is for documents; say --side document too")
    if isinstance(engine, MultiVectorEmbedder):
        pooling = HierarchicalTokenPooling(config.pool_factor, num_protected_tokens=0)
        engine.pooling = pooling if config.pool_factor > 1 else None
    many = {"late_interaction": True, "pool_factor": config.pool_factor}
    return many | {"precision": config.precision or "float16", "shard_rows": config.shard_rows or _SHARD_ROWS_OF_MANY}


def _embed_with(
    engine: Embedder, sources: RowSource, out: Path, prompts: dict[str, Any], how: dict[str, Any], filling: dict[str, Any], *, recall: bool
) -> EmbedResult:
    """Embed with a model that is open."""
    precision = how["precision"]
    how["dim"] = width_of(how["dim"], engine.dimension)
    require_precision(precision, how["dim"])
    sample = Sample(how["dim"], precision, normal=engine.normal) if recall else None
    return embed_rows(engine, sources, out, prompts, how, sample=sample, **filling)


def embed_rows(
    engine: Embedder,
    sources: RowSource,
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
    conditions = {**of_model(engine), **how, "prompt": [prompt or "", prompts.get("side")], "data": sources.identity()}

    def produce(writer: Writer) -> None:
        run = _Run(writer)
        skip = writer.due * writer.size
        total = sources.count()
        results = engine.embed(run.documents(sources.rows(skip), skip), **prompts, refuse=run.refused)
        for index, vector in steps(results, title, total=None if total is None else max(total - skip, 0)):
            run.add(index, vector)
        run.end()

    return fill_folder(out, conditions, produce, normal=engine.normal, on_bad=on_bad, sample=sample, overwrite=overwrite)


class _Run:
    """The shards that are still open."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.size = writer, writer.size
        self.read = writer.due * writer.size  # rows of all sources that were read, or passed over
        self.given = 0
        self.numbers: dict[int, int] = {}  # of rows on their way, by the engine's index
        self.waiting = Counter[int]()  # how many these are, by shard
        self.rows: dict[int, StoredRow] = {}
        self.vectors: dict[int, NDArray[np.float32]] = {}

    def documents(self, rows: Iterator[Document | ContentError], skip: int) -> Iterator[Document]:
        """Give the engine the good rows, and remember which is which."""
        for number, row in enumerate(read_ahead(rows, READ_AHEAD), skip):
            self.read = number + 1
            if isinstance(row, ContentError):
                self.writer.refuse(row)
                continue
            self.numbers[self.given] = number
            self.waiting[number // self.size] += 1
            self.rows[number] = row_of(number, row)
            self.given += 1
            yield row

    def refused(self, index: int, error: ContentError) -> None:
        """Handle a row that turned out bad during the run."""
        del self.rows[self._answered(index)]
        self.writer.refuse(error)

    def add(self, index: int, vector: NDArray[np.float32]) -> None:
        """Take a vector."""
        number = self._answered(index)
        self.vectors[number] = vector
        self.writer.note(number, vector)
        self._write_full()

    def end(self) -> None:
        """Write what is left; a run that ends here has seen every row."""
        self._write_full()
        if self.read > self.writer.due * self.size:
            self._write(self.read - self.writer.due * self.size)

    def _write_full(self) -> None:
        """Write the next shard, and those behind it, while every row of it is answered."""
        while self.read >= (self.writer.due + 1) * self.size and not self.waiting[self.writer.due]:
            self._write(self.size)

    def _answered(self, index: int) -> int:
        """Return the number of a row that is no longer on its way."""
        number = self.numbers.pop(index)
        self.waiting[number // self.size] -= 1
        return number

    def _write(self, seen: int) -> None:
        """Write the next shard."""
        self.waiting.pop(self.writer.due, None)
        numbers = sorted(number for number in self.vectors if number // self.size == self.writer.due)
        found = [self.vectors.pop(number) for number in numbers]
        whole: NDArray[np.float32] | MultiVectors | None = None
        if found:
            whole = np.stack(found) if found[0].ndim == 1 else MultiVectors.of(found, found[0].shape[1])
        self.writer.write([self.rows.pop(number) for number in numbers], whole, seen=seen)
