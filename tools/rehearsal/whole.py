"""One whole random model of 3.75 billion parameters: converted, checked, and used to embed pages and texts, in bounded memory."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from twoway.errors import TwowayError

from .contents import Contents
from .models import WHOLE, build
from .steps import HOME

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PARAMETERS = 3_754_622_976
FLOAT32 = 4 * PARAMETERS
MOST = {"convert": 1.2}  # times the weights in float32


def rehearse(out: Path) -> int:
    """Convert, check and embed; say time and peak memory of each, and fail where a peak is above its bound."""
    out = out.resolve()
    source, made = out / "models" / "qwen2_5_vl-whole", out / "whole"
    # In a process of its own: what drew the weights keeps gigabytes.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as beside:
        beside.submit(build, "qwen2_5_vl", WHOLE, source).result()
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    data = _rows(made)
    bounds = ["--min-pixels", "200704", "--max-pixels", "802816"]
    lines = ["| step | seconds | peak GB | times float32 weights |", "|---|---:|---:|---:|"]
    for name, words in (
        ("convert", ["convert", str(source), str(made / "model"), *bounds]),
        ("check", ["check", str(made / "model"), "--backends", "sdpa"]),  # each further one takes as long
        ("embed", ["embed", str(made / "model"), "--data", str(data), "--out", str(made / "vectors"), "--device", "cpu"]),
    ):
        seconds, peak = _measured(words)
        lines.append(f"| {name} | {seconds:,.0f} | {peak / 1e9:.1f} | {peak / FLOAT32:.2f} |")
        sys.stdout.write(lines[-1] + "\n")
        if peak > MOST.get(name, 2.0) * FLOAT32:
            raise TwowayError(f"{name} took {peak / 1e9:.1f} GB, more than {MOST.get(name, 2.0)} times the weights in float32")
    (out / "whole.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


def _rows(folder: Path) -> Path:
    """Write two pages and eight texts."""
    contents = Contents(HOME / "samples")
    rows = []
    for number, size in enumerate(((1700, 2200), (1240, 1754))):
        (folder / f"page-{number}.png").write_bytes(contents.page(size))
        rows.append({"image": f"page-{number}.png"})
    rows += [{"text": contents.words(40)} for _ in range(8)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _measured(words: Sequence[str]) -> tuple[float, int]:
    """Run a command of the program; return its seconds and its peak resident memory in bytes."""
    code = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
    code += "sys.stderr.write(f'peak {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}\\n'); sys.exit(done.returncode)"
    began = time.monotonic()
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code, sys.executable, "-m", "twoway", *words], stderr=subprocess.PIPE, text=True, check=False
    )
    seconds = time.monotonic() - began
    if done.returncode:
        raise TwowayError(f"twoway {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, int(done.stderr.strip().splitlines()[-1].split()[1]) * unit
