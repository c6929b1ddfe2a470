"""Two ranks do what one does on the same global batches."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from full_disk import disk_full
from toy_training import ToyData, stored, toy_rank, train_toy
from twoway.errors import TwowayError
from twoway.training import checkpointing
from twoway.training import distributed as launch_module
from twoway.training.checkpointing import Checkpoints
from twoway.training.distributed import HOST, Ranks, _pass_on, _store, launch
from twoway.training.progress import read_log

# Each rank is a process that imports torch: tests that start some run in one worker, in turn, and leave the others a processor.
pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.usefixtures("quick_ranks")]

STEPS = 10
NEAR = {"rtol": 1e-5, "atol": 1e-6}  # sums in another order, in float32


def weights(out):
    return stored(Checkpoints(out).path(STEPS))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    train_toy(out, STEPS, dropout=0.0)
    return out


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_have_the_curve_and_the_weights_of_one(alone, tmp_path, parallel):
    # Some steps have no patches, no words or nothing on one rank, and some no rows there at all.
    launch(2, toy_rank, str(tmp_path), {"steps": STEPS, "dropout": 0.0, "parallel": parallel})
    ours, theirs = read_log(tmp_path), read_log(alone)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for left, right in zip(ours, theirs, strict=True):
        for name in ("loss", "mlm", "mae", "rows", "tokens", "mlm_targets", "mae_targets", "grad_norm"):
            assert (name in left) == (name in right)
            assert left.get(name, 0) == pytest.approx(right.get(name, 0), rel=1e-5, abs=2e-6), (left["step"], name)
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, **NEAR)


def test_a_run_goes_on_with_another_number_of_ranks(alone, tmp_path):
    train_toy(tmp_path, STEPS, dropout=0.0, stop=3)
    launch(2, toy_rank, str(tmp_path), {"steps": STEPS, "dropout": 0.0, "parallel": "fsdp", "stop": 6})
    assert Checkpoints(tmp_path).steps()[-1] == 6
    train_toy(tmp_path, STEPS, dropout=0.0)
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, **NEAR)


def patient(out):
    ranks = Ranks("cpu", timedelta(minutes=3))
    backend = {name: getattr(ranks, name)._get_backend(ranks.device) for name in ("cpu_group", "_patient_group")}
    backend["first"] = torch.distributed.group.WORLD._get_backend(ranks.device)
    found = {name: one.options._timeout.total_seconds() for name, one in backend.items()}
    Path(out).joinpath(f"rank-{ranks.rank}").write_text(json.dumps(found))


def test_ranks_wait_long_for_the_data_alone(tmp_path):
    launch(2, patient, str(tmp_path))
    found = json.loads((tmp_path / "rank-1").read_text())
    assert found["first"] == found["cpu_group"] == 180
    assert found["_patient_group"] >= 24 * 3600


def stopping(out, options, how, number):
    """Be a rank; the second one stops or dies in step `number`."""
    plain = ToyData.steps

    def steps(self, start, stop, rank, ranks):
        for step, batches in enumerate(plain(self, start, stop, rank, ranks), start):
            if rank == 1 and step == number:
                os.kill(os.getpid(), how)
            yield batches

    ToyData.steps = steps
    toy_rank(out, options)


def test_a_rank_that_stops_ends_the_others_within_the_time_of_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(launch_module, "LAUNCH_PATIENCE", 4.0)
    began, said = (
        time.monotonic(),
        r"^rank 0 of 2, step 8: another rank has not answered for 6 seconds \(ddp_timeout\); ",
    )
    options = {"steps": STEPS, "dropout": 0.0, "ddp_timeout": 6.0}
    with pytest.raises(TwowayError, match=said + r"the checkpoint of step [36] stands, and the same command goes on from there$"):
        launch(2, stopping, str(tmp_path), options, signal.SIGSTOP, 7)
    assert time.monotonic() - began < 600, "and not after two days"
    assert 3 in Checkpoints(tmp_path).steps(), "that of step 6 may have been stopped, too"


def dying_write(out, options):
    """Be a rank; the second one dies while it writes step 6, when the first one has written its part."""
    write = checkpointing.save_file

    def dies(tensors, path):
        if path.parent.name == ".step-6.tmp" and int(os.environ["RANK"]) == 1:
            while not list(path.parent.glob("optimizer-00001*.safetensors")):
                time.sleep(0.01)
            path.write_bytes(b"half of a file")
            os.kill(os.getpid(), signal.SIGKILL)
        write(tensors, path)

    checkpointing.save_file = dies
    toy_rank(out, options)


def test_a_rank_that_dies_while_it_writes_leaves_the_checkpoint_before(alone, tmp_path):
    options = {"steps": STEPS, "dropout": 0.0, "parallel": "fsdp"}
    with pytest.raises(TwowayError, match=r"^rank 1 of 2 was killed by signal 9; the same command goes on from the last checkpoint$"):
        launch(2, dying_write, str(tmp_path), options)
    assert Checkpoints(tmp_path).steps() == [3]
    train_toy(tmp_path, STEPS, dropout=0.0)
    assert not list((tmp_path / "checkpoints").glob(".*"))
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(tmp_path)[name], value, **NEAR)


def full_disk(out, options):
    """Be a rank; the second one's disk is full at step 6."""
    write = checkpointing.save_file

    def full(tensors, path):
        if path.parent.name == ".step-6.tmp" and int(os.environ["RANK"]) == 1:
            with disk_full(64):
                write(tensors, path)
        write(tensors, path)

    checkpointing.save_file = full
    toy_rank(out, options)


