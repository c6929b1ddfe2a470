"""A folder of vectors: Parquet files, and a manifest with the model, the data and the settings that made them.

Shard number k holds rows k*n to (k+1)*n - 1 of the input, without bad rows, and appears completely or not at all. So the shards alone show
the progress of a run: after any kill no row is lost and none is there twice, and no other state has to be kept consistent. The manifest is
written first, with the conditions under which the folder may be resumed.
"""

from __future__ import annotations

import fcntl
import json
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twoway.content import escaped
from twoway.errors import BusyError, TwowayError, UsageError, did_you_mean
from twoway.files import write_errors, write_whole

from .config import Precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

MANIFEST, FORMAT = "manifest.json", 1
_TYPES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}
# What must agree for a folder to be gone on with, and how to say it.
_MUST = {
    "fingerprint": "vectors of another model, or of one that was opened otherwise,",
    "dim": "vectors of another length",
    "precision": "vectors of another precision",
    "prompt": "vectors made with another prompt",
    "data": "vectors of other data, or the data has changed since",
    "shard_rows": "shards of another size",
}
# What must agree, too, and stands there only of many vectors a document.
_OF_MANY = {
    "late_interaction": "one vector a document where many are asked for, or the reverse",
    "pool_factor": "vectors pooled by another factor",
}


class StoredRow(NamedTuple):
    """What is stored beside a vector."""

    id: str
    file: str | None
    row: int | None
    unit: str
    text: str | None
    image: str | None
    meta: str


