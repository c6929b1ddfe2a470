"""The nearest vectors are those of a plain sort, whatever the block size, ties included."""

from __future__ import annotations

import numpy as np
import pytest

from twoway.embedding.nearest import nearest


@pytest.mark.parametrize("block", [1, 3, 7, 64])
def test_blocks_change_nothing(block):
    draw = np.random.default_rng(0)
    queries, vectors = draw.integers(-1, 2, (9, 4)), draw.integers(-1, 2, (50, 4))  # so that many scores are equal
    may = draw.random((9, 50)) < 0.7
    may[3] = False
    may[4, 2:] = False
    scores = np.where(may, queries @ vectors.T, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :6]
    best, found = nearest(queries, vectors, 6, allowed=lambda start, stop: may[:, start:stop], block=block)
    right = np.where(np.isfinite(np.take_along_axis(scores, order, 1)), order, -1)
    assert (found == right).all()
    assert (best == np.take_along_axis(scores, order, 1)).all()


def test_fewer_vectors_than_asked_for():
    best, found = nearest(np.ones((2, 3)), np.ones((1, 3)), 4)
    assert found.tolist() == [[0, -1, -1, -1]] * 2
    assert best[0].tolist() == [3, -np.inf, -np.inf, -np.inf]
