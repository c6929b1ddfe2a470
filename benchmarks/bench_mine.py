"""What the exact search of `twoway mine` costs: queries against candidates on disk, block by block, in CPU time and memory.

Vectors are made, since the cost of products does not depend on what stands in them. Each size runs in a process of its own, so that the
peak of memory is its own, the program included; the mapped pages of the vectors are taken off, for they belong to the disk's cache.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUERIES, DIM, KEPT = 1024, 256, 100
SIZES = (100_000, 400_000)


def main() -> None:
    """Print a line for each number of candidates."""
    print(f"\nExact search: {QUERIES:,} queries, vectors of {DIM} numbers, the nearest {KEPT}, one thread")
    print("| candidates | CPU seconds | memory beside the vectors, GB |")
    print("|---|---|---|")
    for size in SIZES:
        subprocess.run([sys.executable, "-m", "benchmarks.bench_mine", str(size)], check=True)


def measure(size: int) -> None:
    """Write vectors, and search them once."""
    import numpy as np
    import torch

    from twoway.embedding.nearest import BLOCK, nearest

    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "vectors.npy"
        vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(size, DIM))
        for start in range(0, size, BLOCK):
            vectors[start : start + BLOCK] = random.standard_normal((min(BLOCK, size - start), DIM), dtype=np.float32)
        del vectors
        mapped = np.load(path, mmap_mode="r")
        queries = random.standard_normal((QUERIES, DIM), dtype=np.float32)
        began = time.process_time()
        nearest(queries, mapped, KEPT)
        seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - size * DIM * 4 / 2**30
    print(f"| {size:,} | {seconds:.1f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    measure(int(sys.argv[1]))
