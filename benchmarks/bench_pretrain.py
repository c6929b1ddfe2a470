"""Pre-training: our step beside a plain transformers loop that works as MoCa's released code does, in turns, on the same rows.

All sides compute in the type that the machine is fast in (`precision`), the released way too, which is its best; where that is not the
bfloat16 that its script asks for, a few rows in its own type are printed beside. Seconds are of the processor, in one thread (`THREADS=2`
for two): what else the machine does then falls on neither. The peak is that of a product of two 2048 x 2048 matrices of that type in the
same process. Operations are counted one by one by torch's FlopCounterMode; what is
computed twice counts twice. Memory is that of a process of its own for each side.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from twoway.training.precision import choose_dtype

from .pretrain_ours import Ours
from .pretrain_plain import PlainLoop
from .pretrain_profile import counted, profile, seconds
from .pretrain_rows import Rows, base

if TYPE_CHECKING:
    from collections.abc import Callable

ROWS, LENGTH, MIXED, MEAN, FEW, PAGES = 32, 114, 64, 210, 2, 8
SIDES: dict[str, dict[str, Any]] = {
    "released": {},
    "plain": {},
    "ours": {},
    "ours, skip": {"masked_patches": "skip"},
    "ours, drop": {"masked_patches": "drop"},
    "ours, drop, 75% masked": {"masked_patches": "drop", "mask": {"patches": 0.75}},
}
DTYPE = choose_dtype(torch.device("cpu")).dtype
Step = tuple[int, "Callable[[], object]"]  # rows, and what trains on them


@dataclass(frozen=True)
class Found:
    """What was measured of one side."""

    rows: int
    took: float  # seconds of the processor
    work: int  # floating-point operations
    memory: str

    @property
    def speed(self) -> float:
        """Rows a second."""
        return self.rows / self.took

    def more(self, rows: int, took: float, work: int) -> Found:
        """Add a step."""
        return Found(self.rows + rows, self.took + took, self.work + work, self.memory)


def main(argv: list[str] | None = None) -> None:
    """Measure rows of one length, then rows of mixed lengths, and print tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3, help="of the rows of one length")
    parser.add_argument("--only", choices=("fixed", "pages", "mixed", "parts"), help="one of the tables (default: all)")
    args = parser.parse_args(argv or [])
    torch.set_num_threads(int(os.environ.get("THREADS", "1")))
    print(f"\nAll in {DTYPE}: {choose_dtype(torch.device('cpu')).why}")
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        _quietly(lambda: prepare(home))
        tables: dict[str, Callable[[], None]] = {
            "fixed": lambda: fixed(home, args.rounds, "fixed", f"{ROWS} rows of {LENGTH} tokens, one picture of 64 tokens each"),
            "pages": lambda: fixed(home, args.rounds, "pages", f"{PAGES} rows of 405 tokens, one picture of 324 tokens each"),
            "mixed": lambda: mixed(home),
            "parts": lambda: parts(home),
        }
        for name, table in tables.items():
            if args.only in (None, name):
                table()


def fixed(home: Path, rounds: int, kind: str, title: str) -> None:
    """Rows of one length: several rounds of one step of each side."""
    steps = _quietly(lambda: {name: _epoch(_side(home, name, kind))[0] for name in SIDES})
    work = {name: counted(step) for name, (_, step) in steps.items()}
    taken: dict[str, list[float]] = {name: [] for name in SIDES}
    peaks = []
    for _ in range(rounds):
        peaks.append(_peak())
        for name, (_, step) in steps.items():
            taken[name].append(seconds(step, rounds=1))
    memories = {name: f"{_memory(home, name, kind):,} MB" for name in SIDES}
    found = {name: Found(steps[name][0], statistics.median(taken[name]), work[name], memories[name]) for name in SIDES}
    _print(f"{title}; medians of {rounds} rounds", found, statistics.median(peaks))
    if kind == "fixed" and DTYPE != "bfloat16":
        _default(home, found["released"].speed)


def mixed(home: Path) -> None:
    """Rows of mixed lengths: one epoch of each side, batch by batch in turns. Counting on the way costs all sides about 2%."""
    left = _quietly(lambda: {name: _epoch(_side(home, name, "mixed")) for name in SIDES})
    found = dict.fromkeys(SIDES, Found(0, 0.0, 0, ""))
    peaks = []
    while any(left.values()):
        peaks.append(_peak())
        for name in SIDES:
            if left[name]:
                rows, step = left[name].pop()
                work: list[int] = []
                took = seconds(partial(_count_into, work, step), rounds=1)
                found[name] = found[name].more(rows, took, work[0])
    _print(f"{MIXED} rows of 20 to 400 tokens, 0 to 4 pictures, {ROWS} rows a batch on average; one epoch", found, statistics.median(peaks))


