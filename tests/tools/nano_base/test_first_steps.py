"""The command's first steps on the shipped samples give the recorded losses: rows, tokenizer, initialisation and loop have not changed.

They were recorded in float32, and the tolerance covers bfloat16 and other processors; the rows are compared exactly.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tools.nano_base.base import Nano, prepare
from tools.nano_base.config import NanoConfig
from tools.nano_base.loop import train_step
from tools.nano_base.optimiser import MuonAndAdamW

from .conftest import SAMPLES

RECORDED = json.loads((Path(__file__).parent / "first_steps.json").read_text())


@pytest.fixture(scope="module")
def shipped() -> Nano:
    """Return the shipped base's own run, before its first step."""
    torch.set_num_threads(1)
    return prepare(NanoConfig(), SAMPLES)


def losses(nano: Nano, steps: int) -> list[float]:
    optimiser = MuonAndAdamW(nano.forward.model, nano.config)
    nano.forward.model.train()
    return [train_step(nano.forward, nano.rows.batch(step), optimiser, nano.config, step) for step in range(steps)]


def test_first_steps_follow_the_recorded_curve(shipped):
    assert shipped.rows.batch(0).ids[:, -8:].sum() + shipped.rows.batch(1000).targets.sum() == RECORDED["rows"]
    assert losses(shipped, 2) == pytest.approx(RECORDED["losses"][:2], abs=RECORDED["tolerance"])
