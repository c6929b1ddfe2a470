"""A corner of the shipped world, and a model far smaller than nano, so that whole runs take seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tools.nano_base.base import Nano, prepare
from tools.nano_base.config import NanoConfig

SAMPLES = Path(__file__).parents[3] / "samples"
CONCEPTS = 48
TINY = NanoConfig(
    vocabulary=400,
    width=32,
    layers=2,
    heads=2,
    kv_heads=1,
    mlp=48,
    tower_width=32,
    tower_layers=1,
    tower_heads=2,
    batch=8,
    text_rows=2,
    rows=48,
    warmup=2,
    tower_rows=16,
    tower_batch=8,
    tables=("concepts", "pictures"),
    dtype="float32",
)


@pytest.fixture(scope="session")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the tables cut to a few concepts of every kind."""
    folder = tmp_path_factory.mktemp("corner")
    concepts = pq.read_table(SAMPLES / "concepts.parquet")
    kept = concepts.take(list(range(0, len(concepts), len(concepts) // CONCEPTS)))
    pictures = pq.read_table(SAMPLES / "pictures.parquet")
    known = set(kept["concept"].to_pylist())
    pq.write_table(kept, folder / "concepts.parquet")
    pq.write_table(pictures.filter([name in known for name in pictures["concept"].to_pylist()]), folder / "pictures.parquet")
    return folder


@pytest.fixture(scope="session")
def tiny(corner: Path) -> Nano:
    """Return a prepared tiny run; do not train it."""
    return prepare(TINY, corner)


@pytest.fixture(autouse=True)
def _light_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run of a few steps not be mostly probes."""
    monkeypatch.setattr("tools.nano_base.loop.PROBE_ROWS", 4)
    monkeypatch.setattr("tools.nano_base.loop.PROBES", 1)
    monkeypatch.setattr("tools.nano_base.loop.LOG_STEPS", 1)


@pytest.fixture
def config() -> NanoConfig:
    """Return the tiny configuration."""
    return dataclasses.replace(TINY)
