"""Benchmarks that train with several seeds: their options, what their trainings share, and tables of means with intervals."""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TASK, TEST = "picture-name", "samples:test"
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
COMMON: dict[str, Any] = {
    "dtype": "float32",
    "budget": 2048,
    "max_length": 512,
    "held_out": 0,
    "dataloader_num_workers": 0,
    "max_grad_norm": 1.0,
    "save_steps": 10_000,
}


def options(name: str, about: str | None) -> argparse.ArgumentParser:
    """Return the options of a benchmark that keeps each run in a folder of its own."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", default="samples/base")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--show", action="store_true", help="print the tables of what is there")
    return parser


def tested(count: int) -> list[Any]:
    """Return pairs of a picture and its name, of concepts that no training here showed; the first of a fixed random order."""
    from twoway.data.sources.samples import pairs

    return [pair for pair in pairs(TEST.partition(":")[2]) if pair.task == TASK][:count]


def recall(model: Path, count: int) -> float:
    """Return the mean of one over the place of the right name, as anybody embeds with the model."""
    from twoway.embedding import open_embedder
    from twoway.methods.bridge.probes import retrieval

    rows = tested(count)
    embedder = open_embedder(model, device="cpu", dtype="float32")
    a, b = (embedder.array([getattr(one, side) for one in rows]) for side in ("query", "positive"))
    return retrieval(a, b, ["".join(one.positive.texts) for one in rows])["reciprocal"]


def print_tables(table: Mapping[str, Mapping[int, Mapping[str, Any]]], columns: Mapping[str, str], first: str, digits: int = 3) -> None:
    """Print each way's means over seeds, and its differences to the first way, called `first`, seed by seed."""
    way = next(iter(table.values()))
    means, paired = {}, {}
    for name, runs in table.items():
        means[name] = {key: _interval([run[key] for run in runs.values()], digits) for key in columns.values()}
        both = [(run, way[seed]) for seed, run in runs.items() if seed in way]
        paired[name] = {key: _interval([run[key] - to[key] for run, to in both], digits) for key in columns.values()}
    _print("mean over seeds", means, columns)
    _print(f"difference to {first}, seed by seed", {name: cells for name, cells in paired.items() if table[name] is not way}, columns)


def _interval(values: list[float], digits: int) -> str:
    if not values:
        return "–"
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    half = T95[min(len(values), 5)] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.{digits}f} ± {half:.{digits}f}"


def _print(title: str, rows: Mapping[str, Mapping[str, str]], columns: Mapping[str, str]) -> None:
    print(f"\n| {title} | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells[key] for key in columns.values()) + " |")