class Shards:
    """A folder that is being written, or read."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest

    @classmethod
    def begin(cls, folder: Path, manifest: dict[str, Any]) -> Shards:
        """Start a folder, or resume one that was started under the same conditions."""
        wanted = {"format": FORMAT} | manifest
        if not (folder / MANIFEST).exists():
            if folder.exists() and any(folder.glob("part-*.parquet")):
                raise UsageError(f"{folder} holds Parquet files and no {MANIFEST}; choose another folder")
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / MANIFEST, escaped(json.dumps(wanted, indent=2, ensure_ascii=False)) + "\n")
            return cls(folder, wanted)
        found = cls.open(folder)
        for name, words in (_MUST | _OF_MANY).items():
            had, asked = found.manifest.get(name), wanted.get(name)
            if had != asked:
                numbers = f" ({had}, and {asked} is asked for)" if name in ("dim", "precision", "shard_rows", "pool_factor") else ""
                model = f" ({found.manifest.get('model')})" if name == "fingerprint" else ""
                raise UsageError(f"{folder} holds {words}{model}{numbers}; choose another folder, or pass --overwrite to start over")
        for torn in folder.glob(".part-*.tmp"):
            torn.unlink()  # what a killed run was writing
        return found

    @classmethod
    def open(cls, folder: str | Path) -> Shards:
        """Open a folder to read it."""
        path = Path(folder) / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UsageError(f"{folder} holds no vectors: it has no {MANIFEST}; make them with 'twoway embed'") from error
        except (ValueError, OSError) as error:
            raise TwowayError(f"{path} cannot be read ({error}); restore it, or start over with --overwrite") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise TwowayError(f"{path} has a format that this version does not know; start over with --overwrite")
        if missing := [name for name in ("model", *_MUST) if name not in manifest]:
            raise TwowayError(f"{path} says nothing of {', '.join(missing)}; restore it, or start over with --overwrite")
        return cls(Path(folder), manifest)

    @property
    def has_many(self) -> bool:
        """Whether a document has many vectors (late interaction)."""
        return bool(self.manifest.get("late_interaction"))

    def note(self, **facts: Any) -> None:
        """Add facts to the manifest."""
        self.manifest |= facts
        write_whole(self.folder / MANIFEST, escaped(json.dumps(self.manifest, indent=2, ensure_ascii=False)) + "\n")

    def path(self, number: int) -> Path:
        """Return the file of a shard."""
        return self.folder / f"part-{number:06d}.parquet"

    def paths(self) -> list[Path]:
        """Return the files that are there, in order; the millionth has a digit more than those before it."""
        return sorted(self.folder.glob("part-*.parquet"), key=lambda path: (len(path.name), path.name))

    def done(self) -> int:
        """Return the number of existing shards; a gap is an error, because no run leaves one."""
        found = self.paths()
        if found != [self.path(number) for number in range(len(found))]:
            raise TwowayError(f"{self.folder} lacks a shard between others; restore it, or start over with --overwrite")
        return len(found)

    def counts(self) -> tuple[int, int]:
        """Return the rows of input that the shards cover, and the vectors in them."""
        seen = kept = 0
        for path in self.paths():
            said = _open(path)
            kept += said.metadata.num_rows
            seen += int(said.schema_arrow.metadata[b"twoway.rows"])
        return seen, kept

    def write(self, number: int, rows: Sequence[StoredRow], vectors: NDArray[np.float32] | MultiVectors, *, seen: int) -> None:
        """Write one shard; `seen` is the number of rows of input that it covers."""
        precision = str(self.manifest["precision"])
        flat_vectors = vectors.flat if isinstance(vectors, MultiVectors) else vectors
        stored = quantise(flat_vectors, precision, float(self.manifest.get("scale") or 1.0))
        width = stored.shape[1]
        schema = _schema(precision, width, many=self.has_many).with_metadata(
            {"twoway.rows": str(seen), "twoway.fingerprint": self.manifest["fingerprint"]}
        )
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=False)] if rows else []
        columns = columns or [pa.array([], field.type) for field in list(schema)[:-1]]
        flat = pa.array(np.ascontiguousarray(stored).reshape(-1), _TYPES[precision])
        column: pa.Array = pa.FixedSizeListArray.from_arrays(flat, width)
        if self.has_many:
            counts = vectors.counts if isinstance(vectors, MultiVectors) else np.zeros(0, np.int64)
            column = pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32()), column)
        table = pa.Table.from_arrays([*columns, column.cast(schema.field("vector").type)], schema=schema)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=1024, compression="zstd", store_schema=True)
        write_whole(self.path(number), memoryview(sink.getvalue()).tobytes())

    def read(self, number: int) -> pa.Table:
        """Read one shard."""
        return _open(self.path(number)).read()

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Read shard after shard, or some columns of each."""
        for path in self.paths():
            yield _open(path).read(columns)

    def vectors(self, table: pa.Table) -> NDArray[np.float32]:
        """Return a shard's vectors as numbers."""
        if self.has_many:
            raise UsageError(f"{self.folder} holds many vectors a document (late interaction), and one vector is needed here")
        column = table["vector"].combine_chunks()
        flat = column.flatten() if isinstance(column, pa.FixedSizeListArray) else pa.concat_arrays([one.flatten() for one in column.chunks])
        stored = flat.to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
        return restore(stored, str(self.manifest["precision"]), float(self.manifest.get("scale") or 1.0))

    def multi_vectors(self, table: pa.Table) -> MultiVectors:
        """Return a shard's vectors as numbers, many a document."""
        dim = int(self.manifest["dim"])
        pieces, counts = [], [np.zeros(0, np.int64)]
        for chunk in table["vector"].chunks:
            inner = chunk.flatten()
            pieces.append(inner.flatten().to_numpy(zero_copy_only=False).reshape(len(inner), inner.type.list_size))
            counts.append(np.diff(chunk.offsets.to_numpy()).astype(np.int64))
        stored = np.concatenate(pieces) if pieces else np.zeros((0, dim), np.float32)
        restored = restore(stored, str(self.manifest["precision"]), float(self.manifest.get("scale") or 1.0))
        return MultiVectors(restored, np.concatenate(counts))


# The vectors of documents that have many each (late interaction), in memory: one matrix, and how many of its rows are
# each document's.


@dataclass(frozen=True)
class MultiVectors:
    """Vectors of documents, document behind document; each has one at least."""

    flat: Matrix
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, documents: Sequence[Matrix], dim: int) -> MultiVectors:
        """Put the matrices of documents together."""
        flat = np.concatenate(documents) if documents else np.zeros((0, dim), np.float32)
        return cls(flat, np.array([len(one) for one in documents], np.int64))

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, which: int) -> Matrix: ...

    @overload
    def __getitem__(self, which: NDArray[np.int64]) -> MultiVectors: ...

    def __getitem__(self, which: int | NDArray[np.int64]) -> Matrix | MultiVectors:
        """Return the vectors of a document, or several documents with theirs, in this order."""
        if isinstance(which, np.ndarray):
            return MultiVectors.of([self[int(number)] for number in which], self.flat.shape[1])
        end = int(self.ends[which])
        return self.flat[end - int(self.counts[which]) : end]

    def __iter__(self) -> Iterator[Matrix]:
        return (self[number] for number in range(len(self)))

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Return the row behind each document's last."""
        found: NDArray[np.int64] = np.cumsum(self.counts)
        return found

    def maxsim(self, query: Matrix) -> Matrix:
        """Return each document's score for a query: the mean, over the query's vectors, of the product with the document's nearest."""
        if not len(self):
            return np.zeros(0, np.float32)
        products = np.asarray(self.flat, np.float32) @ np.asarray(query, np.float32).T
        best = np.maximum.reduceat(products, self.ends - self.counts, axis=0)
        return np.asarray(best.mean(axis=1), np.float32)


