"""The embedding engine beside `SentenceTransformer.encode`: the same model, the same files, the same vectors, in turns."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import twoway
from twoway.data.sources.samples import samples_folder
from twoway.embedding import Embedder, open_embedder

from .embed_mix import KINDS, mix
from .side_by_side import side_by_side, table

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT, DEFAULT, SIZES = 200, 32, (32, 16, 8, 4, 2, 1)  # batch sizes of encode


def main(argv: list[str] | None = None) -> None:
    """Embed the mix with both, and each kind alone; `encode` has its default batch size and the best of some sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=COUNT, help="documents of the mix")
    parser.add_argument("--rounds", type=int, default=3, help="of the mix")
    args = parser.parse_args(argv or [])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        twoway.convert(samples_folder() / "base", Path(scratch) / "model", dtype="float32")
        engine = open_embedder(Path(scratch) / "model", device="cpu")
        rows = mix(Path(scratch), args.count)
        counts = Counter(kind for kind, _, _ in rows)
        chosen = {"the mix": rows} | {kind: [row for row in rows if row[0] == kind] for kind in KINDS}
        for name, part in chosen.items():
            compare(engine, name, part, rounds=args.rounds if name == "the mix" else 1)
        print(f"\nthe mix: {', '.join(f'{count} {kind}' for kind, count in counts.items())}; float32, torch with one thread")


def counted(run: Callable[[], object], spent: list[float]) -> Callable[[], object]:
    """Also note the CPU seconds of all threads, which other work on the machine does not change."""

    def both() -> object:
        start = time.process_time()
        found = run()
        spent.append(time.process_time() - start)
        return found

    return both


def compare(engine: Embedder, name: str, rows: list[Any], *, rounds: int) -> None:
    """Time both on some rows, and see that their vectors are the same."""
    documents, inputs = [row[1] for row in rows], [row[2] for row in rows]
    apart = float(np.abs(engine.array(documents) - engine.sentence.encode(inputs, show_progress_bar=False)).max())
    if apart > 1e-5:
        raise SystemExit(f"{name}: the vectors are {apart:.1e} apart")
    best = best_size(engine, inputs)
    alone = Embedder.of(engine.sentence, workers=0)
    things = {
        f"encode, batches of {DEFAULT} (default)": lambda: engine.sentence.encode(inputs, show_progress_bar=False),
        f"encode, batches of {best} (best)": lambda: engine.sentence.encode(inputs, batch_size=best, show_progress_bar=False),
        "twoway, one thread": lambda: alone.array(documents),
        f"twoway, {engine.settings.threads()} more to prepare": lambda: engine.array(documents),
    }
    spent: dict[str, list[float]] = {thing: [] for thing in things}
    seconds = side_by_side({thing: counted(run, spent[thing]) for thing, run in things.items()}, rounds=rounds, warm_up=0)
    work = {thing: statistics.median(values) for thing, values in spent.items()}
    first = next(iter(work.values()))
    said = {
        thing: f"{len(rows) / seconds[thing]:.1f} rows a second; {value:.2f} s of CPU, ratio {value / first:.2f}"
        for thing, value in work.items()
    }
    table(f"{name}: {len(rows)} rows, vectors at most {apart:.0e} apart", seconds, work=said)


def best_size(engine: Embedder, inputs: list[Any]) -> int:
    """Return the batch size that `encode` needs least of the processor with, of one try each."""

    def seconds(size: int) -> float:
        start = time.process_time()
        engine.sentence.encode(inputs, batch_size=size, show_progress_bar=False)
        return time.process_time() - start

    return min(SIZES, key=seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
