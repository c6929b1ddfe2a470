"""How quickly a source is looked through before training: rows a second, and the processor seconds of a thousand rows.

JSON lines that name pictures on disk, and Parquet files that hold them; with one process and with as many as there are processors. The
second call is what a run, a stage or an arm finds that comes after. Wall time depends on what else the machine does; processor seconds,
those of all processes, hardly do.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

ROWS, PICTURES = 20_000, 2_000


def main() -> None:
    """Make both sources, and look through each."""
    from twoway.data.dataset import open_table
    from twoway.data.sources.readers import scan_options
    from twoway.processes import count_of

    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        sources = make(home)
        print(f"\nLooking through {ROWS:,} rows, a picture and a caption each ({count_of(None)} processors)")
        print(f"  {'':34s} {'rows/s':>10s} {'CPU s per 1,000 rows':>22s}")
        for name, spec in sources.items():
            for processes in dict.fromkeys([1, count_of(None)]):
                folder = home / f"tables-{name}-{processes}"
                for again in (False, True):
                    began, used = time.perf_counter(), processor()
                    with scan_options(processes=processes):
                        rows = len(open_table(spec, folder=folder))
                    seconds, spent = time.perf_counter() - began, processor() - used
                    label = f"{name}, {'the second call' if again else f'{processes} processes'}"
                    print(f"  {label:34s} {rows / seconds:10,.0f} {1000 * spent / rows:22.3f}")


def processor() -> float:
    """Return the processor seconds of this process and of those that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def make(home: Path) -> dict[str, str]:
    """Write both sources; the pictures are noise, so that their files have the size of photographs."""
    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    draw = np.random.default_rng(0)
    (home / "pictures").mkdir()
    for number in range(PICTURES):
        height, width = draw.integers(48, 320, 2)
        Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(home / f"pictures/{number}.jpg")
    captions = [" ".join(f"word{word}" for word in draw.integers(0, 999, draw.integers(5, 60))) for _ in range(ROWS)]
    with (home / "rows.jsonl").open("w") as file:
        for number, caption in enumerate(captions):
            file.write(json.dumps({"image": f"pictures/{number % PICTURES}.jpg", "text": caption}) + "\n")
    pictures = [(home / f"pictures/{number}.jpg").read_bytes() for number in range(PICTURES)]
    table = pyarrow.table({"image": [pictures[number % PICTURES] for number in range(ROWS)], "text": captions})
    pyarrow.parquet.write_table(table, home / "rows.parquet", row_group_size=100)
    return {"jsonl": str(home / "rows.jsonl"), "parquet": str(home / "rows.parquet")}


if __name__ == "__main__":
    main()
