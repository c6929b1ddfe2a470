"""A planted difference is seen, none is not, and what cannot be known is said so."""

from __future__ import annotations

import numpy as np
import pytest

from study_made import TASKS, made
from twoway.errors import UsageError
from twoway.study.claims import comparisons, doses, read_claims
from twoway.study.evidence import Evidence
from twoway.study.outcomes import read_study
from twoway.study.verdict import NOT_RUN, NOT_SEEN, OPPOSITE, SEEN, UNDECIDED

CLAIM = {"key": "pays", "claim": 2, "says": "b beats a", "paper": "", "better": "b", "than": "a"}
DOSES = {"0": "a", "15": "b", "50": "c", "100": "d"}


def claim(out, levels, about=CLAIM, **options):
    (one,) = read_claims(Evidence(read_study(made(out, levels, [about], **options))))
    return one


@pytest.mark.parametrize(
    ("levels", "options", "word"),
    [
        ({"a": 0.3, "b": 0.34}, {}, SEEN),
        ({"a": 0.34, "b": 0.3}, {}, OPPOSITE),
        ({"a": 0.3, "b": 0.3}, {"luck": 0.0005, "items": 1500}, NOT_SEEN),
        ({"a": 0.3, "b": 0.3}, {"items": 12}, UNDECIDED),
        ({"a": 0.3, "b": 0.34}, {"luck": 0.05, "draw": 1}, UNDECIDED),
        ({"a": 0.3, "b": 0.34}, {"seeds": (1,)}, UNDECIDED),
        ({"a": -0.3, "b": -0.3}, {}, UNDECIDED),
        ({"a": 0.3, "b": 0.34}, {"gate": {"passed": False, "why": "the base ignores its pictures"}}, UNDECIDED),
        ({"a": 0.3, "b": 0.34}, {"gate": {}}, UNDECIDED),
        ({"a": 0.3, "b": 0.34}, {"failed": ("b",)}, NOT_RUN),
    ],
)
def test_the_verdict_is_what_was_planted(tmp_path, levels, options, word):
    (found,) = claim(tmp_path, levels, **options).found
    assert found.verdict.word == word
    assert (found.interval is None) == (word == NOT_RUN)


def test_doubts_and_missing_arms_are_named(tmp_path):
    for part in "123":
        (tmp_path / part).mkdir()
    said = [
        claim(tmp_path / "1", {"a": 0.3, "b": 0.34}, gate={"passed": False, "why": "the base ignores its pictures"}),
        claim(tmp_path / "2", {"a": 0.3, "b": 0.34}, failed=("b",)),
        claim(tmp_path / "3", {"a": -0.3, "b": -0.3}),
    ]
    whys = [one.found[0].verdict.why for one in said]
    assert "ignores its pictures" in whys[0]
    assert "b was not run (seed 1, seed 2, seed 3: the loss is not a number" in whys[1]
    assert "no more than chance" in whys[2]


def test_a_difference_that_may_be_the_luck_of_one_stage_says_so(tmp_path):
    for part in "12":
        (tmp_path / part).mkdir()
    (once,) = claim(tmp_path / "1", {"a": 0.3, "b": 0.34, "c": 0.3}, items=60, sources={"b": "moca", "c": "moca"}).found
    (several,) = claim(tmp_path / "2", {"a": 0.3, "b": 0.34}, items=60, sources={"b": "moca"}, stage_seeds=(1, 2)).found
    assert "the luck of moca, done once, is not in it" in once.verdict.why
    assert "done once" not in several.verdict.why
    evidence = Evidence(read_study(tmp_path / "1"))
    assert evidence.once({"b": 1.0, "c": -1.0}, ("page",)) == []


def test_a_claim_about_some_tasks_is_decided_on_them(tmp_path):
    one = claim(tmp_path, {"a": 0.3, "b": 0.34}, CLAIM | {"groups": ["unseen style"], "tasks": ["page"]})
    assert one.scope == ("name-picture", "page")
    assert set(one.found[0].groups) == {"retrieval", "documents", "unseen style", "known style"}
    assert set(one.found[0].tasks) == set(one.scope)


def test_a_curve_asks_for_growth_or_for_its_best_point_or_against_its_control(tmp_path):
    levels = {"a": 0.3, "b": 0.32, "c": 0.36, "d": 0.42, "e": 0.3}
    axis = {"axis": "rows, % of the base's", "points": DOSES}
    (grows,) = claim(tmp_path, levels, CLAIM | {"curve": axis}).found
    assert grows.verdict.word == SEEN
    assert grows.interval.value == pytest.approx(0.12, abs=0.02)
    reading = read_study(tmp_path)
    best = comparisons(CLAIM | {"curve": axis | {"best": "50"}}, reading)
    assert [one.says for one in best] == ["50 minus 0", "50 minus 15", "50 minus 100"]
    control = comparisons(CLAIM | {"curve": axis | {"control": {"0": "a", "15": "e", "100": "e"}}}, reading)
    assert [one.weights for one in control[:2]] == [{"b": 1.0, "e": -1.0}, {"d": 1.0, "e": -1.0}]
    assert "growth" in control[2].says
    assert sum(control[2].weights.values()) == pytest.approx(0.0)


def test_a_curve_is_drawn_through_the_points_that_were_run(tmp_path):
    about = CLAIM | {"curve": {"axis": "rows", "points": DOSES}}
    (found,) = claim(tmp_path, {"a": 0.3, "b": 0.32, "c": 0.36, "d": 0.42}, about, failed=("c",)).found
    assert found.verdict.word == SEEN
    assert "without 50: not run" in found.comparison.says


def test_doses_are_numbers_or_places():
    assert doses(["0", "15 %", "50%"]) == [0.0, 15.0, 50.0]
    assert doses(["none", "some"]) == [0.0, 1.0]


def test_runs_on_other_items_are_refused(tmp_path):
    made(tmp_path, {"a": 0.3, "b": 0.3}, [CLAIM])
    few = tmp_path / "few"
    few.mkdir()
    made(few, {"a": 0.3, "b": 0.3}, [CLAIM], items=10)
    for name in ("seed-2.json", "seed-2.items.parquet"):
        (tmp_path / "results" / "b" / name).write_bytes((few / "results" / "b" / name).read_bytes())
    with pytest.raises(UsageError, match=r"b/seed-2\.json: the items of picture-name"):
        read_study(tmp_path)


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no study\.json"):
        read_study(tmp_path)


def test_every_seed_is_shown_and_their_mean_is_the_score(tmp_path):
    one = claim(tmp_path, {"a": 0.3, "b": 0.34})
    evidence = Evidence(read_study(tmp_path))
    seeds = [evidence.by_seed(arm, one.scope) for arm in one.arms]
    assert [list(found) for found in seeds] == [["1", "2", "3"]] * 2
    gap = np.mean(list(seeds[0].values())) - np.mean(list(seeds[1].values()))
    assert one.found[0].interval.value == pytest.approx(gap)
    assert set(evidence.reading.tasks) == set(TASKS)
