"""A paired comparison sees what both models share, and says where a difference may be luck."""

from __future__ import annotations

import numpy as np
import pytest

from twoway.evaluation.compare import MEAN, differences


def test_the_interval_is_that_of_the_paired_differences():
    random = np.random.default_rng(0)
    hard = random.random(400)  # how hard an item is, for both alike
    first = (random.random(400) < hard).astype(float)
    second = first.copy()
    second[:20] = 1.0
    (line,) = differences({"one": (first, second)})
    gaps = second - first
    assert line.second - line.first == pytest.approx(gaps.mean())
    assert line.high - line.low == pytest.approx(2 * 1.96 * gaps.std() / 20, rel=0.2)
    assert line.sure


def test_equal_models_do_not_differ_and_the_mean_counts_tasks_alike():
    same = np.array([1.0, 0.0, 1.0, 0.0])
    lines = differences({"small": (same, same), "large": (np.zeros(100), np.ones(100))})
    assert [line.what for line in lines] == ["small", "large", MEAN]
    assert (lines[0].low, lines[0].high, lines[0].sure) == (0.0, 0.0, False)
    assert (lines[2].first, lines[2].second) == (0.25, 0.75)
