"""A forecast counts the jobs that a call would do, under whatever names they go."""

from __future__ import annotations

import pytest

from study_fakes import KINDS, write
from twoway.errors import UsageError
from twoway.study.forecast import forecast_study

SAME = {"stage": "shape", "per_device_train_batch_size": 4, "rows": 8}
ARMS = {"a": {}, "b": {"from": "again", "learning_rate": 2.0}, "c": {"from": "after", "learning_rate": 3.0}}
STAGES = {"first": SAME, "again": SAME, "after": SAME | {"from": "again", "rows": 16}}
CLAIMS = [
    {"key": "one", "claim": 1, "says": "b beats a", "better": "b", "than": "a"},
    {"key": "two", "claim": 5, "says": "c beats a", "better": "c", "than": "a"},
]


def lines(path, out, **options):
    return {line.name: (line.times, line.rows) for line in forecast_study(path, out, kinds=KINDS, **options).lines if line.rows}


def test_two_stages_of_one_fingerprint_are_one_line_whoever_starts_from_either(tmp_path):
    path = write(tmp_path, stages=STAGES, arms=ARMS, claims=CLAIMS)
    found = lines(path, tmp_path / "out")
    assert found == {"first": (1, 8), "after": (1, 16), "a": (2, 4), "b": (2, 4), "c": (2, 4)}
    assert not (tmp_path / "out").exists()


def test_only_what_the_claims_need_is_counted(tmp_path):
    path = write(tmp_path, stages=STAGES, arms=ARMS, claims=CLAIMS)
    assert lines(path, tmp_path / "out", claims=(1,)) == {"first": (1, 8), "a": (2, 4), "b": (2, 4)}
    assert "10 jobs, 0 done" in forecast_study(path, tmp_path / "out", claims=(1,), kinds=KINDS).said
    with pytest.raises(UsageError, match="has no claim 3"):
        forecast_study(path, tmp_path / "out", claims=(3,), kinds=KINDS)
    with pytest.raises(UsageError, match="--jobs is at least 1"):
        forecast_study(path, tmp_path / "out", jobs=0, kinds=KINDS)
