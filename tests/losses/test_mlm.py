"""Masked words: what counts, what does not, and that chunks change nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from twoway.losses.masked_lm import NO_TARGET, word_loss

ROWS, LENGTH, WIDTH, WORDS = 3, 7, 8, 11


@pytest.fixture
def case():
    torch.manual_seed(0)
    hidden = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
    labels = torch.randint(WORDS, (ROWS, LENGTH)).masked_fill(torch.rand(ROWS, LENGTH) < 0.5, NO_TARGET)
    return hidden, labels, nn.Linear(WIDTH, WORDS, bias=False)


def test_equal_scores_give_log_of_the_vocabulary(case):
    hidden, labels, _ = case
    loss = word_loss(hidden, labels, lambda states: torch.zeros(len(states), WORDS) + 0 * states.sum(), shift=False)
    assert loss.mean.item() == pytest.approx(math.log(WORDS))


def test_positions_without_a_target_have_no_gradient(case):
    hidden, labels, head = case
    word_loss(hidden, labels, head, shift=False).mean.backward()
    assert torch.equal(hidden.grad.abs().sum(-1) > 0, labels != NO_TARGET)


def test_shift_predicts_from_the_position_before(case):
    hidden, labels, head = case
    word_loss(hidden, labels, head, shift=True).mean.backward()
    moved = hidden.grad.abs().sum(-1) > 0
    assert torch.equal(moved[:, :-1], labels[:, 1:] != NO_TARGET)
    assert not moved[:, -1].any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_with_shift_the_first_real_token_has_no_target_on_either_padding_side(side):
    hidden, head = torch.randn(1, 4, WIDTH), nn.Linear(WIDTH, WORDS)
    real, pad = torch.ones(1, 3, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
    mask = torch.cat([pad, real] if side == "left" else [real, pad], 1)
    labels = torch.where(mask.bool(), 5, NO_TARGET)
    assert word_loss(hidden, labels, head, shift=True, mask_BL=mask).count == 2


def test_chunks_change_neither_loss_nor_gradient(case):
    hidden, labels, head = case
    grads = []
    for chunk in (1, 3, 1024):
        hidden.grad = head.weight.grad = None
        loss = word_loss(hidden, labels, head, chunk=chunk).mean
        loss.backward()
        grads.append((loss.detach(), hidden.grad.clone(), head.weight.grad.clone()))
    for other in grads[1:]:
        for one, two in zip(grads[0], other, strict=True):
            torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_no_target_at_all_is_zero_and_still_tied_to_the_states(case):
    hidden, labels, head = case
    loss = word_loss(hidden, torch.full_like(labels, NO_TARGET), head)
    loss.mean.backward()
    assert loss.count == 0
    assert loss.mean.item() == 0
    assert not hidden.grad.any()
