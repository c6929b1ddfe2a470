"""Each stage is done once; what was cut off goes on; what has changed is said; what fails leaves the rest as it is."""

from __future__ import annotations

import json
import signal

import pytest

from recipe_fakes import KINDS, LOG, write
from twoway.errors import TwowayError, UsageError
from twoway.processes import Stopped
from twoway.recipes.run import run

STAGES = {"make": {}, "train": {"steps": 4}, "tune": {"stage": "train", "learning_rate": 2.0}, "score": {}}
ALL = ["1-make", "2-train", "3-tune", "4-score"]


@pytest.fixture(autouse=True)
def nothing_to_collect(monkeypatch):
    """Looking through all of torch for what a stage left takes a quarter of a second."""
    monkeypatch.setattr("twoway.recipes.run.gc.collect", lambda: 0)


@pytest.fixture
def recipe(tmp_path):
    LOG.calls.clear()
    LOG.broken.clear()
    return write(tmp_path, STAGES)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def go(recipe, out, *words, **options):
    """Run, and return the folders of the stages that worked."""
    LOG.calls.clear()
    run(recipe, out, words, kinds=KINDS, **options)
    return [folder for folder, *_ in LOG.calls]


def states(out):
    return [stage["state"] for stage in json.loads((out / "run.json").read_text())["stages"]]


def test_each_stage_starts_from_the_one_before_and_is_done_once(recipe, out):
    assert go(recipe, out) == ALL
    assert [base for _, base, _ in LOG.calls] == ["base", "1-make", "2-train", "3-tune"]
    assert go(recipe, out) == []
    assert states(out) == ["done"] * 4


def test_what_the_folder_holds(recipe, out):
    go(recipe, out, "seed=3")
    summary = json.loads((out / "run.json").read_text())
    assert summary["done"]
    assert summary["seeds"] == {"train": 3, "tune": 3, "score": 3}
    assert {"twoway", "torch", "python"} <= summary["versions"].keys()
    assert summary["git"] is None or {"commit", "dirty"} == summary["git"].keys()
    assert summary["machine"]["ranks"] == 1
    assert summary["stages"][1]["figures"] == {"steps": 4, "loss": 0.5}
    page = (out / "report.html").read_text()
    assert "4 of 4" in page
    assert "<script" not in page
    # The resolved recipe is a recipe, and says the same.
    assert go(out / "recipe.yaml", out) == []


