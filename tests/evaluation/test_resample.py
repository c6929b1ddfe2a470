"""Items that share a picture are drawn together, over tasks; every column gets the same draw."""

from __future__ import annotations

import numpy as np
import pytest

from twoway.evaluation.metrics import clusters, drawn_means, interval


def test_items_that_share_a_mark_are_one_cluster_through_others_too():
    found = clusters({"one": [["a"], ["b"], ["c"], []], "two": [["b", "c"], ["d"], []]})
    assert found["one"][1] == found["one"][2] == found["two"][0]
    everything = [*found["one"], *found["two"]]
    assert len(set(everything)) == 5
    assert set(everything) == set(range(5))


def test_two_tasks_on_the_same_pictures_are_as_sure_as_one():
    scores = np.random.default_rng(0).random((300, 1))
    marks = [[str(number)] for number in range(300)]
    both = {"there": scores, "back": scores}
    together = drawn_means(both, {"there": marks, "back": marks})
    apart = drawn_means(both)
    assert (together["there"] == together["back"]).all()
    spread = [np.mean(list(one.values()), axis=0).std() for one in (together, apart)]
    assert spread[0] == pytest.approx(scores.std() / np.sqrt(300), rel=0.1)
    assert spread[1] == pytest.approx(spread[0] / np.sqrt(2), rel=0.1)


def test_columns_are_drawn_alike_and_a_task_of_one_item_keeps_it():
    scores = np.random.default_rng(1).random((50, 1))
    found = drawn_means({"many": np.hstack([scores, scores + 0.25]), "single": np.array([[0.5]])}, draws=300)
    assert found["many"][:, 1] - found["many"][:, 0] == pytest.approx(np.full(300, 0.25), abs=1e-6)
    assert found["single"] == pytest.approx(np.full((300, 1), 0.5))


def test_an_interval_holds_the_mean_and_shrinks_with_items():
    random = np.random.default_rng(2)
    few, many = random.random(50), random.random(5000)
    low, high = interval(few)
    assert low < few.mean() < high
    assert interval(many)[1] - interval(many)[0] == pytest.approx((high - low) / 10, rel=0.3)
    assert high - low == pytest.approx(2 * 1.96 * few.std() / np.sqrt(50), rel=0.15)


def test_four_questions_about_each_picture_are_as_sure_as_one():
    scores = np.random.default_rng(3).random(100)
    four = interval(np.repeat(scores, 4), [[str(number)] for number in range(100) for _ in range(4)])
    assert four == pytest.approx(interval(scores), abs=1e-6)
    assert np.diff(interval(np.repeat(scores, 4)))[0] == pytest.approx(np.diff(four)[0] / 2, rel=0.15)
