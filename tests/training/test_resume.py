"""A run that is killed, however often and wherever, ends with the bits of one that is not."""

from __future__ import annotations

import multiprocessing
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from toy_training import SHARDS, Toy, ToyData, train_toy
from twoway.config import plain_values
from twoway.errors import TwowayError, UsageError
from twoway.limits import ReadLimits
from twoway.methods.pretrain.config import PretrainConfig
from twoway.models.config import AttnImplementation
from twoway.training import checkpointing, distributed
from twoway.training import trainer as trainer_module
from twoway.training.checkpointing import Checkpoints, read_optimizer, require_same_run
from twoway.training.config import FREE
from twoway.training.distributed import Ranks
from twoway.training.progress import read_log

STEPS = 12
WRITES = 15  # of one checkpoint: its begin and end, four files, five flushes, two removals, and the next one's wait


@pytest.fixture(scope="module")
def forks():
    """Processes that begin with the imports done."""
    return multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody kills."""
    out = tmp_path_factory.mktemp("whole")
    train_toy(out, STEPS)
    return out


def final(out, steps=STEPS):
    folder = Checkpoints(out).path(steps)
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
        patched.setattr("twoway.training.checkpointing.save_file", full)
        with pytest.raises(TwowayError, match=r"no space left.*step 6 stands"):
            train_toy(tmp_path, STEPS)
    assert Checkpoints(tmp_path).steps()[-1] == 6
    train_toy(tmp_path, STEPS)
    same(final(tmp_path), final(whole))


def test_sigterm_saves_and_leaves(tmp_path, whole, monkeypatch):
    from twoway.processes import Stopped

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

    def compute_losses(self, batch):
        self.runs += 1
        if self.runs > 4 * SHARDS:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().compute_losses(batch)


def test_a_step_that_memory_does_not_hold_says_what_to_do(tmp_path):
    with pytest.raises(TwowayError, match=r"does not hold step 5: take a smaller budget.*; the checkpoint of step 3 stands$"):
        train_toy(tmp_path, STEPS, task=Large())


def test_a_checkpoint_whose_removal_a_kill_cut_off_is_removed(tmp_path):
    train_toy(tmp_path, STEPS)
    folder = Checkpoints(tmp_path).folder
    (folder / "step-9").rename(folder / ".step-9.old.tmp")  # as the next checkpoint does, before it deletes the files
    Checkpoints(tmp_path).recover()
    assert [path.name for path in folder.iterdir()] == ["step-12"]


def test_a_run_is_what_it_was_unless_forced(tmp_path):
    run = {"config": {"learning_rate": 1.0, "save_steps": 3}, "data": [{"rows": 5}]}
    require_same_run(tmp_path / "out", run)
    require_same_run(
        tmp_path / "out", {"config": {"learning_rate": 1.0, "save_steps": 9}, "data": [{"rows": 5}]}, free=frozenset({"save_steps"})
    )
    other = {"config": {"learning_rate": 2.0, "save_steps": 9}, "data": [{"rows": 6}]}
    with pytest.raises(UsageError, match=r"config.learning_rate was 1.0 and is 2.0; data.* --force"):
        require_same_run(tmp_path / "out", other)
    require_same_run(tmp_path / "out", other, force=True)
    require_same_run(tmp_path / "out", other)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an unfinished run"):
        require_same_run(tmp_path / "full", run)


def test_a_run_goes_on_with_other_bounds_and_kernels_and_not_with_other_frames(tmp_path):
    def told(**settings):
        return {"config": plain_values(PretrainConfig(**settings))}

    require_same_run(tmp_path / "out", told(), free=FREE)
    for change in ({"limits": ReadLimits(max_characters=9)}, {"attn_implementation": AttnImplementation(tower="eager")}, {}):
        require_same_run(tmp_path / "out", told(**change), free=FREE)
    with pytest.raises(UsageError, match=r"another run: config\.limits\.num_frames was 8 and is 2; give"):
        require_same_run(tmp_path / "out", told(limits=ReadLimits(num_frames=2)), free=FREE)


def test_a_checkpoint_is_written_beside_training_and_the_next_one_waits(monkeypatch, tmp_path, whole):
    """Two steps are done while the files of step 3 are held back, and what is then written is what stood at step 3."""
    held, steps, write = threading.Event(), [], checkpointing.save_file
    batch = ToyData.batch

    def slow(*args):
        assert held.wait(60)
        write(*args)

    def noted(self, step, shard):
        steps.append((step, Checkpoints(tmp_path).steps()))
        if step == 5:
            held.set()
        return batch(self, step, shard)

    monkeypatch.setattr(checkpointing, "save_file", slow)
    monkeypatch.setattr(ToyData, "batch", noted)
    train_toy(tmp_path, STEPS)
    assert [stand for step, stand in steps if step in (3, 4, 5)] == [[]] * 6
    assert [stand for step, stand in steps if step == 6] == [[3]] * 2, "step 6 is saved only when step 3 is"
    same(final(tmp_path), final(whole))
    assert Checkpoints(tmp_path).steps() == [9, 12]


def test_what_is_written_is_a_copy(monkeypatch, tmp_path):
    """What trains may change as soon as saving has begun."""
    held, write = threading.Event(), checkpointing.save_file

    def slow(*args):
        assert held.wait(60)
        write(*args)

    monkeypatch.setattr(checkpointing, "save_file", slow)
    ranks, checkpoints = Ranks("cpu"), Checkpoints(tmp_path)
    for step in (1, 2):
        held.clear()
        tensor = torch.full((3,), float(step))
        checkpoints.save(step, {"weights:one": tensor}, {}, ranks)
        tensor.zero_()
        assert not checkpoints.written
        held.set()
        checkpoints.wait(ranks)
        assert load_file(checkpoints.path(step) / "weights.safetensors")["one"].tolist() == [step] * 3


def test_a_complete_checkpoint_that_a_kill_left_without_its_name_counts(tmp_path, whole):
    train_toy(tmp_path, STEPS, stop=6)
    place = Checkpoints(tmp_path).path(6)
    for path in (place, Checkpoints(tmp_path).path(3)):
        path.rename(path.with_name(f".{path.name}.tmp"))
    (tmp_path / "checkpoints" / ".step-3.tmp" / "optimizer.safetensors").unlink()
    assert Checkpoints(tmp_path).steps() == []
    trainer = train_toy(tmp_path, STEPS, stop=6)
    assert trainer.step == 6
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-6"]


def test_checkpoints_come_by_the_clock_too(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(trainer_module.time, "monotonic", lambda: now.__setitem__(0, now[0] + 1.0) or now[0])
    seen, save = [], Checkpoints.save

    def saved(self, step, *rest):
        """Write before the next step: the next checkpoint waits for this one, however slow the disk is."""
        seen.append(step)
        save(self, step, *rest)
        while not self.written:
            time.sleep(0.001)

    monkeypatch.setattr(Checkpoints, "save", saved)
    train_toy(tmp_path / "clock", STEPS, save_steps=100, save_minutes=0.2)
    by_clock = seen.copy()
    assert len(by_clock) > 2
    assert by_clock[-1] == STEPS
    seen.clear()
    train_toy(tmp_path / "steps", STEPS, save_steps=5, save_minutes=0)
    assert seen == [5, 10, 12]


def test_a_damaged_file_of_a_checkpoint_is_named(tmp_path):
    train_toy(tmp_path, STEPS, stop=3)
    (Checkpoints(tmp_path).path(3) / "optimizer.safetensors").write_bytes(b"half of a file")
    with pytest.raises(TwowayError, match=r"step-3/optimizer\.safetensors"):
        train_toy(tmp_path, STEPS)


def test_the_optimizers_state_lies_where_the_weights_do(whole, monkeypatch):
    wanted = {}
    monkeypatch.setattr(checkpointing, "_read", lambda _folder, tensors: wanted.update(tensors))
    there = {name: torch.nn.Parameter(one.detach().to("meta")) for name, one in Toy().named_parameters()}
    optimizer = torch.optim.AdamW(there.values())
    read_optimizer(Checkpoints(whole).path(STEPS), optimizer, there)
    found = {(key, value.device.type) for one in there.values() for key, value in optimizer.state[one].items()}
    assert found == {(key, "meta") for key in ("step", "exp_avg", "exp_avg_sq")}
    assert len(wanted) == 3 * len(there)


def test_ranks_that_see_different_checkpoints_are_refused(whole, monkeypatch):
    monkeypatch.setattr(distributed.Ranks, "all_gather_object", lambda self, value: [value, []])
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
        require_same_run(tmp_path / "out", {"config": {"learning_rate": 1.0}})
    monkeypatch.undo()
    assert len(list((tmp_path / "out").iterdir())) == 1
    require_same_run(tmp_path / "out", {"config": {"learning_rate": 1.0}})
    assert (tmp_path / "out" / "run.json").exists()


def test_more_steps_than_asked_for_are_refused(whole):
    with pytest.raises(UsageError, match="12 steps already"):
        train_toy(whole, 9)
