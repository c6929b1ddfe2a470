"""Fine-tuning beside sentence-transformers' trainer with its cached loss: speed, padding and peak memory at several sizes of batch.

`python -m benchmarks finetune` takes an hour of one core with AVX2, `python -m benchmarks.bench_finetune --batches 64` some minutes. The
other side runs at its default, chunks of 32 rows, and in the two ways that are known to suit rows of mixed lengths better: chunks of 8
rows, and chunks of at most 2,048 tokens. Each side runs in a process of its own, by turns, so that what else the machine does falls on
all; the same model, rows, batch and type of arithmetic. Goals: 1.5 times the speed, and 1.2 times the memory from 64 to 2,048.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import twoway
from twoway.data.sources.samples import samples_folder
from twoway.training.precision import choose_dtype

from .finetune_rows import Rows

STEPS = {64: 4, 512: 1, 2048: 1}  # batch -> steps
SIDES = {
    "ours": "twoway",
    "theirs-32-rows": "chunks of 32 rows (default)",
    "theirs-8-rows": "chunks of 8 rows",
    "theirs-2048-tokens": "chunks of 2,048 tokens",
}


def side(name: str, base: Path, rows: Path, batch: int, steps: int) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.finetune_side", name, str(base), str(rows), str(batch), str(steps)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"    {name} at {batch:,}: {json.dumps(found)}", file=sys.stderr, flush=True)
    return found


def main(argv: list[str] | None = None) -> None:
    """Run every side at every size, and print a table a size; seconds of the processor are what other work changes least."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, nargs="+", default=list(STEPS), choices=list(STEPS))
    batches = parser.parse_args(argv or []).batches
    found: dict[tuple[str, int], dict[str, Any]] = {}
    kind = choose_dtype(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        base, home = Path(scratch) / "base", Path(scratch) / "rows"
        home.mkdir()
        twoway.convert(samples_folder() / "base", base, dtype="float32")
        rows = Rows(home).write(max(STEPS))
        print(f"\nFine-tuning the nano base in {kind.dtype} ({kind.why}), one thread; beside sentence-transformers' cached loss")
        for batch in batches:
            for name in SIDES:
                found[name, batch] = side(name, base, rows, batch, STEPS[batch])
            show(batch, {name: found[name, batch] for name in SIDES})
        if len(batches) > 1:
            ends = min(batches), max(batches)
            memory = [side("stream", base, rows, batch, 1)["memory"] for batch in ends]
            print(f"  our data alone, no model: {memory[0]:.0f} MB at {ends[0]}, {memory[1]:.0f} MB at {ends[1]:,}")
            for name, said in SIDES.items():
                grown = found[name, ends[1]]["memory"] / found[name, ends[0]]["memory"]
                print(f"  {said}: memory at {ends[1]:,} beside {ends[0]}: {grown:.2f}")


def show(batch: int, sides: dict[str, dict[str, Any]]) -> None:
    """Print one size: each side, and how many times as fast ours is."""
    ours = sides["ours"]
    best = min((name for name in sides if name != "ours"), key=lambda name: sides[name]["processor"])
    print(f"\n  batch {batch:,}, {ours['tokens'] / ours['rows']:.0f} tokens a row")
    print(f"  {'':28s} {'seconds':>8s} {'of CPU':>7s} {'rows/s':>7s} {'padding':>8s} {'memory':>9s}  ours is, by the clock and by CPU")
    for name, one in sides.items():
        clock, busy = (one[key] / ours[key] for key in ("seconds", "processor"))
        ratio = "" if name == "ours" else f"  {clock:.2f} and {busy:.2f} times as fast{' (their best)' if name == best else ''}"
        numbers = (
            f"{one['seconds']:8.1f} {one['processor']:7.1f} {one['rows_per_second']:7.2f} {one['padding']:8.0%} {one['memory']:6.0f} MB"
        )
        print(f"  {SIDES[name]:28s} {numbers}{ratio}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