def _count_into(work: list[int], step: Callable[[], object]) -> None:
    work.append(counted(step))


def _default(home: Path, best: float) -> None:
    """Train on a few rows as the released script asks, in bfloat16, where the machine is slow in it."""
    loop = _quietly(lambda: PlainLoop(home / "base", home / "fixed.jsonl", released=True, half=True))
    speed = FEW / seconds(lambda: loop.step(list(range(FEW))), rounds=1)
    print(f"  {'released, in bfloat16':24s} {speed:7.2f} {speed / best:6.2f}   (its default; of {FEW} rows)", flush=True)


def memory(home: Path, side: str, kind: str) -> None:
    """Take two steps of one side and print the process's peak memory in MB, that of the libraries included."""
    torch.set_num_threads(int(os.environ.get("THREADS", "1")))
    _, step = _quietly(lambda: _epoch(_side(home, side, kind)))[0]
    step()
    step()
    print(_peak_memory())


def _peak_memory() -> int:
    """Return this process's peak memory in MB; `ru_maxrss` alone would begin at that of the process which started it."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def prepare(home: Path) -> None:
    """Make the base and the rows."""
    base(home / "base")
    rows = Rows(home / "base", home)
    rows.fixed(ROWS, LENGTH)
    rows.pages(PAGES)
    rows.mixed(MIXED)


def _side(home: Path, side: str, kind: str) -> Ours | PlainLoop:
    data = home / f"{kind}.jsonl"
    if side in ("released", "plain"):
        return PlainLoop(home / "base", data, released=side == "released", half=DTYPE == "bfloat16")
    options = {"budget": ROWS * MEAN} if kind == "mixed" else {"per_device_train_batch_size": PAGES if kind == "pages" else ROWS}
    return Ours(home / "base", data, Path(tempfile.mkdtemp(dir=home)) / "out", **options, **SIDES[side])


def _epoch(side: Ours | PlainLoop) -> list[Step]:
    """Return the steps of an epoch."""
    if isinstance(side, PlainLoop):
        return [(len(numbers), partial(side.step, numbers)) for numbers in side.order(min(ROWS, len(side.rows)))]
    rows = [sum(map(len, side.data.epochs.rows(number)[1])) for number in side.batches(0)]
    return [(count, partial(side.step, number)) for count, number in zip(rows, side.batches(0), strict=True)]


def _print(title: str, found: dict[str, Found], peak: float) -> None:
    """Print one table."""
    print(f"\n{title}; peak {peak / 1e9:.0f} GFLOP/s, {torch.get_num_threads()} thread(s)")
    print(f"  {'':24s} {'rows/s':>7s} {'ratio':>6s} {'GFLOP a row':>12s} {'share of peak':>14s} {'peak memory':>12s}")
    first = next(iter(found.values()))
    for name, one in found.items():
        share = one.work / one.took / peak
        print(
            f"  {name:24s} {one.speed:7.2f} {one.speed / first.speed:6.2f} {one.work / one.rows / 1e9:12.2f} {share:14.0%}"
            f" {one.memory:>12s}",
            flush=True,
        )


def _memory(home: Path, side: str, kind: str) -> int:
    """Return the peak memory in MB of a process that takes two steps of one side."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_pretrain", "--memory", str(home), side, kind],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout.split()[-1])


def _peak() -> float:
    """Return the operations a second of a product of two 2048 x 2048 matrices."""
    size = 2048
    left = torch.randn(size, size, dtype=getattr(torch, DTYPE))
    return 2 * size**3 / seconds(lambda: left @ left)


def parts(home: Path) -> None:
    """Print where a step of ours on rows of one length goes."""
    ours = _quietly(lambda: _side(home, "ours", "fixed"))
    peak = _peak()
    print(f"\nWhere a step of ours goes, {ROWS} rows of {LENGTH} tokens")
    print(f"  {'':40s} {'seconds':>8s} {'share':>6s} {'GFLOP':>7s} {'share of peak':>14s}")
    profiled = profile(ours, 0)
    whole = profiled["a step"][0]
    for name, (took, work) in profiled.items():
        print(f"  {name:40s} {took:8.3f} {took / whole:6.0%} {work / 1e9:7.1f} {work / took / peak if took > 0 else 0:14.0%}")


def _quietly(work: Callable[[], Any]) -> Any:
    """Do something without the library's progress bars and warnings."""
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return work()


if __name__ == "__main__":
    if "--memory" in sys.argv:
        memory(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        main(sys.argv[1:])
