"""The rate: up, down, never zero, and a function of the step alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import get_scheduler

from twoway.errors import UsageError
from twoway.training.config import TrainConfig
from twoway.training.trainer import learning_rate_at


def rates_of(total: int, **given: Any) -> list[float]:
    config = TrainConfig(learning_rate=2e-6, **given)
    return [learning_rate_at(step, total, config) for step in range(total)]


@pytest.mark.parametrize("kind", ["linear", "cosine", "warmup_stable_decay"])
@pytest.mark.parametrize(("total", "warmup"), [(100, 0.1), (7, 0.1), (1, 0.1), (10, 0.0), (10, 3), (10, 10), (10, 1)])
def test_it_rises_to_the_peak_and_falls_to_almost_nothing(total, warmup, kind):
    rates = rates_of(total, warmup_steps=warmup, lr_scheduler_type=kind, decay_steps=5)
    assert max(rates) == pytest.approx(2e-6)
    assert min(rates) > 0
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    rising = round(total * warmup) if warmup < 1 else warmup
    assert top == max(0, rising - 1)
    if total - rising > 5:
        assert rates[-1] < 0.3 * 2e-6


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("linear", {}),
        ("cosine", {}),
        ("constant_with_warmup", {}),
        ("warmup_stable_decay", {"num_decay_steps": 10, "decay_type": "linear"}),
    ],
)
def test_it_is_the_rate_that_transformers_has_by_this_name(kind, more):
    """Ours rises one step earlier, so that the first is none at rate zero; from the warm-up's end on both are one."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-6)
    theirs = get_scheduler(kind, optimizer, 5, 40, scheduler_specific_kwargs=more)
    ours = rates_of(40, warmup_steps=5, lr_scheduler_type=kind, decay_steps=10)
    for step, rate in enumerate(ours):
        if step >= 5:
            assert rate == pytest.approx(theirs.get_last_lr()[0], rel=1e-6), step
        optimizer.step()
        theirs.step()


def test_it_stays_until_the_last_steps():
    rates = rates_of(100, warmup_steps=0.1, lr_scheduler_type="warmup_stable_decay", decay_steps=0.25)
    assert rates[9:76] == [2e-6] * 67
    assert rates[-1] == pytest.approx(2e-6 / 25)
    assert rates_of(100, warmup_steps=0.1, lr_scheduler_type="warmup_stable_decay", decay_steps=25) == rates
    assert rates_of(100, warmup_steps=0, lr_scheduler_type="constant_with_warmup") == [2e-6] * 100


def test_a_fall_longer_than_what_is_left_begins_after_the_warm_up():
    longer = rates_of(20, warmup_steps=5, lr_scheduler_type="warmup_stable_decay", decay_steps=400)
    assert longer == pytest.approx(rates_of(20, warmup_steps=5))


def test_a_part_of_a_step_is_refused():
    with pytest.raises(UsageError, match=r"decay_steps is a whole number of steps, or a share of them below 1, not 2\.5"):
        TrainConfig(decay_steps=2.5)
