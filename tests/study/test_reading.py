"""A study file: what it becomes, and what is refused with place and near words."""

from __future__ import annotations

from pathlib import Path

import pytest

import study_fakes
from study_fakes import KINDS, write
from twoway.errors import UsageError
from twoway.recipes.stages import KINDS as REAL
from twoway.study.config import read_study, rows_of_step, rows_read

HOME = Path(__file__).resolve().parents[2] / "studies"


def read(path, *words):
    return read_study(path, words, kinds=KINDS)


def test_rows_become_steps_and_what_all_arms_share_is_in_each(tmp_path):
    study = read(write(tmp_path, stages={"first": {"stage": "shape", "per_device_train_batch_size": 4, "batches_per_step": 2, "rows": 24}}))
    assert study.before[0].recipe.config.max_steps == 3
    assert [arm.recipe.config.max_steps for arm in study.arms] == [2, 2]
    assert [(arm.name, arm.recipe.source, arm.recipe.config.attention) for arm in study.arms] == [
        ("causal", "first", "causal"),
        ("two-way", "first", "two-way"),
    ]
    assert (study.smoke, study.seeds) == ("causal", (1, 2))
    assert rows_read(study.before[0].recipe.config) == 24
    assert rows_of_step(study.arms[0].recipe.config) == 2


def test_an_arm_starts_from_the_base_unless_it_says_otherwise(tmp_path):
    study = read(write(tmp_path, finetune={}, arms={"plain": None, "other": {"from": "first"}}, claims=[]))
    assert [arm.recipe.source for arm in study.arms] == ["base", "first"]


def test_words_stand_over_the_file(tmp_path):
    study = read(write(tmp_path), "seeds=[7]", "finetune.rows=8", "arms.causal.learning_rate=0.5", "stages.first.rows=4", "gate.gap=0")
    assert study.seeds == (7,)
    assert [arm.recipe.config.max_steps for arm in study.arms] == [4, 4]
    assert [arm.recipe.config.learning_rate for arm in study.arms] == [0.5, 1.0]
    assert (study.before[0].recipe.config.max_steps, study.gate.gap) == (1, 0.0)


def test_how_rates_are_tried_may_be_shared_and_an_arm_may_take_another_ones(tmp_path):
    shared = {"learning_rate": {"rows": 8, "held_out": 5, "eval_data": [{"spec": "rows.jsonl"}]}}
    arms = {"a": {"learning_rate": {"rates": [1.0, 2.0]}}, "b": {"learning_rate": {"rates": [4.0]}}, "c": {"learning_rate": {"like": "a"}}}
    study = read(write(tmp_path, finetune=shared, arms=arms, claims=[]))
    assert [(arm.search.rates, arm.search.rows, arm.search.held_out, arm.search.like) for arm in study.arms] == [
        ((1.0, 2.0), 8, 5, None), ((4.0,), 8, 5, None), ((), 0, 64, "a"),
    ]  # fmt: skip


