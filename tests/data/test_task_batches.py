"""Every global batch is of one task, on any number of ranks; every row comes once a turn; any batch is found at once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from twoway.data.config import PairSource
from twoway.data.mixture import open_pairs
from twoway.data.sampler import MIXED, TaskBatchSampler, batches_per_task
from twoway.errors import UsageError

SIZES = {"large": 90, "middle": 40, "small": 13}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [{"query": f"{task} {number}", "positive": "p", "task": task} for task, size in SIZES.items() for number in range(size)]
    order = np.random.default_rng(0).permutation(len(rows))
    path.write_text("".join(json.dumps(rows[number]) + "\n" for number in order))
    return open_pairs([PairSource(str(path))])


def tasks_of(pairs, rows):
    return {pairs.tasks[pairs.task_of[row]] for row in rows}


@pytest.mark.parametrize("sampling", ["size", "smooth", "weight"])
def test_each_global_batch_is_of_one_task_whatever_the_ranks(pairs, sampling):
    epochs = TaskBatchSampler(pairs, batch=8, seed=1, sampling=sampling, max_repeats=3, shards=4)
    for step in range(epochs.steps(2)):
        task, whole = epochs.global_batch(step)
        assert tasks_of(pairs, whole) == {task}
        assert 0 < len(whole) <= 8
        for ranks in (1, 2, 4):
            taken = [epochs.rows(step, rank, ranks) for rank in range(ranks)]
            assert {epoch for epoch, _ in taken} == {epochs.locate(step)[0]}
            assert np.concatenate([piece for _, pieces in taken for piece in pieces]).tolist() == whole.tolist()


def test_by_size_an_epoch_has_every_row_once_and_batches_are_even(pairs):
    epochs = TaskBatchSampler(pairs, batch=8, seed=1)
    for epoch in range(3):
        steps = range(epochs.steps(epoch), epochs.steps(epoch + 1))
        batches = [epochs.global_batch(step)[1] for step in steps]
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(pairs)))
        for task in SIZES:
            sizes = {len(rows) for step in steps for name, rows in [epochs.global_batch(step)] if name == task}
            assert max(sizes) - min(sizes) <= 1


def test_epochs_and_seeds_differ_and_repeat(pairs):
    def order(seed, start):
        epochs = TaskBatchSampler(pairs, batch=8, seed=seed)
        return [epochs.global_batch(step)[1].tolist() for step in range(start, start + epochs.steps(1))]

    length = TaskBatchSampler(pairs, batch=8, seed=1).steps(1)
    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, length)
    assert order(1, 0) != order(2, 0)


def test_any_step_is_found_without_the_steps_before_it(pairs, monkeypatch):
    walked = TaskBatchSampler(pairs, batch=8, seed=1, sampling="smooth", max_repeats=2)
    wanted = [walked.global_batch(step)[1].tolist() for step in range(walked.steps(4))]
    for step in (walked.steps(4) - 1, 3, walked.steps(2)):
        assert TaskBatchSampler(pairs, batch=8, seed=1, sampling="smooth", max_repeats=2).global_batch(step)[1].tolist() == wanted[step]
    made = []
    plan = TaskBatchSampler.plan
    monkeypatch.setattr(TaskBatchSampler, "plan", lambda self, epoch: made.append(epoch) or plan(self, epoch))
    TaskBatchSampler(pairs, batch=8, seed=1).global_batch(10**9)
    assert len(made) == 1


def test_a_task_that_is_drawn_less_than_once_an_epoch_goes_on_where_it_stopped(pairs):
    epochs = TaskBatchSampler(pairs, batch=8, seed=1, sampling="weight", max_repeats=2, weights={"large": 0.3})
    seen = [rows for step in range(epochs.steps(6)) for task, rows in [epochs.global_batch(step)] if task == "large"]
    turn = -(-SIZES["large"] // 8)
    assert epochs.report()[pairs.tasks.index("large")]["repeats"] < 1
    assert sorted(np.concatenate(seen[:turn]).tolist()) == pairs.rows("large").tolist()


def test_small_tasks_repeat_as_often_as_they_may_and_the_report_says_so(pairs):
    for most in (1, 2, 3):
        epochs = TaskBatchSampler(pairs, batch=8, seed=1, sampling="weight", max_repeats=most)
        report = {line["task"]: line for line in epochs.report()}
        assert report["small"]["repeats"] == most
        assert all(line["repeats"] <= most for line in report.values())
        counts = dict.fromkeys(SIZES, 0)
        for step in range(epochs.steps(1)):
            counts[epochs.global_batch(step)[0]] += 1
        assert counts == {task: report[task]["batches"] for task in SIZES}


@pytest.mark.parametrize(
    ("sampling", "weights", "wanted"),
    [
        ("size", [1, 1, 1], [100, 50, 10]),
        ("weight", [1, 1, 1], [160 / 3] * 3),
        ("weight", [2, 1, 1], [80, 40, 40]),
        ("smooth", [1, 1, 1], [160 * x / (10 + 50**0.5 + 10**0.5) for x in (10, 50**0.5, 10**0.5)]),
    ],
)
def test_shares_follow_weight_size_or_smoothed_size(sampling, weights, wanted):
    sizes = np.array([100, 50, 10])
    found = batches_per_task(sizes, sizes, weights, sampling=sampling, smoothing=0.5, max_repeats=100)
    assert np.abs(found - wanted).max() <= 1
    assert found.sum() == 160


def test_what_small_tasks_may_not_take_goes_to_the_others():
    sizes = np.array([100, 50, 10])
    found = batches_per_task(sizes, sizes, [1, 1, 1], sampling="weight", smoothing=0.5, max_repeats=1.5)
    assert found.tolist() == [73, 72, 15]


@pytest.mark.parametrize("sampling", ["size", "smooth", "weight"])
@pytest.mark.parametrize("weights", [[1, 1, 1], [0.1, 1, 9]])
def test_where_no_task_repeats_each_is_gone_through_once_whatever_sampling_and_weights_say(sampling, weights):
    sizes = np.array([100, 50, 10])
    assert batches_per_task(sizes, sizes, weights, sampling=sampling, smoothing=0.5, max_repeats=1).tolist() == [100, 50, 10]


def test_held_out_rows_are_in_no_epoch(pairs):
    held = pairs.held_out(3)
    epochs = TaskBatchSampler(pairs, batch=8, seed=1, held_out=held)
    seen = np.concatenate([epochs.global_batch(step)[1] for step in range(epochs.steps(1))])
    assert not set(seen) & set(held)
    assert len(seen) == len(pairs) - len(held)


def test_mixed_batches_have_rows_of_all_tasks(pairs):
    epochs = TaskBatchSampler(pairs, batch=30, seed=1, mixed=True)
    batches = [epochs.global_batch(step) for step in range(epochs.steps(1))]
    assert {task for task, _ in batches} == {MIXED}
    assert all(len(tasks_of(pairs, rows)) == 3 for _, rows in batches)
    assert sorted(np.concatenate([rows for _, rows in batches]).tolist()) == list(range(len(pairs)))


def test_a_task_that_does_not_fill_a_batch_is_refused_or_makes_smaller_ones(pairs):
    with pytest.raises(UsageError, match=r"more than there are in small \(13\); .*small_tasks=keep"):
        TaskBatchSampler(pairs, batch=20, seed=1, small_tasks="fail")
    epochs = TaskBatchSampler(pairs, batch=20, seed=1)
    assert [len(rows) for step in range(epochs.steps(1)) for task, rows in [epochs.global_batch(step)] if task == "small"] == [13]


def test_what_cannot_be_is_refused(pairs):
    with pytest.raises(UsageError, match=r"task_weights: there is no task 'smal'; did you mean small"):
        TaskBatchSampler(pairs, batch=8, seed=1, weights={"smal": 2.0})
    with pytest.raises(UsageError, match="sampling=size"):
        TaskBatchSampler(pairs, batch=8, seed=1, mixed=True, sampling="weight")
    with pytest.raises(UsageError, match="2 shards cannot be shared by 3 ranks"):
        TaskBatchSampler(pairs, batch=8, seed=1, shards=2).rows(0, 0, 3)
