"""The rate: up, down, never zero, and a function of the step alone."""

from __future__ import annotations

import pytest

from twoway.training.trainer import learning_rate_at


@pytest.mark.parametrize(("total", "warmup"), [(100, 0.1), (7, 0.1), (1, 0.1), (10, 0.0), (10, 3), (10, 10), (10, 1)])
def test_it_rises_to_the_peak_and_falls_to_almost_nothing(total, warmup):
    rates = [learning_rate_at(step, total, 2e-6, warmup) for step in range(total)]
    assert max(rates) == pytest.approx(2e-6)
    assert min(rates) > 0
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    rising = round(total * warmup) if warmup < 1 else warmup
    assert top == max(0, rising - 1)