@contextmanager
def alone(folder: Path, *, make: bool = True) -> Iterator[None]:
    """Hold a folder against a second run; the system lets go of it however this one ends. Without `make` it must be there."""
    with write_errors(folder):
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / ".lock").open("w")
        except FileNotFoundError as error:
            raise TwowayError(f"{folder} no longer exists; restore it, or open it at its new location") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(f"another run is writing to {folder}; wait for it, or choose another folder") from error
        yield


def _schema(precision: str, width: int, *, many: bool) -> pa.Schema:
    vector = pa.list_(pa.field("item", _TYPES[precision], nullable=False), width)
    vector = pa.list_(vector) if many else vector
    kinds = {"id": pa.string(), "file": pa.string(), "row": pa.int64(), "unit": pa.string(), "text": pa.string(), "image": pa.string()}
    return pa.schema([*kinds.items(), ("meta", pa.string()), ("vector", vector)])


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        line = str(error).splitlines()[0]
        raise TwowayError(f"{path} is not a readable Parquet file ({line}); delete it and the shards behind it, and run again") from error


# How a vector is stored: as numbers of 32 or 16 bits, as whole numbers of 8, or as signs; and what each form finds of
# the true neighbours.
#
# int8 has one scale for all numbers of all vectors, so a product of two stored vectors is the true one times a
# constant, in any engine (a scale for each dimension, as others have it, needs that table at search time). What is
# beyond the scale is cut. Signs are packed eight to a byte, the first the highest, as numpy and most engines have it;
# nearness is the number of equal signs.

_LARGEST = 127


def require_precision(precision: str, dim: int) -> None:
    """Refuse a form that is not known or does not go with the length of the vectors."""
    known = get_args(Precision)
    if precision not in known:
        raise UsageError(f"unknown precision {precision!r}{did_you_mean(precision, known)} (there are: {', '.join(known)})")
    if precision == "binary" and dim % 8:
        raise UsageError(f"binary vectors are packed eight to a byte, and {dim} is not a multiple of 8; choose another truncate_dim")


def scale_of(vectors: Matrix) -> float:
    """Return the scale for int8: the value of the largest integer."""
    return float(np.abs(vectors).max(initial=0.0)) or 1.0


def cut(vectors: Matrix, dim: int | None, *, normal: bool) -> Matrix:
    """Keep the first numbers of vectors, brought back to length 1 where they had it."""
    if dim is None or dim >= vectors.shape[1]:
        return vectors
    kept = vectors[:, :dim]
    return kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12) if normal else kept


def quantise(vectors: Matrix, precision: str, scale: float = 1.0) -> NDArray[Any]:
    """Return vectors as they are stored."""
    if precision == "int8":
        whole: NDArray[Any] = np.clip(np.rint(vectors * (_LARGEST / scale)), -_LARGEST, _LARGEST)
        return whole.astype(np.int8)
    if precision == "binary":
        signs: NDArray[Any] = np.packbits(vectors > 0, axis=1)
        return signs
    return vectors.astype(np.float16 if precision == "float16" else np.float32)


def restore(stored: NDArray[Any], precision: str, scale: float = 1.0) -> Matrix:
    """Return stored vectors as numbers; signs as 1 and -1, whose product counts equal signs."""
    if precision == "int8":
        return stored.astype(np.float32) * np.float32(scale / _LARGEST)
    if precision == "binary":
        return np.unpackbits(stored, axis=1).astype(np.float32) * 2 - 1
    return stored.astype(np.float32)


def recall(queries: Matrix, rows: Matrix, found_by: tuple[Matrix, Matrix], k: int = 10) -> float:
    """Return the share of the true `k` nearest rows that queries and rows in another form find; `queries` are not among `rows`."""
    k = min(k, len(rows))
    true, found = _nearest(queries, rows, k), _nearest(*found_by, k)
    return float(np.mean([len(set(one) & set(other)) / k for one, other in zip(true, found, strict=True)]))


def _nearest(queries: Matrix, rows: Matrix, k: int) -> NDArray[np.int64]:
    """Return the rows of the largest products."""
    return np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :k]
