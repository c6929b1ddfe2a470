"""Losses that follow a teacher's scores, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from twoway.errors import UsageError
from twoway.losses.distillation import distillation_loss

STUDENT = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 9.0]])
TEACHER = torch.tensor([[1.0, 1.0, 0.0], [3.0, 1.0, 9.0]])
THERE = torch.tensor([[True, True, True], [True, True, False]])


def softmax(*scores):
    total = sum(map(math.exp, scores))
    return [math.exp(one) / total for one in scores]


def divergence(teacher, student):
    return sum(p * math.log(p / q) for p, q in zip(softmax(*teacher), softmax(*student), strict=True))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kl", divergence((1, 1, 0), (2, 1, 0)) + divergence((3, 1), (0, 1))),
        ("margin-mse", ((1 - 0) ** 2 + (2 - 1) ** 2) / 2 + (-1 - 2) ** 2),
    ],
)
def test_each_loss_is_the_sum_over_queries(name, expected):
    loss = distillation_loss(name, STUDENT, TEACHER, THERE)
    assert (float(loss.total), loss.count) == (pytest.approx(expected, rel=1e-6), 2)


@pytest.mark.parametrize("name", ["kl", "margin-mse"])
def test_a_student_that_scores_as_its_teacher_has_nothing_to_learn(name):
    student = (TEACHER + 5.0).requires_grad_()
    loss = distillation_loss(name, student, TEACHER, THERE)
    loss.total.backward()
    assert float(loss.total) == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-6, rtol=0)


def test_a_place_without_a_candidate_has_no_part_in_it():
    student = STUDENT.clone().requires_grad_()
    distillation_loss("kl", student, TEACHER.masked_fill(~THERE, torch.nan).nan_to_num(), THERE).total.backward()
    assert float(student.grad[1, 2]) == 0.0
    assert student.grad.isfinite().all()


def test_an_unknown_loss_is_named_with_what_there_is():
    with pytest.raises(UsageError, match=r"no loss of a teacher 'margin_mse'; did you mean margin-mse\? \(there are: kl, margin-mse\)"):
        distillation_loss("margin_mse", STUDENT, TEACHER, THERE)
