"""A study from end to end with stages that take no time, each job in a process of its own: done, gone on with, failed, stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import study_fakes
from study_fakes import KINDS, began, calls, do, facts, write
from twoway.errors import TwowayError, UsageError
from twoway.processes import Stopped
from twoway.study.forecast import forecast_study
from twoway.study.run import Workers

pytestmark = pytest.mark.xdist_group("ranks")


def until(ready, seconds=120):
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)


def test_all_is_done_once_and_a_second_call_does_nothing(tmp_path):
    path, out = write(tmp_path), tmp_path / "out"
    result = do(path, out, jobs=3)
    assert (result.state, result.done, result.failed) == ("done", 10, ())
    assert began(tmp_path) == {"first": 1, "causal": 2, "two-way": 2}
    assert {str(one.relative_to(out)) for one in (out / "results").rglob("*.json")} == {
        f"results/{arm}/seed-{seed}.json" for arm in ("causal", "two-way") for seed in (1, 2)
    }
    assert (out / "results" / "causal" / "seed-1.items.parquet").read_bytes() == b"items"
    made = {arm: json.loads((out / "results" / arm / "seed-2.json").read_text())["made"] for arm in ("causal", "two-way")}
    assert (made["causal"]["seed"], made["causal"]["attention"], made["two-way"]["attention"]) == (2, "causal", "two-way")
    study = facts(out)
    assert study["state"] == "done"
    assert study["stages"]["first"]["rows"] == 8
    assert [one["state"] for one in study["arms"]["two-way"]["runs"]] == ["done", "done"]
    assert study["arms"]["two-way"]["before"]["rows"] == 8
    assert json.loads((out / "gate.json").read_text())["passed"] is True
    assert all((out / job["log"]).exists() for job in study["jobs"])

    again = do(path, out)
    assert (again.state, again.done) == ("done", 10)
    assert sum(began(tmp_path).values()) == 5


def test_a_report_that_cannot_be_made_ends_no_job_and_more_seeds_do_what_is_new_alone(tmp_path, capsys):
    def broken(_out):
        raise TwowayError("the items are not those of other runs")

    path, out = write(tmp_path), tmp_path / "out"
    assert do(path, out, words=["seeds=[1]"], seen=broken).state == "done"
    assert "no report: the items are not those of other runs" in capsys.readouterr().err
    assert do(path, out).done == 10
    assert began(tmp_path) == {"first": 1, "causal": 2, "two-way": 2}


def test_results_of_another_design_do_not_stay(tmp_path):
    path, out = write(tmp_path, seeds=[1]), tmp_path / "out"
    do(path, out)
    assert do(path, out, words=["arms.causal.learning_rate=0.5", "arms.two-way.fail=true"]).state == "failed"
    made = json.loads((out / "results" / "causal" / "seed-1.json").read_text())["made"]
    assert made["learning_rate"] == 0.5
    assert not list((out / "results" / "two-way").iterdir())
    assert facts(out)["arms"]["two-way"]["runs"][0]["state"] == "failed"


def test_a_failed_job_takes_along_what_needs_it_and_nothing_else(tmp_path):
    arms = {"good": {}, "bad": {"fail": True}}
    path, out = write(tmp_path, arms=arms, claims=[], seeds=[1]), tmp_path / "out"
    result = do(path, out)
    assert result.state == "failed"
    ((job, why, log),) = result.failed
    assert (job, why) == ("bad, seed 1", "the data is bad in row 7")
    assert "the data is bad in row 7" in Path(log).read_text()
    assert (out / "results" / "good" / "seed-1.json").exists()
    runs = {name: arm["runs"][0] for name, arm in facts(out)["arms"].items()}
    assert (runs["good"]["state"], runs["bad"]["state"], runs["bad"]["error"]) == ("done", "failed", "the data is bad in row 7")
    # The same call tries it again, from where it broke off.
    do(path, out)
    assert [line for line in calls(tmp_path) if line.startswith("bad")] == ["bad 1 0", "bad 1 1"]


def test_what_a_failed_stage_takes_along_says_so(tmp_path):
    stages = {
        "first": {"stage": "shape", "per_device_train_batch_size": 4, "rows": 8},
        "lost": {"stage": "shape", "from": "first", "fail": True},
    }
    rate = {"rates": [1.0, 3.0], "rows": 2}
    arms = {
        "good": {},
        "bad": {"from": "lost"},
        "searched": {"from": "lost", "learning_rate": rate},
        "like": {"learning_rate": {"like": "searched"}},
    }
    path, out = write(tmp_path, stages=stages, arms=arms, claims=[], seeds=[1]), tmp_path / "out"
    assert do(path, out).state == "failed"
    found = facts(out)["arms"]
    assert found["bad"]["runs"][0]["error"] == "lost failed: the data is bad in row 7"
    assert (found["good"]["runs"][0]["error"], found["good"]["waits"]) == (None, None)
    assert found["searched"]["waits"] == "its learning rate is not known: lost failed: the data is bad in row 7"
    assert found["like"]["waits"] == "the learning rate of searched is not known: lost failed: the data is bad in row 7"


def test_a_stop_by_signal_is_gone_on_with(tmp_path):
    path, out = write(tmp_path, finetune={"from": "first", "rows": 16, "slow": 0.25}, seeds=[1]), tmp_path / "out"
    timer = threading.Thread(target=_when, args=(lambda: any(line.startswith("causal") for line in calls(tmp_path)), signal.SIGTERM))
    timer.start()
    with pytest.raises(Stopped) as stopped:
        do(path, out)
    timer.join()
    assert stopped.value.code == 143
    assert facts(out)["state"] == "stopped"
    assert do(path, out, words=[]).state == "done"
    steps = [line for line in calls(tmp_path) if line.startswith("causal")]
    assert len(steps) == 2
    assert int(steps[1].split()[2]) >= int(steps[0].split()[2])
    assert began(tmp_path)["first"] == 1


def test_a_stop_while_a_job_is_being_started_reaches_that_job(tmp_path):
    workers, told = Workers(1, tmp_path / "logs"), []

    class Process:
        def __init__(self, **_about):
            pass

        def start(self):
            workers.stop()  # as the handler of a signal does that arrives here

        def terminate(self):
            told.append("job")

    workers._context = SimpleNamespace(Process=Process)
    workers.start(SimpleNamespace(key="key", title="a job", folder=tmp_path / "job", base="base", ready=lambda: None))
    assert told == ["job"]


def _when(ready, number, whom=os.getpid):
    until(ready)
    os.kill(whom(), number)


def test_a_job_that_is_killed_is_named_and_gone_on_with(tmp_path):
    path, out = (
        write(tmp_path, finetune={"from": "first", "rows": 16, "slow": 0.25}, arms={"one": {}}, claims=[], seeds=[1]),
        tmp_path / "out",
    )
    steps = f"{out.name}/stages/one-*/steps"
    timer = threading.Thread(target=_when, args=(lambda: list(tmp_path.glob(steps)), signal.SIGKILL, _worker))
    timer.start()
    result = do(path, out)
    timer.join()
    ((job, why, _),) = result.failed
    assert (job, why) == ("one, seed 1", "it ended with code -9")
    so_far = next(tmp_path.glob(steps)).read_text()
    assert do(path, out).state == "done"
    assert [line for line in calls(tmp_path) if line.startswith("one")] == ["one 1 0", f"one 1 {so_far}"]


def _worker():
    return next(child.pid for child in multiprocessing.active_children() if child.name.startswith("one"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_that_is_killed_leaves_no_worker_behind_and_is_gone_on_with(tmp_path):
    path, out = write(tmp_path, finetune={"from": "first", "rows": 40, "slow": 0.25}, seeds=[1]), tmp_path / "out"
    code = f"from study_fakes import KINDS; from twoway.study.run import run_grid; run_grid({str(path)!r}, {str(out)!r}, kinds=KINDS)"
    study = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])
    until(lambda: list(out.glob("stages/causal-*/steps")), 600)
    study.kill()
    study.wait()
    (steps,) = out.glob("stages/causal-*/steps")
    time.sleep(0.5)
    so_far = steps.read_text()
    time.sleep(0.6)
    assert steps.read_text() == so_far, "a worker goes on although nobody waits for it"
    assert do(path, out).state == "done"
    assert [line for line in calls(tmp_path) if line.startswith("causal")] == ["causal 1 0", f"causal 1 {so_far}"]


def test_the_best_rate_on_training_rows_is_taken(tmp_path):
    arms = {"a": {"learning_rate": {"rates": [1.0, 3.0, 9.0], "rows": 2}}, "b": {"pooling": "last", "learning_rate": {"like": "a"}}}
    path, out = write(tmp_path, arms=arms, claims=[], seeds=[1]), tmp_path / "out"
    assert do(path, out).state == "done"
    study = facts(out)["arms"]
    assert (study["a"]["learning_rate"], study["b"]["learning_rate"]) == (3.0, 3.0)
    assert study["a"]["rates"] == {"1": pytest.approx(1 / 3), "3": 1.0, "9": pytest.approx(1 / 7)}
    counted = [(line.times, line.done) for line in forecast_study(path, out, kinds=KINDS).lines]
    assert all(times == done for times, done in counted), "a forecast knows the rate that was found"


def test_a_base_that_does_not_look_decides_nothing(tmp_path):
    path, out = write(tmp_path, gap=0.2), tmp_path / "out"
    result = do(path, out)
    assert result.state == "not decidable"
    assert "saves 0.20 nats a word" in result.why
    assert calls(tmp_path) == []
    assert json.loads((out / "gate.json").read_text())["passed"] is False


def test_a_first_arm_at_chance_decides_nothing(tmp_path):
    path, out = write(tmp_path, arms={"lost": {"learning_rate": 1000.0}, "other": {}}, claims=[]), tmp_path / "out"
    result = do(path, out)
    assert result.state == "not decidable"
    assert "the first arm, lost, does not clear chance" in result.why
    assert began(tmp_path) == {"first": 1, "lost": 1}


def test_what_is_wrong_before_any_work(tmp_path):
    path = write(tmp_path)
    with pytest.raises(UsageError, match="--jobs is at least 1"):
        do(path, tmp_path / "out", jobs=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not a run"):
        do(path, tmp_path / "full")
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(TwowayError, match=r"rows\.jsonl"):
        do(path, tmp_path / "out")
    assert study_fakes.calls(tmp_path) == []
