"""Scores follow their definitions, ties are no hits, and chance is what random rankings score."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from twoway.errors import UsageError
from twoway.evaluation.metrics import METRICS, Outcome, chance, outcome, value, values


def at(*places: int, size: int = 10) -> Outcome:
    return Outcome(places, size, tied=False, found=())


def test_a_right_candidate_stands_behind_all_that_score_at_least_as_high():
    found = outcome(np.array([0.5, 0.9, 0.5, 0.1], np.float32), [0])
    assert (found.places, found.tied, found.found) == ((3,), True, (1, 2, 0, 3))
    assert outcome(np.array([0.5, 0.4], np.float32), [0]).places == (1,)


def test_a_model_that_gives_everything_the_same_vector_has_no_hit():
    found = outcome(np.zeros(7, np.float32), [0])
    assert (found.places, value("precision@1", found)) == ((7,), 0.0)


def test_several_right_candidates_do_not_stand_in_each_others_way():
    assert outcome(np.array([0.9, 0.8, 0.7, 0.6], np.float32), [1, 0, 3]).places == (1, 2, 4)


@pytest.mark.parametrize(
    ("metric", "found", "expected"),
    [
        ("precision@1", at(1), 1.0),
        ("precision@1", at(2), 0.0),
        ("mrr", at(4), 0.25),
        ("recall@5", at(2, 6), 0.5),
        ("ndcg@5", at(1), 1.0),
        ("ndcg@5", at(3), 0.5),
        ("ndcg@5", at(6), 0.0),
        ("ndcg@5", at(1, 3), (1 + 0.5) / (1 + 1 / math.log2(3))),
        ("ndcg@5", at(*range(1, 9)), 1.0),
    ],
)
def test_metrics_by_hand(metric, found, expected):
    assert value(metric, found) == pytest.approx(expected)


def test_an_unknown_metric_is_named():
    with pytest.raises(UsageError, match=r"'mapp' \(there are: precision@1"):
        value("mapp", at(1))


@pytest.fixture(scope="module")
def drawn():
    """Outcomes of 200 times 50 items with random scores, by how many of 12 candidates are right."""

    def draw(right):
        random = np.random.default_rng(1)
        return [[outcome(random.random(12).astype(np.float32), range(right)) for _ in range(50)] for _ in range(200)]

    return {right: draw(right) for right in (1, 3)}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("right", [1, 3])
def test_chance_is_what_random_scores_give(metric, right, drawn):
    scores = [values(metric, found).mean() for found in drawn[right]]
    luck = chance(metric, [12] * 50, [right] * 50)
    assert luck.mean == pytest.approx(np.mean(scores), abs=0.014)
    assert np.mean([luck.low <= score <= luck.high for score in scores]) > 0.9
    assert luck.high - luck.low < 0.4


def test_chance_among_many_candidates_takes_little_memory():
    size, count = 20_000, 7
    tracemalloc.start()
    luck = chance("mrr", [size] * count, [1] * count, draws=500)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 60 << 20
    possible = np.sort(1.0 / np.arange(1, size + 1))
    means = np.random.default_rng(0).multinomial(count, np.full(size, 1 / size), size=500) @ possible / count
    assert (luck.low, luck.high) == pytest.approx(np.quantile(means, [0.025, 0.975]))
