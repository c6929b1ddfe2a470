"""Two ranks do what one does on the same global batches."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from toy_training import ToyData, toy_rank, train_toy
from twoway.errors import TwowayError
from twoway.training.checkpoint import Checkpoints
from twoway.training.launch import HOST, _pass_on, _store, launch
from twoway.training.progress import read_log
from twoway.training.ranks import Ranks

# Each rank is a process that imports torch: tests that start some run in one worker, in turn, and leave the others a processor.
pytestmark = pytest.mark.xdist_group("ranks")

STEPS = 10
NEAR = {"rtol": 1e-5, "atol": 1e-6}  # sums in another order, in float32


def weights(out):
    return load_file(Checkpoints(out).place(STEPS) / "weights.safetensors")


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
        for name in ("loss", "mlm", "mae", "rows", "tokens", "mlm_targets", "mae_targets", "gradient"):
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
    found = Ranks()._state
    options = torch.distributed.group.WORLD._get_backend(found.device).options
    Path(out).joinpath(f"rank-{found.process_index}").write_text(str(options._timeout.total_seconds()))


def test_ranks_wait_as_long_as_the_first_one_may_need_for_its_data(tmp_path):
    launch(1, patient, str(tmp_path))
    assert float((tmp_path / "rank-0").read_text()) >= 24 * 3600


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
