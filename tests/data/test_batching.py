"""Plans: every row once, nothing above the budget, little padding, the same global batches for any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from twoway.data.config import CostWeights
from twoway.data.sampler import RowCosts, plan_batches, row_cost
from twoway.errors import TwowayError, UsageError

WEIGHTS = CostWeights(image_token=1.5, image=20)


def epoch(count, seed=0):
    """Rows in a random order with costs as web data has them: a long tail of texts, and pictures for two rows in three."""
    draw = np.random.default_rng([seed, 1])
    text = np.minimum(draw.lognormal(4, 1, count).astype(int) + 8, 2048)
    images = draw.integers(0, 3, count)
    costs = RowCosts.of(text, images * draw.integers(16, 256, count), images, WEIGHTS)
    return draw.permutation(count), costs


def prices(made, rows, costs):
    """The cost of each batch, counted row by row."""
    where = np.argsort(rows)
    found = []
    for step in range(len(made)):
        for batch in made.batch(step):
            at = where[batch]
            found.append(len(at) * costs.length[at].max() + costs.extra[at].sum() if len(at) else 0.0)
    return np.array(found)


@pytest.fixture(scope="module")
def many():
    rows, costs = epoch(100_000)
    return rows, costs, plan_batches(rows, costs, seed=3, epoch=1, shards=4, budget=8192)


def test_each_row_is_there_exactly_once(many):
    rows, _, made = many
    seen = np.concatenate([batch for step in range(len(made)) for batch in made.batch(step)])
    assert np.array_equal(np.sort(seen), np.arange(len(rows)))


def test_no_batch_costs_more_than_the_budget_and_most_are_near_it(many):
    rows, costs, made = many
    found = prices(made, rows, costs)
    assert found.max() <= 8192
    assert np.allclose(np.sort(found), np.sort(made.cost), rtol=1e-5)
    assert np.median(found) > 0.9 * 8192


def test_padding_and_imbalance_are_small_and_as_reported(many):
    rows, costs, made = many
    where = np.argsort(rows)
    batches = [costs.length[where[batch]] for step in range(len(made)) for batch in made.batch(step)]
    padded = sum(len(batch) * float(batch.max()) for batch in batches)
    report = made.report()
    assert report["padding_share"] == pytest.approx(1 - sum(float(batch.sum()) for batch in batches) / padded, abs=1e-3)
    assert report["padding_share"] < 0.02
    assert report["imbalance"] < 0.03
    assert (report["rows"], report["steps"] * 4, report["rows_over_budget"]) == (100_000, report["batches"], 0)
    plain = plan_batches(rows, costs, seed=3, epoch=1, batch_rows=16, window=1).report()
    assert plain["padding_share"] > 0.4


def test_a_plan_is_a_pure_function_of_seed_and_epoch():
    rows, costs = epoch(2000)

    def flat(**changed):
        made = plan_batches(rows, costs, **{"seed": 1, "epoch": 0, "shards": 2, "budget": 2048, **changed})
        return [batch.tolist() for step in range(len(made)) for batch in made.batch(step)]

    assert flat() == flat()
    assert flat(seed=2) != flat()
    assert flat(epoch=1) != flat()


@pytest.mark.parametrize("bound", [{"budget": 2048}, {"batch_rows": 7}, {"batch_rows": 7, "window": 1}])
def test_ranks_share_the_same_global_batches(bound):
    rows, costs = epoch(3001)
    made = plan_batches(rows, costs, seed=1, epoch=0, shards=4, **bound)
    for step in (0, len(made) - 1):
        alone = [batch.tolist() for batch in made.batch(step)]
        for ranks in (2, 4):
            shared = [batch.tolist() for rank in range(ranks) for batch in made.batch(step, rank, ranks)]
            assert shared == alone
    with pytest.raises(UsageError, match="4 shards cannot be shared by 3 ranks"):
        made.batch(0, 0, 3)


def test_ranks_do_nearly_equal_work_in_every_step(many):
    _, _, made = many
    costs = made.cost[made.groups]
    share = costs.min(axis=1) / costs.max(axis=1)
    assert np.quantile(share, 0.02) > 0.9


@pytest.mark.parametrize("window", [1, 2, 5, 64, 10_000])
def test_the_budget_holds_across_windows(window):
    rows, costs = epoch(500, seed=window)
    made = plan_batches(rows, costs, seed=0, epoch=0, budget=3000, window=window)
    small = costs.length + costs.extra <= 3000
    found = prices(made, rows, costs)
    assert (found > 3000).sum() == (~small).sum() == made.over_budget
    assert found.sum() == pytest.approx(made.cost.sum(), rel=1e-4)


def test_a_row_above_the_budget_is_a_batch_of_its_own():
    costs = RowCosts.of(np.array([10, 500, 10]), np.zeros(3), np.zeros(3), CostWeights())
    made = plan_batches(np.arange(3), costs, seed=0, epoch=0, budget=100)
    batches = [batch.tolist() for step in range(len(made)) for batch in made.batch(step)]
    assert [1] in batches
    assert made.report()["rows_over_budget"] == 1


@pytest.mark.parametrize(("count", "shards"), [(3, 2), (5, 4), (8, 4), (9, 8)])
def test_shards_are_filled_and_where_rows_do_not_suffice_a_batch_is_empty(count, shards):
    rows, costs = epoch(count)
    made = plan_batches(rows, costs, seed=0, epoch=0, shards=shards, batch_rows=1)
    batches = [batch for step in range(len(made)) for batch in made.batch(step)]
    assert len(batches) % shards == 0
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    whole = plan_batches(rows, costs, seed=0, epoch=0, shards=shards, batch_rows=count)
    assert all(len(batch) for batch in whole.batch(0))


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({}, UsageError, "either a budget or batch_rows"),
        ({"budget": 10, "batch_rows": 1}, UsageError, "either a budget or batch_rows"),
        ({"budget": 0}, UsageError, "above 0"),
        ({"batch_rows": 0}, UsageError, "above 0"),
        ({"budget": 10, "shards": 9}, TwowayError, "8 rows cannot fill the 9 batches of one step"),
    ],
)
def test_what_is_no_plan_is_refused(settings, kind, words):
    rows, costs = epoch(8)
    with pytest.raises(kind, match=words):
        plan_batches(rows, costs, seed=0, epoch=0, **settings)


def test_the_cost_is_counted_in_text_tokens():
    assert row_cost(10, 4, 1, WEIGHTS) == 10 + 1.5 * 4 + 20
    assert row_cost(10, 4, 1) == 14
    with pytest.raises(UsageError):
        CostWeights(image_token=-1)