CLAIM = {"key": "pays", "claim": 1, "says": "it pays"}
BAD = {
    "a key that a study has not": ({"arm": {}}, "a study has no key arm; did you mean arms"),
    "no arms": ({"arms": {}}, "a study has arms"),
    "a key that a stage has not": ({"arms": {"a": {"atention": "causal"}}, "claims": []}, "unknown key atention; did you mean attention"),
    "a stage that there is not": ({"arms": {"a": {"from": "frist"}}, "claims": []}, "did you mean first"),
    "an arm of another stage": ({"arms": {"a": {"stage": "shape"}}, "claims": []}, "an arm is a contrastive stage"),
    "one name twice": ({"arms": {"first": {}}, "claims": []}, "is the name of a stage and of an arm"),
    "seeds of an arm": ({"arms": {"a": {"seeds": [7]}}, "claims": []}, "all arms have those of the study"),
    "rows that make no whole step": ({"finetune": {"rows": 5}}, "multiple of the 2 rows of a step, not 5"),
    "rows without a fixed step": ({"stages": {"first": {"stage": "shape", "rows": 8}}}, "set per_device_train_batch_size beside rows"),
    "a seed twice": ({"seeds": [1, 1]}, "seeds are different numbers"),
    "a claim about no arm": ({"claims": [CLAIM | {"better": "two-wy", "than": "causal"}]}, "no arm 'two-wy'; did you mean two-way"),
    "a claim of one arm": ({"claims": [CLAIM | {"better": "two-way"}]}, "names two arms"),
    "two claims of one key": ({"claims": [CLAIM | {"better": "two-way", "than": "causal"}] * 2}, "two claims have the key pays"),
    "a claim about a task that is not scored": (
        {"evaluate": {"tasks": ["composed"]}, "claims": [CLAIM | {"better": "two-way", "than": "causal", "tasks": ["compsed"]}]},
        "claim pays: the study scores no task 'compsed'; did you mean composed",
    ),
    "a claim about a group that is not scored": (
        {"evaluate": {"tasks": ["composed"]}, "claims": [CLAIM | {"better": "two-way", "than": "causal", "groups": ["retreival"]}]},
        "claim pays: the study scores no task of 'retreival'; did you mean retrieval? (there are: retrieval, known style)",
    ),
    "a task that the suite has not": ({"evaluate": {"tasks": ["compsed"]}}, "the suite nano has no task 'compsed'; did you mean composed"),
    "a suite without its folder": ({"evaluate": {"suite": "mmeb"}}, "the suite mmeb needs data DIR"),
    "a difference below none": ({"smallest": -0.01}, "smallest is a difference of 0 or more"),
    "a curve of one point": ({"claims": [CLAIM | {"curve": {"axis": "x", "points": {"0": "causal"}}}]}, "at least two points"),
    "a control elsewhere": (
        {"claims": [CLAIM | {"curve": {"axis": "x", "points": {"0": "causal", "1": "two-way"}, "control": {"2": "causal"}}}]},
        "the control has a dose 2",
    ),
    "half a search": ({"arms": {"a": {"learning_rate": {"rates": [1.0]}}}, "claims": []}, "learning_rate is a number, or {rates"),
    "a rate like nobody's": ({"arms": {"a": {"learning_rate": {"like": "b"}}}, "claims": []}, "there is no arm 'b'"),
    "rates like each other's": (
        {"arms": {"a": {"learning_rate": {"like": "b"}}, "b": {"learning_rate": {"like": "a"}}}, "claims": []},
        "a rate of its own",
    ),
    "a gate at no arm": ({"gate": {"arm": "causl"}}, "did you mean causal"),
    "a suite that there is not": ({"evaluate": {"suite": "nanoo"}}, "did you mean nano"),
}


@pytest.mark.parametrize(("changes", "said"), BAD.values(), ids=list(BAD))
def test_what_cannot_be_is_refused(tmp_path, changes, said):
    with pytest.raises(UsageError) as refused:
        read(write(tmp_path, **changes))
    assert said in str(refused.value)
    assert "study.yaml" in str(refused.value)


def test_what_lies_beyond_the_papers_is_compared_at_equal_rows_and_tries():
    study = read_study(HOME / "beyond.yaml")
    trained = [arm for arm in study.arms if not arm.merges]
    assert len({rows_read(arm.recipe.config) for arm in trained}) == 1
    assert {len(arm.choices) for arm in trained if arm.search.like is None} == {3}
    assert {claim.claim for claim in study.claims} == set(range(9, 14))
    assert {name for claim in study.claims for name in claim.arms()} == {arm.name for arm in study.arms}
    assert {arm.recipe.source for arm in trained} == {"base"}


@pytest.mark.parametrize("name", ["quick", "full", "large"])
def test_shipped_studies_are_whole(name):
    study = read_study(HOME / f"{name}.yaml")
    assert len(study.seeds) >= 3
    amounts = {one.recipe.name: rows_read(one.recipe.config) for one in study.before}
    for arm in study.arms:
        assert rows_read(arm.recipe.config) == rows_read(study.arms[0].recipe.config), "arms differ in their contrastive rows"
    used = {name for claim in study.claims for name in claim.arms()}
    assert used <= {arm.name for arm in study.arms}
    assert {claim.claim for claim in study.claims} == ({1, 2, 6} if name == "quick" else set(range(1, 9)))
    if name == "quick":
        assert amounts["moca"] == amounts["next-token"] == amounts["warm-up"] + amounts["bridge"]


def test_fakes_have_the_keys_that_the_runner_sets():
    assert study_fakes.KINDS["finetune"].keys - {"slow", "fail"} <= REAL["finetune"].keys
