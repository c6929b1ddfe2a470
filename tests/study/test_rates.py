"""A rate is the best of those that held; what says nothing is an error and never a zero."""

from __future__ import annotations

import json

import pytest

from study_fakes import KINDS, write
from twoway.errors import TwowayError, UsageError
from twoway.files import sha256
from twoway.recipes.records import Record
from twoway.study import run
from twoway.study.config import Choice, read_study
from twoway.study.grid import GateVerdict, GridBuilder, found_choices

SCORE = "mrr/held-out"
ARMS = {"a": {"learning_rate": {"rates": [1.0, 2.0, 4.0], "rows": 2}}, "b": {"learning_rate": {"like": "a"}}}


def chosen(folder, figures):
    """Return the rates after tries that said `figures`."""
    return {arm: choice.learning_rate for arm, choice in found_choices(*tried(folder, figures)).items()}


def tried(folder, figures, **changes):
    """Return a study and its jobs after tries that said `figures`."""
    study = read_study(write(folder, **{"arms": ARMS, "claims": []} | changes), kinds=KINDS)
    grid = GridBuilder(study, folder / "out", KINDS).lay_out({})
    for (_, key), said in zip(grid.trials["a"].items(), figures, strict=True):
        task = grid.tasks[key]
        task.folder.mkdir(parents=True)
        (task.folder / task.job.kind.marker).write_text("{}")
        made = sha256(task.folder / task.job.kind.marker)
        Record("a", task.key, {}, state="done", made=made, figures=json.loads(json.dumps(said))).write(task.folder)
    return study, grid


def test_the_best_is_taken_and_of_equal_ones_the_smallest(tmp_path):
    assert chosen(tmp_path, [{SCORE: 0.2}, {SCORE: 0.5}, {SCORE: 0.5}]) == {"a": 2.0, "b": 2.0}


def test_the_stage_is_chosen_with_the_rate(tmp_path):
    stages = {
        name: {"stage": "shape", "per_device_train_batch_size": 4, "rows": rows}
        for name, rows in (("quick", 8), ("steady", 16), ("other", 24))
    }
    arms = {"a": {"from": ["quick", "steady"], "learning_rate": {"rates": [1.0, 2.0], "rows": 2}}, "b": {"from": "other"}}
    study, grid = tried(tmp_path, [{SCORE: 0.2}, {SCORE: 0.3}, {SCORE: 0.5}, {SCORE: 0.1}], stages=stages, arms=arms)
    assert [choice.label(alone=False) for choice in grid.trials["a"]] == ["quick 1", "quick 2", "steady 1", "steady 2"]
    assert found_choices(study, grid) == {"a": Choice(1.0, "steady")}
    whole = GridBuilder(study, tmp_path / "out", KINDS).lay_out(found_choices(study, grid))
    assert {whole.tasks[one.finetune].job.source for one in whole.runs if one.arm == "a"} == {"steady"}
    assert [len(keys) for keys in (whole.named["quick"], whole.named["steady"], whole.named["other"])] == [1, 1, 1]
    run.write_study_summary(study, whole, tmp_path / "out", run.Facts("running", 1, GateVerdict(), {}))
    said = json.loads((tmp_path / "out" / run.SUMMARY_FILE).read_text())["arms"]["a"]
    assert (said["from"], said["learning_rate"], said["rates"]["steady 1"]) == ("steady", 1.0, 0.5)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"from": ["first", "base"]}, "the best of several stages is found by trial"),
        ({"from": ["first", "frist"], "learning_rate": {"rates": [1.0], "rows": 2}}, "no stage 'frist'; did you mean first"),
    ],
)
def test_stages_that_cannot_be_chosen_from_are_refused(arm, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        read_study(write(tmp_path, arms={"a": arm}, claims=[]), kinds=KINDS)


def test_a_try_that_broke_down_is_not_taken(tmp_path):
    assert chosen(tmp_path, [{SCORE: float("nan")}, {SCORE: 0.1}, {SCORE: 0.2}]) == {"a": 4.0, "b": 4.0}


def test_no_try_that_holds_is_no_rate(tmp_path):
    study, grid = tried(tmp_path, [{SCORE: float("nan")}] * 3)
    assert found_choices(study, grid) == {}
    run.write_study_summary(study, grid, tmp_path / "out", run.Facts("failed", 1, GateVerdict(), {}))
    arms = json.loads((tmp_path / "out" / run.SUMMARY_FILE).read_text())["arms"]
    why = "is not known: with none of those that were tried is the score a number"
    assert [arms[name]["waits"] for name in ("a", "b")] == [f"its learning rate {why}", f"the learning rate of a {why}"]


def test_a_try_that_says_nothing_is_no_zero(tmp_path):
    with pytest.raises(TwowayError, match=f"measured no {SCORE}.* more data"):
        chosen(tmp_path, [{SCORE: 0.2}, {}, {SCORE: 0.5}])


def test_tries_may_have_rows_of_their_own(tmp_path):
    sources = {"data": [{"spec": "few.jsonl"}], "eval_data": [{"spec": "one.jsonl"}, {"spec": "two.jsonl"}]}
    search = ARMS["a"]["learning_rate"] | sources | {"held_out": 7}
    scores = [{"mrr/one.jsonl": one, "mrr/two.jsonl": two, SCORE: 1 - one} for one, two in ((0.2, 0.2), (0.9, 0.1), (0.4, 0.4))]
    study, grid = tried(tmp_path, scores, arms={"a": {"learning_rate": search}})
    assert found_choices(study, grid)["a"].learning_rate == 2.0
    for key in grid.trials["a"].values():
        config = grid.tasks[key].job.config
        assert [source.spec for source in config.data] == ["few.jsonl"]
        assert (config.held_out, config.eval_rows, len(config.eval_data)) == (0, 7, 2)
    assert {run.arm for run in GridBuilder(study, tmp_path / "out", KINDS).lay_out(found_choices(study, grid)).runs} == {"a"}
    assert study.arms[0].recipe.config.data != grid.tasks[key].job.config.data
