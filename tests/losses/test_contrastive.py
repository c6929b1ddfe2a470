"""The contrastive loss against what can be worked out by hand and against plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from twoway.errors import UsageError
from twoway.losses.candidates import denominator, false_negatives, ranking, same_group, too_near
from twoway.losses.contrastive import contrastive_loss
from twoway.losses.matryoshka import matryoshka_loss

Q, C, D = 7, 17, 6


def drawn(seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    queries, candidates = (torch.randn(n, D, generator=draw, dtype=dtype) for n in (Q, C))
    return queries, candidates, torch.randperm(C, generator=draw)[:Q], torch.rand(Q, C, generator=draw) < 0.6


def by_loops(queries, candidates, positive, allowed, temperature):
    total = 0.0
    for row, query in enumerate(queries):
        scores = [float(query @ one / query.norm() / one.norm()) / temperature for one in candidates]
        seen = [score for number, score in enumerate(scores) if allowed[row, number] or number == positive[row]]
        total += math.log(sum(math.exp(score) for score in seen)) - scores[positive[row]]
    return total


@pytest.mark.parametrize("chunk", [2, 100])
def test_it_is_what_loops_in_float64_give(chunk):
    queries, candidates, positive, allowed = drawn()
    loss = contrastive_loss(queries, candidates, positive, allowed, temperature=0.1, chunk=chunk)
    assert float(loss.total) == pytest.approx(by_loops(queries, candidates, positive, allowed, 0.1), rel=1e-12)
    assert loss.count == Q
    everything = contrastive_loss(queries, candidates, positive, temperature=0.1, chunk=chunk)
    assert float(everything.total) == pytest.approx(by_loops(queries, candidates, positive, torch.ones(Q, C), 0.1), rel=1e-12)


def test_chunks_change_no_gradient():
    gradients = []
    for chunk in (2, 100):
        given = [one.requires_grad_() for one in drawn()[:2]]
        warm = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
        _, _, positive, allowed = drawn()
        contrastive_loss(*given, positive, allowed, temperature=warm, chunk=chunk).total.backward()
        gradients.append([*(one.grad for one in given), warm.grad])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right)


def test_the_gradient_is_that_of_the_numbers():
    queries, candidates, positive, allowed = drawn()
    warm = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def total(left, right, temperature):
        return matryoshka_loss(contrastive_loss, left, right, positive, allowed, temperature=temperature, dims=(2, D)).total

    assert torch.autograd.gradcheck(total, (queries.requires_grad_(), candidates.requires_grad_(), warm))


@pytest.mark.parametrize("negatives", [0, 1, 5])
def test_equal_scores_give_the_log_of_the_number_of_candidates(negatives):
    queries, candidates = torch.ones(3, D), 2 * torch.ones(3 * (1 + negatives), D)
    allowed = denominator("own", torch.arange(3), torch.arange(3).repeat(1 + negatives), torch.ones(len(candidates), dtype=torch.bool))
    loss = contrastive_loss(queries, candidates, torch.arange(3), allowed, temperature=0.03)
    assert float(loss.mean) == pytest.approx(math.log(1 + negatives), abs=1e-5)
    loss = contrastive_loss(queries, candidates, torch.arange(3), temperature=0.03)
    assert float(loss.mean) == pytest.approx(math.log(len(candidates)), rel=1e-5)


def test_denominators_with_ragged_negatives():
    # Rows 0 to 2; row 0 has two hard negatives, row 1 none, row 2 one.
    owner, is_positive = torch.tensor([0, 1, 2, 0, 0, 2]), torch.tensor([1, 1, 1, 0, 0, 0]).bool()
    rows = torch.arange(3)
    expected = {
        "own": [[1, 0, 0, 1, 1, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1]],
        "positives": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 1]],
        "all": [[1] * 6] * 3,
    }
    for kind, mask in expected.items():
        assert denominator(kind, rows, owner, is_positive).int().tolist() == mask
    assert same_group(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1])[owner]).int().tolist()[2] == [0, 0, 1, 0, 0, 1]
    with pytest.raises(UsageError, match="unknown negatives 'al'; did you mean"):
        denominator("al", rows, owner, is_positive)


def test_what_answers_as_well_is_no_negative():
    queries = torch.tensor([1, 1, 2, 3])  # rows 0 and 1 ask the same
    positives = torch.tensor([10, 11, 10, 12])  # rows 0 and 2 are answered by the same
    candidates = torch.tensor([10, 11, 10, 12, 20, 12, 3, 11])
    masked = false_negatives(queries, queries, positives, candidates)
    assert masked.int().tolist() == [
        [1, 1, 1, 0, 0, 0, 0, 1],
        [1, 1, 1, 0, 0, 0, 0, 1],
        [1, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 1, 1, 0],  # its own copy too
    ]
    none = torch.zeros(0, dtype=torch.long)
    assert false_negatives(none, none, none, none).shape == (0, 0)


def test_too_near_is_measured_from_the_positive():
    similar, positive = torch.tensor([[0.8, 0.7, 0.9, -0.5]]), torch.tensor([0])
    assert too_near(similar, positive, margin=0.0).tolist() == [[False, False, True, False]]
    assert too_near(similar, positive, margin=0.15).tolist() == [[True, True, True, False]]
    assert too_near(similar, positive, margin=0.05, relative=True).tolist() == [[True, False, True, False]]


def test_cut_vectors_are_vectors_of_their_own():
    queries, candidates, positive, allowed = drawn()
    cut = [contrastive_loss(queries[:, :n], candidates[:, :n], positive, allowed, temperature=0.1).total for n in (2, 4)]
    both = matryoshka_loss(contrastive_loss, queries, candidates, positive, allowed, temperature=0.1, dims=(2, 4))
    torch.testing.assert_close(both.total, (cut[0] + cut[1]) / 2)


def test_ranking_looks_at_what_a_query_may_see():
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    candidates = torch.tensor([[1.0, 0.1], [1.0, 0.0], [-1.0, -1.0]])
    allowed = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 0]]).bool()
    for chunk in (1, 9):
        found = ranking(queries, candidates, torch.tensor([0, 1, 2]), allowed, chunk=chunk)
        assert found.right.tolist()[:2] == [True, False]
        assert found.right.tolist()[2]  # nothing to lose against
        assert found.hardest[2].isnan()
        assert float(found.hardest[0]) == pytest.approx(-math.sqrt(0.5), abs=1e-5)


@pytest.mark.parametrize("temperature", [0, -0.1, math.inf, math.nan])
def test_a_temperature_is_above_zero(temperature):
    queries, candidates, positive, _ = drawn()
    with pytest.raises(UsageError, match="the temperature must be above 0"):
        contrastive_loss(queries, candidates, positive, temperature=temperature)


def test_a_vector_cannot_be_cut_to_more_than_it_has():
    queries, candidates, positive, _ = drawn()
    with pytest.raises(UsageError, match="1 to 6 numbers"):
        matryoshka_loss(contrastive_loss, queries, candidates, positive, temperature=0.1, dims=(7,))
