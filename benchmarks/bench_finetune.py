"""Fine-tuning beside sentence-transformers' trainer with its cached loss: speed, padding and peak memory at three sizes of batch.

`python -m benchmarks finetune` takes about 25 minutes of one core. Each side runs in a process of its own, by turns, so that what
else the machine does falls on both; the same model, rows and batch. Goals: 1.5 times the speed, and 1.2 times the memory from 64 to 2,048.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import twoway
from twoway.data.samples import samples_folder

from .finetune_rows import Rows

STEPS = {64: 4, 512: 1, 2048: 1}  # batch -> steps
SIDES = ("ours", "theirs")


def side(name: str, base: Path, rows: Path, batch: int, steps: int) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.finetune_side", name, str(base), str(rows), str(batch), str(steps)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run both sides at every size, and print the table."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base, home = Path(scratch) / "base", Path(scratch) / "rows"
        home.mkdir()
        twoway.convert(samples_folder() / "base", base, dtype="float32")
        rows = Rows(home).write(max(STEPS))
        print("\nFine-tuning the nano base: rows a second, share of padding, peak memory; theirs is sentence-transformers")
        print(f"  {'batch':>6s} {'ours':>20s} {'theirs':>20s} {'speed':>7s} {'by processor time':>18s}  tokens a row")
        for batch, steps in STEPS.items():
            for name in SIDES:
                found[name, batch] = side(name, base, rows, batch, steps)
                print(f"    {name} at {batch:,}: {json.dumps(found[name, batch])}", file=sys.stderr, flush=True)
            one, other = (found[name, batch] for name in SIDES)
            said = [f"{it['rows_per_second']:6.1f} {it['padding']:5.0%} {it['memory']:5.0f} MB" for it in (one, other)]
            ratio = one["rows_per_second"] / other["rows_per_second"]
            busy = other["processor"] / one["processor"]
            print(f"  {batch:6,} {said[0]:>20s} {said[1]:>20s} {ratio:7.2f} {busy:18.2f}  {one['tokens'] / one['rows']:.0f}", flush=True)
        memory = [side("stream", base, rows, batch, 1)["memory"] for batch in (min(STEPS), max(STEPS))]
        print(f"  our data alone, no model: {memory[0]:.0f} MB at {min(STEPS)}, {memory[1]:.0f} MB at {max(STEPS):,}")
    for name in SIDES:
        print(f"  {name}: memory at {max(STEPS):,} beside {min(STEPS)}: {found[name, 2048]['memory'] / found[name, 64]['memory']:.2f}")


if __name__ == "__main__":
    main()
