"""A study with every setting written out says what the study says."""

from __future__ import annotations

import yaml

from study_fakes import KINDS, write
from twoway.study.config import read_study
from twoway.study.run import resolved


def test_the_resolved_study_is_the_study_again(tmp_path):
    claim = {"key": "pays", "claim": 1, "says": "it pays", "better": "two-way", "than": "causal", "smallest": 0.0}
    rate = {"rates": [1.0, 2.0], "rows": 2}
    path = write(
        tmp_path,
        claims=[claim],
        arms={"causal": {"attention": "causal", "learning_rate": rate}, "two-way": {"learning_rate": {"like": "causal"}}},
    )
    study = read_study(path, kinds=KINDS)
    again = tmp_path / "again.yaml"
    again.write_text(resolved(study))
    assert yaml.safe_load(again.read_text())["claims"] == [claim]
    found = read_study(again, kinds=KINDS)
    assert (found.claims, found.arms, found.before, found.evaluate, found.gate) == (
        study.claims,
        study.arms,
        study.before,
        study.evaluate,
        study.gate,
    )
