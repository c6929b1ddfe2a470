"""`twoway serve` under load: 64 clients, mixed sizes, bad requests among them; beside servers that make no batches; and for a while.

`python -m benchmarks serve`, or `python -m benchmarks.bench_serve --soak 600` for a longer soak. The server has a core of its own where
there are two. It fails where an answer is of the server's fault (5xx), is not what it should be, or where memory grows.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

import twoway
from twoway.data.sources.samples import samples_folder

from .serve_load import Heard, drive, good, mixed

if TYPE_CHECKING:
    from collections.abc import Iterator

_GROWTH = 1.15  # what the second half of a soak may need over the first


def main(argv: list[str] | None = None) -> None:
    """Compare, then soak."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--documents", type=int, default=600, help="of the comparison; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--soak", type=float, default=60, help="seconds; 0 leaves it out")
    parser.add_argument("--bad", type=float, default=0.2, help="share of bad requests in the soak")
    parser.add_argument("--dtype", default="float32", help="of all servers: float32 or bfloat16")
    parser.add_argument("--model", help="folder of a model (default: the shipped base, converted)")
    args = parser.parse_args(argv or [])
    core = _apart()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if args.model is None:
            args.model = str(folder / "model")
            twoway.convert(samples_folder() / "base", args.model, dtype="float32")
        (folder / "pictures").mkdir()
        if args.documents:
            compare(args, folder, core)
        if args.soak:
            soak(args, folder, core)


def compare(args: argparse.Namespace, folder: Path, core: int | None) -> None:
    """Send the same requests to servers that take one document at a time and to one that makes batches, in turns."""
    mix = good(folder / "pictures", args.documents)
    short = [one for one in mix if one.kind == "short text"] * 4
    ours = [sys.executable, "-m", "twoway", "serve", args.model, "--port", "0", "--device", "cpu", "--dtype", args.dtype]
    servers = {
        "encode, a request at a time": [sys.executable, "-m", "benchmarks.serve_plain", args.model, args.dtype],
        "twoway, a document at a time": [*ours, "--batch-size", "1"],
        "twoway": ours,
    }
    for title, asked in {"the mix": mix, "short texts": short}.items():
        found: dict[str, list[tuple[Heard, float]]] = {name: [] for name in servers}
        for _ in range(args.rounds):
            for name, command in servers.items():
                with server(command, core) as (url, process):
                    warm(url)
                    before = worked(process.pid)
                    heard = run(url, iter(asked), args.clients)
                    found[name].append((heard, worked(process.pid) - before))
                    _fail_on(heard)
        print(f"\n{title}: {args.clients} clients, {len(asked)} requests of {sum(one.documents for one in asked)} documents, {args.dtype}")
        print(f"  {'':30s} {'documents/s':>12s} {'ratio':>6s} {'a CPU second':>13s} {'ratio':>6s} {'p50 s':>7s} {'p95 s':>7s}")
        first: tuple[float, float] | None = None
        for name, rounds in found.items():
            rate = statistics.median(heard.documents / heard.wall for heard, _ in rounds)
            work = statistics.median(heard.documents / seconds for heard, seconds in rounds)
            first = first or (rate, work)
            p50, p95 = (statistics.median(heard.quantile(share) for heard, _ in rounds) for share in (0.5, 0.95))
            print(f"  {name:30s} {rate:12.1f} {rate / first[0]:6.2f} {work:13.1f} {work / first[1]:6.2f} {p50:7.3f} {p95:7.3f}")


def soak(args: argparse.Namespace, folder: Path, core: int | None) -> None:
    """Load a server for a while, with bad requests, and watch its memory."""
    good_ones = good(folder / "pictures", 400, seed=1)
    command = [sys.executable, "-m", "twoway", "serve", args.model, "--port", "0", "--device", "cpu", "--dtype", args.dtype]
    with server(command, core) as (url, process):
        warm(url)
        with watched(process.pid) as held:
            heard = run(url, mixed(good_ones, args.bad), args.clients, args.soak)
        settled = httpx.get(f"{url}metrics").text
    _fail_on(heard)
    half = len(held) // 2
    early, late = max(held[:half]), max(held[half:])
    total = sum(heard.statuses.values())
    print(f"\nsoak: {args.clients} clients, {heard.wall:.0f} s, {total:,} requests, {heard.documents:,} documents embedded")
    print(f"  good ones: p50 {heard.quantile(0.5):.3f} s, p95 {heard.quantile(0.95):.3f} s")
    for status in sorted({status for _, status in heard.statuses}):
        kinds = ", ".join(f"{count} {kind}" for (kind, one), count in sorted(heard.statuses.items()) if one == status)
        print(f"  {status or 'left'}: {kinds}")
    print(f"  resident memory: {held[0]:.0f} MiB at first, at most {early:.0f} in the first half, {late:.0f} in the second")
    print("  " + "; ".join(re.findall(r"^(twoway_(?:queue_documents|documents_left_queue_total) [\d.]+)", settled, re.MULTILINE)))
    if late > early * _GROWTH:
        raise SystemExit("memory grows")


def run(url: str, asked: Iterator[Any], clients: int, seconds: float | None = None) -> Heard:
    """Drive a server."""
    return asyncio.run(drive(url, asked, clients=clients, seconds=seconds))


def warm(url: str) -> None:
    """Have first times behind."""
    for words in ("one", "a few words more"):
        httpx.post(f"{url}v1/embeddings", json={"input": [words] * 8}, timeout=60).raise_for_status()


@contextmanager
def server(command: list[str], core: int | None) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Start a real program, on a core of its own where one is given, and stop it as a supervisor does."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    try:
        lines = iter(process.stderr.readline, "")  # type: ignore[union-attr]
        url = next((found[0] for line in lines if (found := re.search(r"http://\S+", line))), None)
        if url is None:
            raise SystemExit("the server did not start")
        threading.Thread(target=lambda: list(lines), daemon=True).start()
        yield url, process
        process.terminate()
        if process.wait(timeout=60) not in (0, -signal.SIGTERM):
            raise SystemExit(f"the server ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()


def _apart() -> int | None:
    """Keep to all cores but one, and return that, for the server: clients that take its time would be measured with it."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(cores) < 2:
        return None
    os.sched_setaffinity(0, cores[1:])
    return cores[0]


def worked(pid: int) -> float:
    """Return the CPU seconds of a process, which other work on the machine does not change."""
    said = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(said[11]) + int(said[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def watched(pid: int) -> Iterator[list[float]]:
    """Note a process's resident memory twice a second, in MiB."""
    held: list[float] = []
    over = threading.Event()

    def look() -> None:
        while True:
            said = Path(f"/proc/{pid}/status").read_text()
            held.append(int(re.search(r"VmRSS:\s+(\d+)", said)[1]) / 1024)  # type: ignore[index]
            if over.wait(0.5):
                return

    thread = threading.Thread(target=look)
    thread.start()
    start = time.monotonic()
    try:
        yield held
    finally:
        over.set()
        thread.join()
        if time.monotonic() - start < 1:
            held *= 2


def _fail_on(heard: Heard) -> None:
    broken = [f"{kind}: {status}" for kind, status in heard.statuses if status >= 500]
    if broken or heard.unexpected:
        raise SystemExit("\n".join([*broken, *heard.unexpected[:10]]))


if __name__ == "__main__":
    main(sys.argv[1:])
