"""How long the plan of an epoch of ten million rows takes, and its memory; the goals are a minute and 2 GB."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

ROWS = 10_000_000


def main() -> None:
    """Measure in a process of its own, so that the peak of memory is the plan's."""
    subprocess.run([sys.executable, "-m", "benchmarks.bench_plan"], check=True)


def measure() -> None:
    """Draw lengths with a long tail and pictures for half the rows, shuffle an epoch, and plan it."""
    import numpy as np

    from twoway.data.config import CostWeights
    from twoway.data.sampler import RowCosts, plan_batches

    draw = np.random.default_rng(0)
    text = np.minimum(draw.lognormal(4.5, 1, ROWS), 2048).astype(np.int32)
    images = draw.integers(0, 2, ROWS, dtype=np.int32)
    costs = RowCosts.of(text, images * 196, images, CostWeights(2.0, 10.0))
    del text, images
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    rows = draw.permutation(ROWS)
    made = plan_batches(rows, costs.take(rows), seed=0, epoch=0, shards=32, budget=12_800)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    for step in range(0, len(made), max(1, len(made) // 1000)):
        made.batch(step, 3, 32)
    looked = (time.perf_counter() - start) / 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"\nPlan of an epoch of {ROWS:,} rows, budget 12,800, 32 ranks")
    print(f"  seconds       {seconds:8.1f}  (goal: 60)")
    print(f"  peak memory   {peak / 2**20:8.2f} GB (goal: 2; before the plan {before / 2**20:.2f})")
    print(f"  find a batch  {looked * 1e6:8.1f} microseconds")
    for name, value in made.report().items():
        print(f"  {name:18s} {value:>12,}")


if __name__ == "__main__":
    measure()
