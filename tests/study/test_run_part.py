"""Part of a study: the jobs that some claims need, and no more; a later call does the rest."""

from __future__ import annotations

import pytest

from study_fakes import began, do, facts, write
from twoway.errors import TwowayError, UsageError

pytestmark = pytest.mark.xdist_group("ranks")

THREE = {
    "stages": {
        "first": {"stage": "shape", "per_device_train_batch_size": 4, "rows": 8},
        "second": {"stage": "shape", "per_device_train_batch_size": 4, "rows": 16},
    },
    "arms": {
        "causal": {},
        "two-way": {"learning_rate": {"like": "other"}},
        "other": {"pooling": "last", "learning_rate": {"rates": [1.0, 3.0], "rows": 2}},
        "more": {"from": "second"},
    },
    "seeds": [1],
    "claims": [
        {"key": "pays", "claim": 1, "says": "two-way is better", "better": "two-way", "than": "causal"},
        {"key": "more", "claim": 4, "says": "more is better", "better": "more", "than": "causal"},
    ],
}


def test_some_claims_are_done_first_and_the_rest_by_a_later_call(tmp_path):
    path, out = write(tmp_path, **THREE), tmp_path / "out"
    result = do(path, out, claims=(4,))
    assert (result.state, result.failed) == ("in part", ())
    assert began(tmp_path) == {"first": 1, "second": 1, "causal": 1, "more": 1}
    about = facts(out)
    assert about["state"] == "in part"
    assert about["command"].endswith("--claims 4")
    assert {name: [run["state"] for run in arm["runs"]] for name, arm in about["arms"].items()} == {
        "causal": ["done"],
        "two-way": [],
        "other": [],
        "more": ["done"],
    }
    assert do(path, out, claims=(4,)).state == "in part"
    assert sum(began(tmp_path).values()) == 4
    assert do(path, out).state == "done"
    assert began(tmp_path) == {"first": 1, "second": 1, "causal": 1, "more": 1, "two-way": 1, "other": 3}
    assert "--claims" not in facts(out)["command"]


def test_a_claim_takes_the_arm_whose_rate_it_uses_and_a_number_that_there_is_not_is_refused(tmp_path):
    path, out = write(tmp_path, **THREE), tmp_path / "out"
    with pytest.raises(UsageError, match=r"has no claim 2 \(it has 1, 4\)"):
        do(path, out, claims=(1, 2))
    assert not out.exists()
    assert do(path, out, claims=(1,)).state == "in part"
    assert began(tmp_path) == {"first": 1, "causal": 1, "two-way": 1, "other": 3}
    assert facts(out)["arms"]["two-way"]["learning_rate"] == 3.0


def test_data_that_a_claim_does_not_need_may_be_missing(tmp_path):
    gone = {"stage": "shape", "per_device_train_batch_size": 4, "rows": 16, "data": [{"spec": str(tmp_path / "gone.jsonl")}]}
    path, out = write(tmp_path, **(THREE | {"stages": THREE["stages"] | {"second": gone}})), tmp_path / "out"
    with pytest.raises(TwowayError, match=r"gone\.jsonl"):
        do(path, out)
    assert do(path, out, claims=(1,)).state == "in part"
