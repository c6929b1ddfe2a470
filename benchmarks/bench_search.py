"""What an index of vectors finds and how fast: LanceDB's kinds beside comparing every vector, on real and on made vectors.

Real ones are pictures of samples by the base; made ones lie in a thousand clusters. Queries are items themselves, which do not count as
found. Times are CPU time of all threads, one search after the other, with what is shown of ten items read too: "a second" is what one core
answers, and what else the machine does changes none of it.
"""

from __future__ import annotations

import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import twoway
from twoway.data.sources.samples import samples_folder
from twoway.embedding import open_embedder
from twoway.search.index import EFFORTS, EffortMeasurement, measure_effort, true_neighbours
from twoway.search.query import create_store
from twoway.search.store import IndexInfo, Item, normalized

if TYPE_CHECKING:
    from numpy.typing import NDArray

REAL, MADE, DIM, CLUSTERS, WANTED = 3000, 100_000, 256, 1000, 0.95
KINDS = ("hnsw", "ivf", "ivf-pq")


def main() -> None:
    """Print one table for the real vectors and one for those made."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        for name, vectors in (("vectors of samples", real(Path(scratch))), ("made vectors", made(MADE, DIM))):
            compare(f"{len(vectors):,} {name}, {vectors.shape[1]} numbers each", vectors, Path(scratch) / name)


def real(scratch: Path) -> NDArray[np.float32]:
    """Embed pictures of samples."""
    twoway.convert(samples_folder() / "base", scratch / "model", dtype="float32")
    engine = open_embedder(scratch / "model", device="cpu")
    rows = twoway.open_source("samples:pictures", images="lazy")
    return normalized(engine.array(islice(rows, REAL)))


def made(count: int, dim: int) -> NDArray[np.float32]:
    """Draw vectors around centres."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLUSTERS, dim)).astype(np.float32)
    noise = random.normal(size=(count, dim)).astype(np.float32)
    return normalized(centres[random.integers(CLUSTERS, size=count)] + noise)


def compare(title: str, vectors: NDArray[np.float32], folder: Path) -> None:
    """Measure comparing every vector, and each kind of index up to the effort that finds enough."""
    store = create_store(folder, IndexInfo("samples", "0" * 64, vectors.shape[1]))
    for number in range(0, len(vectors), 4096):
        store.add([Item(f"{number + place}", vector) for place, vector in enumerate(vectors[number : number + 4096])])
    store.build_indexes(exact_below=len(vectors) + 1)
    queries, true = true_neighbours(store)
    exact = measure_effort(store, queries, true, 1)
    print(f"\n{title}: recall at 10, and searches a second")
    print(f"  {'':10s}{'effort':>8s}{'recall':>8s}{'a second':>10s}{'ratio':>8s}{'built in':>10s}")
    show("exact", exact, exact, "")
    for kind in KINDS:
        start = time.process_time()
        store.build_indexes(exact_below=1, kind=kind)
        built = f"{time.process_time() - start:.1f} s"
        for effort in EFFORTS:
            store.set_effort(effort)
            found = measure_effort(store, queries, true, effort)
            show(kind, found, exact, built)
            built = ""
            if found.recall >= WANTED:
                break
    store.close()


def show(kind: str, found: EffortMeasurement, exact: EffortMeasurement, built: str) -> None:
    """Print a line; the ratio is to comparing every vector."""
    rate = 1000 / found.cpu_milliseconds
    ratio = exact.cpu_milliseconds / found.cpu_milliseconds
    print(f"  {kind:10s}{found.effort:8d}{found.recall:8.3f}{rate:10.0f}{ratio:8.2f}{built:>10s}", flush=True)
