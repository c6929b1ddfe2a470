"""A run that is killed, however often and wherever, ends with the bits of one that is not."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from toy_training import SHARDS, Toy, train_toy
from twoway.errors import TwowayError, UsageError
from twoway.training import ranks
from twoway.training.checkpoint import Checkpoints, read_optimizer, same_run
from twoway.training.progress import read_log

STEPS = 12
WRITES = 9  # of one checkpoint: save, two files, four flushes, one removal, and the next


@pytest.fixture(scope="module")
def forks():
    """Processes that begin with the imports done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_training"])
    return context


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody kills."""
    out = tmp_path_factory.mktemp("whole")
    train_toy(out, STEPS)
    return out


def final(out, steps=STEPS):
    folder = Checkpoints(out).place(steps)
    return {(name, key): value for name in ("weights", "optimizer") for key, value in load_file(folder / f"{name}.safetensors").items()}


def same(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


def curve(out):
    return [(line["step"], line.get("loss"), line.get("seen")) for line in read_log(out)]


def run_and_kill(forks, out, **options):
    child = forks.Process(target=train_toy, args=(out, STEPS), kwargs=options)
    child.start()
    child.join()
    return child.exitcode


def kills(forks, out, number, seed):
    """Kill at the `number` places of writing, then let it end."""
    draw = random.Random(seed)
    for _ in range(number):
        code = run_and_kill(forks, out, die_at=draw.randint(1, 2 * WRITES))
        assert code in (0, -signal.SIGKILL)
    assert run_and_kill(forks, out) == 0


def test_the_same_again_from_the_start(whole, tmp_path):
    train_toy(tmp_path, STEPS)
    same(final(tmp_path), final(whole))


def test_a_run_in_two_processes_worth_of_parts_is_the_same(whole, tmp_path):
    train_toy(tmp_path, STEPS, stop=7)  # leaves with step 6 saved and 7 in the log
    assert Checkpoints(tmp_path).steps()[-1] == 6
    assert train_toy(tmp_path, STEPS).step == STEPS
    same(final(tmp_path), final(whole))
    assert curve(tmp_path) == curve(whole)


def test_killed_while_it_writes(forks, whole, tmp_path):
    kills(forks, tmp_path, 4, seed=0)
    same(final(tmp_path), final(whole))
    assert curve(tmp_path) == curve(whole)
    left = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert sorted(left) == ["step-12", "step-9"]


@pytest.mark.slow
def test_twenty_kills_at_random(forks, whole, tmp_path):
    kills(forks, tmp_path / "writing", 20, seed=1)
    same(final(tmp_path / "writing"), final(whole))
    draw = random.Random(2)
    out = tmp_path / "anywhere"
    for _ in range(20):
        child = forks.Process(target=train_toy, args=(out, STEPS))
        child.start()
        time.sleep(draw.random())
        child.kill()
        child.join()
    assert run_and_kill(forks, out) == 0
    same(final(out), final(whole))
    assert curve(out) == curve(whole)


def test_done_is_done(whole):
    before = final(whole)
    assert train_toy(whole, STEPS).step == STEPS
    same(final(whole), before)


def test_a_full_disk_leaves_the_last_good_checkpoint(monkeypatch, tmp_path, whole):
    train_toy(tmp_path, STEPS, stop=6)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("twoway.training.checkpoint.save_file", full)
        with pytest.raises(TwowayError, match=r"no space left.*step 6 stands"):
            train_toy(tmp_path, STEPS)
    assert Checkpoints(tmp_path).steps()[-1] == 6
    train_toy(tmp_path, STEPS)
    same(final(tmp_path), final(whole))


def test_sigterm_saves_and_leaves(tmp_path, whole, monkeypatch):
    from toy_training import ToyData
    from twoway.training.stop import Stopped

    plain = ToyData.batch

    def batch(self, step, shard):
        if step == 7:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, step, shard)

    with monkeypatch.context() as patched:
        patched.setattr(ToyData, "batch", batch)
        with pytest.raises(Stopped, match="stopped by SIGTERM after step 7 of 12, which is saved; the same command goes on") as stopped:
            train_toy(tmp_path, STEPS)
    assert stopped.value.code == 143
    assert Checkpoints(tmp_path).steps()[-1] == 7
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train_toy(tmp_path, STEPS)
    same(final(tmp_path), final(whole))


def test_rows_that_give_no_number_are_named_and_not_learnt(tmp_path):
    with pytest.raises(TwowayError, match=r"the loss of step 8 is not finite; its rows: toy#7\.1\.0, .*step 6 stands"):
        train_toy(tmp_path, STEPS, poison=7)
    assert Checkpoints(tmp_path).steps()[-1] == 6
    assert read_log(tmp_path)[-1]["identities"][0] == "toy#7.1.0"


class Large(Toy):
    """Does not fit into memory once it has been run for a while."""

    runs = 0

    def parts(self, batch):
        self.runs += 1
        if self.runs > 4 * SHARDS:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().parts(batch)


def test_a_step_that_memory_does_not_hold_says_what_to_do(tmp_path):
    with pytest.raises(TwowayError, match=r"does not hold step 5: take a smaller budget.*; the checkpoint of step 3 stands$"):
        train_toy(tmp_path, STEPS, task=Large())


def test_a_run_is_what_it_was_unless_forced(tmp_path):
    run = {"config": {"lr": 1.0, "save_steps": 3}, "data": [{"rows": 5}]}
    same_run(tmp_path / "out", run)
    same_run(tmp_path / "out", {"config": {"lr": 1.0, "save_steps": 9}, "data": [{"rows": 5}]}, free=frozenset({"save_steps"}))
    other = {"config": {"lr": 2.0, "save_steps": 9}, "data": [{"rows": 6}]}
    with pytest.raises(UsageError, match=r"config.lr was 1.0 and is 2.0; data.* --force"):
        same_run(tmp_path / "out", other)
    same_run(tmp_path / "out", other, force=True)
    same_run(tmp_path / "out", other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="no unfinished run"):
        same_run(tmp_path / "full", run)


def test_a_rank_that_does_not_write_holds_one_tensor_at_a_time(monkeypatch, tmp_path):
    trainer = train_toy(tmp_path, 3)
    alive, most = weakref.WeakSet(), []

    def counted(tensor):
        made = tensor.detach().clone()
        alive.add(made)
        most.append(len(alive))
        return made

    monkeypatch.setattr(ranks, "whole", counted)
    for rank, held in ((1, 1), (0, 3 * len(trainer.parameters))):
        trainer.ranks.rank = rank
        most.clear()
        trainer.save()
        assert max(most) == held if rank else max(most) > held


def test_the_optimizers_state_lies_where_the_weights_do(whole):
    task = Toy()
    names = {name for name, one in task.named_parameters() if one.requires_grad}
    there = {name: torch.nn.Parameter(one.detach().to("meta")) for name, one in task.named_parameters() if name in names}
    optimizer = torch.optim.AdamW(there.values())
    read_optimizer(Checkpoints(whole).place(STEPS), optimizer, there)
    found = {(key, value.device.type) for one in there.values() for key, value in optimizer.state[one].items()}
    assert found == {(key, "meta") for key in ("step", "exp_avg", "exp_avg_sq")}


def test_ranks_that_see_different_checkpoints_are_refused(whole, monkeypatch):
    monkeypatch.setattr(ranks.Ranks, "gather", lambda self, value: [value, []])
    with pytest.raises(TwowayError, match=r"ranks see different checkpoints in .*on a disk that all machines share"):
        train_toy(whole, STEPS)


def test_a_run_that_ended_before_its_first_checkpoint_has_no_step_twice(tmp_path):
    train_toy(tmp_path, STEPS, stop=2)
    train_toy(tmp_path, STEPS, stop=4)
    assert [line["step"] for line in read_log(tmp_path)] == [0, 1, 2, 3, 4]


def test_a_kill_while_a_run_is_written_down_does_not_stand_in_its_way(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # nobody cleans up behind a kill
    with pytest.raises(KeyboardInterrupt):
        same_run(tmp_path / "out", {"config": {"lr": 1.0}})
    monkeypatch.undo()
    assert len(list((tmp_path / "out").iterdir())) == 1
    same_run(tmp_path / "out", {"config": {"lr": 1.0}})
    assert (tmp_path / "out" / "run.json").exists()


def test_more_steps_than_asked_for_are_refused(whole):
    with pytest.raises(UsageError, match="12 steps already"):
        train_toy(whole, 9)
