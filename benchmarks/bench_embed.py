"""The embedding engine beside `SentenceTransformer.encode`: the same model, the same files, the same vectors, in turns.

`python -m benchmarks.bench_embed --only clips` embeds short videos. sentence-transformers' processors choose frames by rules of their own,
so `encode` is given the same frames here, read from the files one after the other within what is timed.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import twoway
from twoway.content import Document
from twoway.data.sources.clips import MOTIONS, motion_clips, named_things, write_clips
from twoway.data.sources.samples import load_world, samples_folder
from twoway.embedding import Embedder, open_embedder
from twoway.images import DEFAULT as LIMITS
from twoway.sandbox import SANDBOX

from .embed_mix import KINDS, mix
from .side_by_side import side_by_side, table

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT, DEFAULT, SIZES = 200, 32, (32, 16, 8, 4, 2, 1)  # sizes are those of encode's batches
CLIPS, SIDES = "clips", (64, 96, 128)  # pixels along a side of a clip


def main(argv: list[str] | None = None) -> None:
    """Embed the mix with both, and each kind alone; `encode` has its default batch size and the best of some sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=COUNT, help="documents of the mix")
    parser.add_argument("--rounds", type=int, default=3, help="of the mix")
    parser.add_argument("--only", choices=("the mix", *KINDS, CLIPS), help="embed nothing else (default: all but clips)")
    args = parser.parse_args(argv or [])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        twoway.convert(samples_folder() / "base", Path(scratch) / "model", dtype="float32")
        engine = open_embedder(Path(scratch) / "model", device="cpu")
        if args.only == CLIPS:
            compare_clips(engine, Path(scratch), args.count)
            return
        rows = mix(Path(scratch), args.count)
        counts = Counter(kind for kind, _, _ in rows)
        chosen = {"the mix": rows} | {kind: [row for row in rows if row[0] == kind] for kind in KINDS}
        for name, part in chosen.items():
            if args.only in (None, name):
                compare(engine, name, part, rounds=args.rounds if name == "the mix" else 1)
        print(f"\nthe mix: {', '.join(f'{count} {kind}' for kind, count in counts.items())}; float32, torch with one thread")


def cpu_seconds() -> float:
    """Return the CPU seconds of all threads, and of the child that reads videos, which is ended, so that the system counts it."""
    SANDBOX.close()
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def counted(run: Callable[[], object], spent: list[float]) -> Callable[[], object]:
    """Also note the CPU seconds, which other work on the machine does not change."""

    def both() -> object:
        start = cpu_seconds()
        found = run()
        spent.append(cpu_seconds() - start)
        return found

    return both


def compare_clips(engine: Embedder, folder: Path, count: int) -> None:
    """Time both on clips of three sizes, of which two, four or eight frames are shown, in a random order."""
    draw, documents = random.Random(0), []
    things = named_things(load_world(), "unseen", -(-count // (len(MOTIONS) * len(SIDES))))
    for side in SIDES:
        clips = write_clips(folder / f"clips-{side}", motion_clips(things, frames=8, side=side))
        documents += [Document.from_parts([{"video": clip.file, "num_frames": draw.choice((2, 4, 8))}]) for clip in clips]
    draw.shuffle(documents)
    del documents[count:]
    frames = {"processing_kwargs": {"video": {"do_sample_frames": False}}}

    def opened(inputs: list[Any]) -> list[Any]:
        return [{"video": one.parts[0].opened(None, LIMITS).value} for one in inputs]

    compare(engine, CLIPS, [(CLIPS, one, one) for one in documents], rounds=1, opened=opened, **frames)


def compare(
    engine: Embedder, name: str, rows: list[Any], *, rounds: int, opened: Callable[[list[Any]], list[Any]] = list, **given: Any
) -> None:
    """Time both on some rows, and see that their vectors are the same; `encode` is `given` more, and what `opened` makes of its inputs."""
    documents, inputs = [row[1] for row in rows], [row[2] for row in rows]

    def encode(size: int = DEFAULT) -> Any:
        return engine.sentence.encode(opened(inputs), batch_size=size, show_progress_bar=False, **given)

    apart = float(np.abs(engine.array(documents) - encode()).max())
    if apart > 1e-5:
        raise SystemExit(f"{name}: the vectors are {apart:.1e} apart")
    best = best_size(encode)
    alone = Embedder.of(engine.sentence, workers=0)
    things = {
        f"encode, batches of {DEFAULT} (default)": encode,
        f"encode, batches of {best} (best)": lambda: encode(best),
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


def best_size(encode: Callable[[int], object]) -> int:
    """Return the batch size that `encode` needs least of the processor with, of one try each."""

    def seconds(size: int) -> float:
        start = cpu_seconds()
        encode(size)
        return cpu_seconds() - start

    return min(SIZES, key=seconds)


if __name__ == "__main__":
    main(sys.argv[1:])
