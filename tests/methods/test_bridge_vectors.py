"""What is said of a set of vectors, on sets whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from twoway.methods.bridge.probes import geometry, retrieval


@pytest.mark.parametrize("directions", [1, 2, 5])
def test_the_rank_counts_directions(directions):
    axes = np.eye(8)[:directions]
    vectors = np.concatenate([axes, -axes]) + 0.0
    assert geometry(vectors, vectors)["rank"] == pytest.approx(directions)


def test_equal_vectors_have_no_spread_and_opposite_ones_lie_far_apart():
    same = np.ones((4, 3))
    assert geometry(same, same) == pytest.approx({"rank": 1.0, "uniformity": 0.0, "alignment": 0.0})
    pair = np.array([[1.0, 0.0], [-1.0, 0.0]])
    found = geometry(pair, -pair)
    assert found["uniformity"] == pytest.approx(-8)  # log of exp(-2 x 4)
    assert found["alignment"] == pytest.approx(4)


def test_a_tie_counts_against_and_equal_texts_are_one_answer():
    a = np.eye(2)
    assert retrieval(a, a, ["x", "y"]) == pytest.approx({"recall": 1.0, "reciprocal": 1.0, "candidates": 2.0})
    assert retrieval(a, np.ones((2, 2)), ["x", "y"])["recall"] == 0
    assert retrieval(a, np.ones((2, 2)), ["x", "X "]) == pytest.approx({"recall": 1.0, "reciprocal": 1.0, "candidates": 1.0})
