"""Arms that merge others, and arms that are scored in a way of their own: what they need, what they share, what is refused."""

from __future__ import annotations

import json

import pytest

from study_fakes import KINDS, began, do, facts, write
from twoway.errors import UsageError
from twoway.study.config import read_study
from twoway.study.grid import GridBuilder, chosen_arms
from twoway.study.outcomes import ArmRuns
from twoway.study.run import resolved

pytestmark = pytest.mark.xdist_group("ranks")

STAGES = {
    "first": {"stage": "shape", "per_device_train_batch_size": 4, "rows": 8},
    "judge": {"stage": "shape", "from": "first", "per_device_train_batch_size": 4, "rows": 12},
}
RATE = {"rates": [1.0, 3.0], "rows": 2}
ARMS = {
    "plain": {"learning_rate": RATE},
    "other": {"pooling": "last", "learning_rate": {"like": "plain"}},
    "merged": {"stage": "merge", "from": "plain", "models": ["stage:other"]},
    "reranked": {"learning_rate": {"like": "plain"}, "evaluate": {"rerank": "stage:judge", "rerank_top": 7}},
}
CLAIMS = [{"key": "merge", "claim": 9, "says": "a merge is better", "better": "merged", "than": "plain"}]


def written(folder, **changes):
    return write(folder, **{"stages": STAGES, "arms": ARMS, "claims": CLAIMS} | changes)


def test_a_merge_takes_each_seed_s_models_at_the_rate_that_was_found_and_a_reranker_another_s_model(tmp_path):
    path, out = written(tmp_path), tmp_path / "out"
    result = do(path, out, jobs=2)
    assert (result.state, result.failed) == ("done", ())
    # Two tries, and of each arm that trains two seeds; the reranked arm is the model of the plain one.
    assert began(tmp_path) == {"first": 1, "judge": 1, "plain": 2 + 2, "other": 2}
    arms = ("merged", "reranked", "plain")
    made = {arm: [json.loads((out / "results" / arm / f"seed-{seed}.json").read_text()) for seed in (1, 2)] for arm in arms}
    assert [one["made"]["parts"] for one in made["merged"]] == [[[1, 3.0], [1, 3.0]], [[2, 3.0], [2, 3.0]]]
    assert [one["made"] for one in made["reranked"]] == [one["made"] for one in made["plain"]]
    assert [one["judge"]["max_steps"] for one in made["reranked"]] == [3, 3]
    assert made["plain"][0]["judge"] is None

    arms = facts(out)["arms"]
    assert (arms["merged"]["from"], arms["merged"]["merges"], arms["merged"]["learning_rate"]) == ("first", ["plain", "other"], None)
    assert (arms["merged"]["rows"], arms["merged"]["before"]["rows"]) == (None, 8 + 4 + 4)
    assert arms["reranked"]["before"] == arms["reranked"]["before"] | {"stages": ["first", "judge"], "rows": 8 + 12}
    assert arms["plain"]["before"]["stages"] == ["first"]
    assert arms["plain"]["runs"][0]["search"] == {"numbers_per_item": 8.0, "compare_seconds_per_query": 0.002}
    assert {run["state"] for arm in arms.values() for run in arm["runs"]} == {"done"}
    titles = [job["name"] for job in facts(out)["jobs"]]
    assert len(titles) == len(set(titles)), titles
    assert {"merged, seed 2", "merged, seed 2, evaluate", "reranked, seed 1, evaluate", "plain, seed 1"} <= set(titles)
    assert "reranked, seed 1" not in titles


def test_a_merge_waits_for_the_rates_of_its_parts_and_claims_take_these_along(tmp_path):
    study = read_study(written(tmp_path), kinds=KINDS)
    grid = GridBuilder(study, tmp_path / "out", KINDS).lay_out({})
    assert set(grid.waiting) == set(ARMS)
    assert chosen_arms(study, (9,)) == {"plain", "other", "merged"}


def test_an_arm_s_own_evaluation_and_its_merge_are_in_the_resolved_study(tmp_path):
    study = read_study(written(tmp_path), kinds=KINDS)
    again = tmp_path / "again.yaml"
    again.write_text(resolved(study))
    found = read_study(again, kinds=KINDS)
    assert found.arms == study.arms
    assert [arm.evaluate.rerank for arm in found.arms] == [None, None, None, "stage:judge"]


def test_a_table_names_what_a_merge_is_of():
    assert ArmRuns("merged", {"from": "first", "merges": ["plain", "other"]}, (), ()).made_of == "plain + other"
    assert ArmRuns("plain", {"from": "first", "merges": []}, (), ()).made_of == "first"


BAD = {
    "an arm that trains on from an arm": ({"b": {"from": "plain"}}, "an arm starts from a stage, and plain is an arm"),
    "a merge of a stage": ({"b": {"stage": "merge", "from": "first", "models": ["stage:plain"]}}, "name one arm as from"),
    "a merge with a rate": ({"b": {"stage": "merge", "from": "plain", "models": [], "learning_rate": RATE}}, "a merge trains nothing"),
    "a merge with rows": ({"b": {"stage": "merge", "from": "plain", "models": [], "rows": 4}}, "rows are counted in steps"),
    "a merge of nobody": ({"b": {"stage": "merge", "from": "plain", "models": ["stage:plane"]}}, "did you mean plain"),
    "a merge before its parts": ({"b": {"stage": "merge", "from": "c"}, "c": {}}, "c, which is not done before it"),
    "a reranker that there is not": ({"b": {"evaluate": {"rerank": "stage:juge"}}}, "did you mean judge"),
    "other items": ({"b": {"evaluate": {"tasks": ["composed"]}}}, "all arms are asked the same items; tasks stands"),
    "a rate like a merge's": (
        {"b": {"stage": "merge", "from": "plain"}, "c": {"learning_rate": {"like": "b"}}},
        "like that of an arm with a rate of its own",
    ),
}


@pytest.mark.parametrize(("arms", "said"), BAD.values(), ids=list(BAD))
def test_what_cannot_be_is_refused(tmp_path, arms, said):
    with pytest.raises(UsageError) as refused:
        read_study(written(tmp_path, arms={"plain": {}} | arms, claims=[]), kinds=KINDS)
    assert said in str(refused.value)
    assert "study.yaml" in str(refused.value)
