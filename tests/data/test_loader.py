"""The loader: the same batches whatever the number of workers and wherever it starts; bad rows keep their place and are never replaced."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import pytest
import torch

from loading import boom, collate, corrupt, encode
from twoway.content import ContentError
from twoway.data import loader as module
from twoway.data.config import CostWeights
from twoway.data.loader import Loader
from twoway.data.mixture import open_mixture
from twoway.data.rows import Policy
from twoway.data.sampler import CostBatchSampler, RowCosts
from twoway.errors import TwowayError
from twoway.processes import CONTEXT


@pytest.fixture
def epochs(tmp_path, jsonl, png):
    """Return `epochs(rows, broken=…)`: rows of text and picture, some pictures cut off behind their header; two batches a step."""
    (tmp_path / "a.png").write_bytes(png(size=(40, 40)))
    (tmp_path / "broken.png").write_bytes(png(size=(40, 40))[:60])

    def make(rows=10, broken=(), policy=None, **settings):
        lines = [{"image": "broken.png" if row in broken else "a.png", "text": "x" * (row + 1)} for row in range(rows)]
        mixture = open_mixture([str(jsonl(*lines))], policy=policy)
        costs = RowCosts.of(np.concatenate([table.characters for table in mixture.tables]), np.zeros(rows), np.zeros(rows), CostWeights())
        return CostBatchSampler(mixture, costs, **{"seed": 1, "shards": 2, "batch_rows": 2, **settings})

    return make


def load(epochs, *, workers=0, span=(0, 6), rank=0, ranks=1, **settings):
    """All steps of a loader, without what depends on the process."""
    loader = Loader(epochs, encode, corrupt, collate, workers=workers, **settings)
    steps = [
        tuple(batch and {**batch, "labels": batch["labels"].tolist(), "process": None} for batch in step)
        for step in loader.steps(*span, rank, ranks)
    ]
    return loader, steps


def test_every_row_is_there_once_an_epoch_and_epochs_follow_each_other(epochs):
    made = epochs()
    each = made.steps(1)
    _, steps = load(made, span=(0, 2 * each))
    for epoch in (0, 1):
        batches = [batch for step in steps[epoch * each : (epoch + 1) * each] for batch in step]
        assert sorted(row for batch in batches for row in batch["identities"]) == sorted(f"rows.jsonl#{row + 1}" for row in range(10))
        assert {number for batch in batches for number in batch["epochs"]} == {epoch}
    assert steps[:each] != steps[each:]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_but_the_process(workers, epochs):
    made = epochs(broken=(3,))
    loader, steps = load(made, policy=Policy("skip"), workers=workers)
    alone, expected = load(made, policy=Policy("skip"))
    assert steps == expected
    assert (loader.rows, loader.bad) == (alone.rows, alone.bad) == (20, 2)


def test_workers_are_other_processes_and_leave_when_training_breaks_off(epochs):
    loader = Loader(epochs(), encode, corrupt, collate, workers=1)
    steps = loader.steps(0, 10**9)
    assert next(steps)[0]["process"] != os.getpid()
    steps.close()


def test_workers_that_are_not_forked_do_the_same(epochs):
    made = epochs(rows=4)
    assert load(made, workers=1, span=(0, 2), context=CONTEXT)[1] == load(made, span=(0, 2))[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_stops_a_worker_is_one_line_with_its_row(workers, epochs):
    with pytest.raises(TwowayError, match=r"^rows.jsonl#\d+: the disk is gone$"):
        list(Loader(epochs(), gone, corrupt, collate, workers=workers).steps(0, 2))


def test_a_worker_that_dies_is_one_line(epochs):
    with pytest.raises(TwowayError, match=r"a process that was making batches died .*; the same command goes on") as error:
        list(Loader(epochs(), dies, corrupt, collate, workers=1).steps(0, 2))
    assert "\n" not in str(error.value)


def gone(*_):
    raise TwowayError("the disk is gone")


def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_starting_late_gives_the_same_and_reads_nothing_before(epochs, monkeypatch):
    made = epochs()
    _, whole = load(made, span=(0, 9))
    read = []
    monkeypatch.setattr(
        module.BatchDataset,
        "__getitem__",
        lambda self, task, make=module.BatchDataset.__getitem__: (read.append(task.step), make(self, task))[1],
    )
    assert load(made, span=(7, 9))[1] == whole[7:]
    assert set(read) == {7, 8}


def test_any_step_of_a_long_run_is_found_at_once():
    class Rows:
        """Two million rows, of which none can be read."""

        def __len__(self):
            return 2_000_000

        def epoch(self, seed, epoch):
            return np.random.default_rng([seed, epoch]).permutation(len(self))

        def table_rows(self, rows):
            return rows

    costs = RowCosts(np.full(2_000_000, 10, np.float32), np.zeros(2_000_000, np.float32))
    made = CostBatchSampler(Rows(), costs, seed=0, batch_rows=16)
    made.rows(0)

    def seconds(first):
        start = time.process_time()
        for step in range(first, first + 100):
            assert len(made.rows(step)[1][0]) == 16
        return time.process_time() - start

    # A walk through the 124,900 steps before would take a thousand times as long.
    assert seconds(made.steps(1) - 100) < 50 * max(seconds(0), 1e-3)


def test_two_ranks_share_what_one_rank_does(epochs):
    made = epochs(rows=13)
    _, alone = load(made)
    shared = [load(made, rank=rank, ranks=2)[1] for rank in (0, 1)]
    assert [(*first, *second) for first, second in zip(*shared, strict=True)] == alone


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_row_is_an_error_with_its_place(workers, epochs):
    with pytest.raises(ContentError, match=r"rows\.jsonl:4: picture broken\.png is broken.*--on-bad skip"):
        load(epochs(broken=(3,)), workers=workers)


def test_a_skipped_row_is_absent_counted_and_listed_once(epochs, tmp_path):
    made = epochs(broken=(3, 6))
    loader, steps = load(made, span=(0, 2 * made.steps(1)), policy=Policy("skip", tmp_path / "bad.jsonl"))
    seen = [row for step in steps for batch in step if batch for row in batch["identities"]]
    assert len(seen) == 16
    assert not {"rows.jsonl#4", "rows.jsonl#7"} & set(seen)
    assert (loader.rows, loader.bad) == (20, 4)
    assert sorted(json.loads(line)["row"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()) == [4, 7]


def test_a_batch_without_a_good_row_is_none_and_the_step_stays(epochs):
    made = epochs(broken=(3,), batch_rows=1)
    _, steps = load(made, span=(0, made.steps(1)), policy=Policy("skip"))
    assert sum(batch is None for step in steps for batch in step) == 1
    assert {len(step) for step in steps} == {2}


def test_data_of_bad_rows_alone_is_an_error_even_when_skipping(epochs):
    made = epochs(rows=4, broken=range(4))
    with pytest.raises(TwowayError, match=r"all rows of the data are bad .4 tried., the latest: .*broken"):
        load(made, span=(0, 100), policy=Policy("skip"))
    with pytest.raises(TwowayError, match=r"all rows of the data are bad .*broken"):
        load(epochs(rows=40, broken=range(40)), span=(0, 1), policy=Policy("skip"))


def test_a_mistake_in_the_code_is_no_bad_row(epochs):
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        list(Loader(epochs(), boom, corrupt, collate, policy=Policy("skip")).steps(0, 1))


def test_the_random_numbers_of_training_are_left_alone(epochs):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    load(epochs(), span=(0, 2), workers=1)
    assert torch.equal(before, torch.random.get_rng_state())
