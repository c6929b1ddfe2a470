"""How an evaluation opens its model: a setting that came later changes nothing that was there, and a stage's model is asked for none."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe_fakes import write
from twoway.errors import UsageError
from twoway.evaluation.config import EvaluateConfig
from twoway.recipes.recipe import read_recipe
from twoway.recipes.records import plan_jobs, result_settings

# What the fingerprint of an evaluation is over since there are evaluations; a key more or less and none of them would be found again.
HASHED = {"suite", "tasks", "subset", "pooling", "template", "dtype", "max_length", "on_bad"}
TRAINED = {"finetune": {"data": [{"spec": "samples:train"}]}}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"tasks": ("composd",)}, "the suite nano has no task 'composd'; did you mean composed"),
        ({"suite": "mmeb"}, "the suite mmeb needs data DIR"),
        ({"data": Path("here")}, "the suite nano brings its own data; leave data out"),
        ({"suite": "mteb:STS12", "on_bad": "skip"}, "scores its tasks whole"),
    ],
)
def test_what_the_suite_will_not_do_is_said_before_anything_is_trained(said, message):
    with pytest.raises(UsageError, match=message):
        EvaluateConfig(**said)


def test_groups_and_marks_are_those_of_the_tasks_that_are_scored(tmp_path):
    assert EvaluateConfig(tasks=("page", "composed")).kinds() == ("retrieval", "known style", "documents")
    assert EvaluateConfig(suite="mteb:STS12").kinds() == ()


def score(path, *words):
    return read_recipe(path, words).stages[-1]


def test_an_attention_that_is_not_asked_for_is_in_no_fingerprint(tmp_path):
    path = write(tmp_path, {"score": {"stage": "evaluate"}})
    assert result_settings(score(path)).keys() == HASHED
    asked = {way: plan_jobs(read_recipe(path, [f"score.attention={way}"]))[0] for way in ("two-way", "causal", "null")}
    assert {way: job.parts["config"].get("attention") for way, job in asked.items()} == {
        "two-way": "two-way",
        "causal": "causal",
        "null": None,
    }
    assert len({job.fingerprint for job in asked.values()}) == 3
    assert asked["null"].fingerprint == plan_jobs(read_recipe(path))[0].fingerprint
    assert asked["causal"].config.opening()["attention"] == "causal"


@pytest.mark.parametrize("words", [[], ["attention=causal"], ["*.attention=causal"]])
def test_attention_of_the_whole_recipe_is_what_is_trained_with(tmp_path, words):
    path = write(tmp_path, {**TRAINED, "score": {"stage": "evaluate"}}, **({} if words else {"attention": "causal"}))
    tuned, scored = read_recipe(path, words).stages
    assert (tuned.config.attention, scored.config.attention) == ("causal", None)


def test_an_attention_that_would_reach_no_stage_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no stage of this recipe has a key attention; evaluate takes it under its own name alone"):
        read_recipe(write(tmp_path, {"score": {"stage": "evaluate"}}, attention="causal"))


@pytest.mark.parametrize("said", ["attention=causal", "pooling=last", "template=plain"])
def test_how_a_model_of_a_stage_is_read_is_a_problem_before_anything_is_trained(tmp_path, said):
    name = said.partition("=")[0]
    path = write(tmp_path, {**TRAINED, "score": {"stage": "evaluate"}})
    tuned, scored = plan_jobs(read_recipe(path, [f"score.{said}"]))
    assert not tuned.problems
    assert scored.problems == (f"score: {name} is for a model that does not say it itself, and that of finetune does; leave it out",)
    bare = plan_jobs(read_recipe(path, [f"score.{said}", "score.from=base"]))
    assert not bare[1].problems
