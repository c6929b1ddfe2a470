"""Compiled kernels are kept within a limit, and who sets one is obeyed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from twoway.models import kernels

GROWTH = """
import sys, torch
from pathlib import Path
from twoway.models.kernels import keep_few
torch.set_num_threads(1)
if sys.argv[1] == "few":
    keep_few()
def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
weight = torch.randn(256, 128)
def products(lengths):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for length in lengths:
            torch.nn.functional.linear(torch.ones(length, 128), weight)
products(range(1, 100))
before = megabytes()
products(range(100, 700))
sys.stdout.write(str(megabytes() - before))
"""


def test_a_limit_that_is_set_already_stands(monkeypatch):
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    kernels.keep_few()
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(kernels.KEPT)


@pytest.mark.slow
def test_ever_new_shapes_grow_a_process_less():
    plain = {key: value for key, value in os.environ.items() if not key.endswith("CACHE_CAPACITY")}
    grown = {
        name: float(subprocess.run([sys.executable, "-c", GROWTH, name], check=True, capture_output=True, text=True, env=plain).stdout)
        for name in ("few", "all")
    }
    assert grown["few"] < max(20, grown["all"] / 2)