def test_a_stage_that_was_cut_off_goes_on(recipe, out):
    LOG.broken["2-train"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        go(recipe, out)
    assert not (out / "2-train" / "made.json").exists()
    assert go(recipe, out) == ["2-train", "3-tune", "4-score"]
    assert LOG.calls[0] == ("2-train", "1-make", 2)
    assert json.loads((out / "2-train.json").read_text())["calls"] == 2


@pytest.mark.parametrize("kind", [TwowayError, UsageError])
def test_a_failed_stage_leaves_those_before_and_names_the_command(recipe, out, kind):
    LOG.broken["3-tune"] = kind("the disk is full")
    with pytest.raises(
        kind, match=r"stage tune: the disk is full; .*1-make, .*2-train stand; go on with: twoway run .*recipe.yaml .*out learning_rate=1$"
    ):
        go(recipe, out, "learning_rate=1")
    assert states(out) == ["done", "done", "failed", "to do"]
    assert "the disk is full" in (out / "report.html").read_text()
    assert go(recipe, out, "learning_rate=1") == ["3-tune", "4-score"]


def test_an_error_that_nobody_foresaw_names_the_command_too(recipe, out):
    LOG.broken["2-train"] = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        go(recipe, out)
    assert "1-make stands; go on with: twoway run" in caught.value.__notes__[0]


def test_a_stop_passes_through(recipe, out):
    LOG.broken["2-train"] = Stopped(signal.SIGTERM, "at step 2")
    with pytest.raises(Stopped) as caught:
        go(recipe, out)
    assert caught.value.code == 143
    assert states(out) == ["done", "begun", "to do", "to do"]


def test_a_signal_within_a_stage_that_does_not_listen_ends_the_run_in_order(recipe, out, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("recipe_fakes._run", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        go(recipe, out)
    assert signal.getsignal(signal.SIGTERM) == before
    assert states(out) == ["begun", "to do", "to do", "to do"]


def test_a_signal_that_a_stage_hears_too_late_ends_the_run_behind_it(recipe, out, monkeypatch):
    import recipe_fakes

    plain = recipe_fakes._run

    def listen(*given):
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
        return plain(*given)

    with monkeypatch.context() as patched:
        patched.setattr(recipe_fakes, "_run", listen)
        with pytest.raises(Stopped, match="SIGTERM after make"):
            go(recipe, out)
    assert states(out) == ["done", "to do", "to do", "to do"]
    assert go(recipe, out) == ALL[1:]


def test_two_runs_in_one_folder_are_refused(recipe, out, monkeypatch):
    def again(*_):
        run(recipe, out, kinds=KINDS)

    monkeypatch.setattr("recipe_fakes._run", again)
    with pytest.raises(UsageError, match="another run is writing to"):
        go(recipe, out)


def test_a_changed_stage_is_refused_with_the_difference(recipe, out):
    go(recipe, out)
    with pytest.raises(
        UsageError, match=r"2-train was made of something else: steps was 4 and is 5\. --redo runs train again, and with it tune, score"
    ):
        go(recipe, out, "train.steps=5")
    assert LOG.calls == []
    assert go(recipe, out) == []


def test_redo_does_what_is_stale_again_and_keeps_the_old(recipe, out):
    go(recipe, out)
    old = (out / "2-train" / "made.json").read_text()
    assert go(recipe, out, "train.steps=5", redo=True) == ALL[1:]
    assert (out / "stale" / "2-train-1" / "made.json").read_text() == old
    assert (out / "stale" / "2-train-1.json").exists()
    assert go(recipe, out, "train.steps=5") == []
    assert go(recipe, out, redo=True) == ALL[1:]
    assert (out / "stale" / "2-train-2").is_dir()


def test_a_stage_that_was_cut_off_and_changed_is_not_gone_on_with(recipe, out):
    LOG.broken["2-train"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        go(recipe, out)
    with pytest.raises(UsageError, match="2-train was made of something else"):
        go(recipe, out, "train.learning_rate=9")
    assert go(recipe, out, "train.learning_rate=9", redo=True) == ALL[1:]
    assert LOG.calls[0] == ("2-train", "1-make", 0)


def test_a_result_that_somebody_changed_is_stale(recipe, out):
    go(recipe, out)
    (out / "2-train" / "made.json").write_text("{}")
    with pytest.raises(UsageError, match=r"2-train was made of something else: made\.json is not the one that the stage wrote"):
        go(recipe, out)


def test_a_folder_that_is_gone_is_made_again(recipe, out):
    import shutil

    go(recipe, out)
    shutil.rmtree(out / "3-tune")
    assert go(recipe, out) == ["3-tune"]


def test_only_and_from(recipe, out):
    with pytest.raises(UsageError, match=r"make is not done in .*out, and is needed"):
        go(recipe, out, only="train")
    assert go(recipe, out, only="make") == ["1-make"]
    assert go(recipe, out, start="train") == ALL[1:]
    assert go(recipe, out, only="train") == []
    assert go(recipe, out, only="train", redo=True) == ["2-train"]
    assert go(recipe, out, start="tune", redo=True) == ["3-tune", "4-score"]
    with pytest.raises(UsageError, match=r"no stage 'tran'; did you mean train\?"):
        go(recipe, out, only="tran")
    with pytest.raises(UsageError, match="exclude each other"):
        go(recipe, out, only="train", start="train")


def test_from_uses_what_stands_before_though_it_is_stale(recipe, out, capsys):
    go(recipe, out)
    assert go(recipe, out, "train.steps=5", start="tune") == []
    assert "train: used as it is, although steps was 4 and is 5" in capsys.readouterr().err


def test_after_a_failure_the_command_named_does_again_what_is_left(recipe, out):
    go(recipe, out)
    LOG.broken["3-tune"] = TwowayError("no")
    with pytest.raises(TwowayError, match=r"go on with: twoway run .* --start tune --redo"):
        go(recipe, out, start="train", redo=True)


def test_what_is_done_again_goes_on_where_it_was_cut_off(recipe, out):
    go(recipe, out)
    for _ in range(2):
        LOG.broken["2-train"] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            go(recipe, out, only="train", redo=True)
    assert go(recipe, out, only="train", redo=True) == ["2-train"]
    assert sorted(path.name for path in (out / "stale").iterdir()) == ["2-train-1", "2-train-1.json"]


def test_what_is_missing_is_met_before_any_work(tmp_path, out):
    path = write(tmp_path, {"make": {}, "train": {"data": [{"spec": str(tmp_path / "gone.jsonl")}]}})
    with pytest.raises(TwowayError, match=r"train: there is no .*gone\.jsonl"):
        go(path, out)
    assert LOG.calls == []
    assert not out.exists()


def test_folders_that_are_not_ours_are_left_alone(recipe, out):
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists already and is not a run of a recipe"):
        go(recipe, out)
    (out / "thesis.txt").unlink()
    go(recipe, out)
    (out / "2-train.json").unlink()
    with pytest.raises(UsageError, match="2-train exists already, and nothing says what made it"):
        go(recipe, out, redo=True)
    (out / "2-train.json").write_text("no json")
    with pytest.raises(TwowayError, match=r"2-train\.json is not a record of a stage"):
        go(recipe, out)


def test_ranks_are_handed_through(tmp_path, out, monkeypatch):
    import dataclasses

    seen = []

    def work(base, folder, config, nproc):
        folder.mkdir()
        (folder / "made.json").write_text("{}")
        seen.append(nproc)
        return {}

    kinds = {"make": dataclasses.replace(KINDS["make"], run=work)}
    run(write(tmp_path, {"make": {}}), out, kinds=kinds, nproc=2)
    assert seen == [2]
    with pytest.raises(UsageError, match="nproc takes a whole number from 1"):
        run(tmp_path / "recipe.yaml", out, kinds=kinds, nproc=0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="under torchrun"):
        run(tmp_path / "recipe.yaml", out, kinds=kinds)
