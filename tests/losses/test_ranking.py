"""Losses on the scores of a query's candidates, against numbers worked out by hand and sentence-transformers' own."""

from __future__ import annotations

import math

import pytest
import torch

from twoway.errors import UsageError
from twoway.losses.ranking import ranking_loss

SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.5, 1.5, 9.0]])
THERE = torch.tensor([[True, True, True], [True, True, False]])


def soft(value):
    return math.log1p(math.exp(value))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pointwise", (soft(-2) + soft(1) + soft(0)) / 3 + (soft(-0.5) + soft(1.5)) / 2),
        ("pairwise", (soft(-1) + soft(-2)) / 2 + soft(1.0)),
        ("listwise", math.log(math.exp(2) + math.exp(1) + 1) - 2 + math.log(math.exp(0.5) + math.exp(1.5)) - 0.5),
    ],
)
def test_each_loss_is_the_sum_over_queries_of_the_mean_over_candidates(name, expected):
    loss = ranking_loss(name, SCORES, THERE)
    assert (float(loss.total), loss.count) == (pytest.approx(expected, rel=1e-6), 2)


@pytest.mark.parametrize("name", ["pointwise", "pairwise", "listwise"])
def test_a_place_without_a_candidate_has_no_part_in_it(name):
    scores = SCORES.clone().requires_grad_()
    ranking_loss(name, scores, THERE).total.backward()
    assert float(scores.grad[1, 2]) == 0.0
    assert scores.grad[:, 0].lt(0).all()  # more for the right one lowers the loss
    assert scores.grad[0, 1:].gt(0).all()


def test_an_unknown_loss_is_named_with_what_there_is():
    with pytest.raises(
        UsageError, match=r"there is no loss 'listwize'; did you mean listwise\? \(there are: pointwise, pairwise, listwise\)"
    ):
        ranking_loss("listwize", SCORES, THERE)