def test_a_disk_that_is_full_for_one_rank_is_said_by_all(tmp_path):
    said = r"no space left on the disk while writing .*step-6.*; the checkpoint of step 3 stands, and the same command goes on from it$"
    with pytest.raises(TwowayError, match=said):
        launch(2, full_disk, str(tmp_path), {"steps": STEPS, "dropout": 0.0})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-3"]


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_each_rank_writes_its_part_and_the_next_run_has_the_bits(tmp_path, parallel):
    options = {"steps": STEPS, "dropout": 0.0, "parallel": parallel}
    launch(2, toy_rank, str(tmp_path), options | {"stop": 6})
    sizes = [sum(path.stat().st_size for path in Checkpoints(tmp_path).path(6).glob(f"*-0000{rank}-of-00002.*")) for rank in (1, 2)]
    assert 0.5 < sizes[0] / sizes[1] < 2
    launch(2, toy_rank, str(tmp_path), options)
    launch(2, toy_rank, str(tmp_path / "whole"), options)
    for group in ("weights", "optimizer"):
        left, right = (stored(Checkpoints(out).path(STEPS), group) for out in (tmp_path, tmp_path / "whole"))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


def failing(out):
    if os.environ["RANK"] == "0":
        raise RuntimeError("the other end went away")
    raise TwowayError("row 7 is bad")


def killed(out):
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_fails_in_a_rank_is_said_once():
    with pytest.raises(TwowayError, match=r"^row 7 is bad$"):
        launch(2, failing, "")
    with pytest.raises(TwowayError, match="was killed by signal 9"):
        launch(1, killed, "")


def test_rows_that_give_no_number_are_named_by_the_rank_that_has_them(tmp_path):
    with pytest.raises(TwowayError, match=r"the loss of step 8 is not finite; its rows: toy#7\.1\.0"):
        launch(2, toy_rank, str(tmp_path), {"steps": STEPS, "poison": 7})


def in_thread():
    with _pass_on([]) as caught:
        return caught


def test_ranks_may_be_started_from_any_thread():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(in_thread).result() == []


def test_shards_are_shared_out_whole():
    data = ToyData()
    one = next(data.steps(3, 4, 0, 1))
    assert [batch is None for batch in one] == [batch is None for rank in (0, 1) for batch in next(data.steps(3, 4, rank, 2))]


def test_the_port_is_taken_before_a_rank_hears_of_it():
    stores = [_store() for _ in range(3)]
    assert len({store.port for store in stores}) == 3
    for store in stores:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((HOST, store.port))


class Ending:
    """A rank that is killed between two questions about it."""

    def __init__(self):
        self.asked, (self.sentinel, self.end) = 0, os.pipe()

    @property
    def exitcode(self):
        self.asked += 1
        return None if self.asked == 1 else -9

    def join(self):
        """Nothing to wait for."""


def test_a_rank_that_ends_between_two_questions_is_seen():
    assert launch_module._watch([rank := Ending()]) is rank
