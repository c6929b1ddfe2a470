"""A planted difference is seen, none is not, and what cannot be known is said so."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from study_made import TASKS, made
from twoway.errors import UsageError
from twoway.study.claims import NOT_RUN, NOT_SEEN, OPPOSITE, SEEN, UNDECIDED, Evidence, comparisons, doses, read_claims
from twoway.study.outcomes import read_outcomes
from twoway.study.page import describe_onset

CLAIM = {"key": "pays", "claim": 2, "says": "b beats a", "paper": "", "better": "b", "than": "a"}
DOSES = {"0": "a", "15": "b", "50": "c", "100": "d"}


def claim(out, levels, about=CLAIM, **options):
    (one,) = read_claims(Evidence(read_outcomes(made(out, levels, [about], **options))))
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
    (found,) = claim(tmp_path, levels, **options).results
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
    whys = [one.results[0].verdict.why for one in said]
    assert "ignores its pictures" in whys[0]
    assert "b was not run (every seed: the loss is not a number" in whys[1]
    assert "no more than chance" in whys[2]


def test_a_difference_that_may_be_the_luck_of_one_stage_says_so(tmp_path):
    for part in "12":
        (tmp_path / part).mkdir()
    (once,) = claim(tmp_path / "1", {"a": 0.3, "b": 0.34, "c": 0.3}, items=60, sources={"b": "moca", "c": "moca"}).results
    (several,) = claim(tmp_path / "2", {"a": 0.3, "b": 0.34}, items=60, sources={"b": "moca"}, stage_seeds=(1, 2)).results
    assert "the variance of moca, run once, is not in it" in once.verdict.why
    assert "run once" not in several.verdict.why
    evidence = Evidence(read_outcomes(tmp_path / "1"))
    assert evidence.once({"b": 1.0, "c": -1.0}, ("page",)) == []


def test_a_claim_about_some_tasks_is_decided_on_them(tmp_path):
    one = claim(tmp_path, {"a": 0.3, "b": 0.34}, CLAIM | {"groups": ["unseen style"], "tasks": ["page"]})
    assert one.scope == ("name-picture", "page")
    assert set(one.results[0].groups) == {"retrieval", "documents", "unseen style", "known style"}
    assert set(one.results[0].tasks) == set(one.scope)


def test_a_curve_asks_for_growth_or_for_its_best_point_or_against_its_control(tmp_path):
    levels = {"a": 0.3, "b": 0.32, "c": 0.36, "d": 0.42, "e": 0.3}
    axis = {"axis": "rows, % of the base's", "points": DOSES}
    (grows,) = claim(tmp_path, levels, CLAIM | {"curve": axis}).results
    assert grows.verdict.word == SEEN
    assert grows.interval.value == pytest.approx(0.12, abs=0.02)
    reading = read_outcomes(tmp_path)
    best = comparisons(CLAIM | {"curve": axis | {"best": "50"}}, reading)
    assert [one.says for one in best] == ["50 minus 0", "50 minus 15", "50 minus 100"]
    control = comparisons(CLAIM | {"curve": axis | {"control": {"0": "a", "15": "e", "100": "e"}}}, reading)
    assert [one.weights for one in control[:2]] == [{"b": 1.0, "e": -1.0}, {"d": 1.0, "e": -1.0}]
    assert "growth" in control[2].says
    assert sum(control[2].weights.values()) == pytest.approx(0.0)


def test_a_curve_is_drawn_through_the_points_that_were_run(tmp_path):
    about = CLAIM | {"curve": {"axis": "rows", "points": DOSES}}
    (found,) = claim(tmp_path, {"a": 0.3, "b": 0.32, "c": 0.36, "d": 0.42}, about, failed=("c",)).results
    assert found.verdict.word == SEEN
    assert "without 50: not run" in found.comparison.says


def changed(out, change):
    """Change what a study says of itself."""
    about = json.loads((out / "study.json").read_text())
    change(about)
    (out / "study.json").write_text(json.dumps(about))
    return Evidence(read_outcomes(out))


def lost(arm, seed):
    """Let one run of an arm fail."""

    def change(about):
        (run,) = [run for run in about["arms"][arm]["runs"] if run["seed"] == seed]
        run.update(state="failed", error="the loss is not a number")

    return change


def test_two_of_four_doses_are_no_curve(tmp_path):
    about = CLAIM | {"curve": {"axis": "rows", "points": DOSES}}
    (found,) = claim(tmp_path, {"a": 0.3, "b": 0.32, "c": 0.36, "d": 0.42}, about, failed=("b", "c"), items=60).results
    assert found.verdict.word == NOT_RUN
    assert "b was not run" in found.verdict.why
    assert "c was not run" in found.verdict.why


def test_a_verdict_without_one_of_its_seeds_names_it(tmp_path):
    made(tmp_path, {"a": 0.3, "b": 0.34}, [CLAIM], items=60)
    (one,) = read_claims(changed(tmp_path, lost("b", 2)))
    assert one.results[0].verdict.word == SEEN
    assert "b without seed 2: the loss is not a number" in one.results[0].verdict.why


def test_a_rate_at_the_end_of_three_is_named(tmp_path):
    def tried(about):
        about["arms"]["a"] |= {"learning_rate": 0.0002, "rates": {"0.0001": 0.2, "0.0002": 0.3, "0.0006": 0.1}}
        about["arms"]["b"] |= {"learning_rate": 0.0006, "rates": {"0.0001": 0.1, "0.0002": 0.2, "0.0006": 0.3}}

    made(tmp_path, {"a": 0.3, "b": 0.34}, [CLAIM], items=60)
    (one,) = read_claims(changed(tmp_path, tried))
    assert one.results[0].caveats == ("b took 0.0006, the largest tried",)


def test_a_task_that_was_not_scored_is_named(tmp_path):
    about = CLAIM | {"tasks": ["page", "poem"], "groups": ["documents", "maps"]}
    one = claim(tmp_path, {"a": 0.3, "b": 0.34}, about, items=60)
    assert one.scope == ("page",)
    assert "without poem, maps, which the study has not scored" in one.results[0].verdict.why


def test_a_smallest_difference_of_none_is_none(tmp_path):
    assert claim(tmp_path, {"a": 0.3, "b": 0.3}, CLAIM | {"smallest": 0.0}, items=60).smallest == 0.0


def test_a_gate_that_is_not_passed_is_why_nothing_was_run(tmp_path):
    one = claim(tmp_path, {"a": 0.3, "b": 0.34}, items=60, failed=("a", "b"), gate={"passed": False, "why": "it looks away"})
    assert one.results[0].verdict.word == NOT_RUN
    assert "the gate is not passed: it looks away" in one.results[0].verdict.why


CURVE = {"axis": "rows", "points": {"15": "a", "50": "b", "100": "c"}, "control": {"15": "x", "50": "y", "100": "z"}}
FLAT = {"x": 0.3, "y": 0.3, "z": 0.3}


@pytest.mark.parametrize(
    ("levels", "failed", "said"),
    [
        ({"a": 0.4, "b": 0.4, "c": 0.4}, (), "from 15 on (rows), the smallest that was tried"),
        ({"a": 0.4, "b": 0.2, "c": 0.4}, (), "from 100 on (rows), and at 50 it is opposite"),
        ({"a": 0.4, "b": 0.4, "c": 0.4}, ("x",), "from 50 on (rows; not run: 15), the smallest that was tried"),
        ({"a": 0.4, "b": 0.4, "c": 0.2}, (), "at no dose from which on it stays (rows)"),
        ({"a": 0.4, "b": 0.4, "c": 0.4}, ("a", "b", "c"), ""),
    ],
)
def test_from_which_dose_on_it_is_seen_is_said_of_doses_that_were_run(tmp_path, levels, failed, said):
    one = claim(tmp_path, levels | FLAT, CLAIM | {"curve": CURVE}, failed=failed, items=150)
    found = describe_onset(Evidence(read_outcomes(tmp_path)), one)
    assert said in found
    assert bool(found) == bool(said)


def test_no_dose_is_named_where_the_gate_does_not_hold(tmp_path):
    one = claim(tmp_path, {"a": 0.4, "b": 0.4, "c": 0.4} | FLAT, CLAIM | {"curve": CURVE}, items=60, gate={"passed": False, "why": "no"})
    assert describe_onset(Evidence(read_outcomes(tmp_path)), one) == ""


def test_the_luck_of_rows_that_were_mined_once_is_named_and_that_of_a_shared_model_falls_out(tmp_path):
    def mines(about):
        about["stages"]["mine"] = {"stage": "mine", "from": "moca", "seeds": [None]}
        about["arms"]["b"]["before"]["stages"] = ["moca", "mine"]
        for run in about["arms"]["b"]["runs"]:
            run["stage_seeds"]["mine"] = 0

    made(tmp_path, {"a": 0.3, "b": 0.34}, [CLAIM], items=60, sources={"a": "moca", "b": "moca"}, stage_seeds=(1, 2), stage_luck=0.05)
    before = Evidence(read_outcomes(tmp_path)).interval({"b": 1.0, "a": -1.0}, ("page",))
    evidence = changed(tmp_path, mines)
    assert evidence.interval({"b": 1.0, "a": -1.0}, ("page",)) == before
    (one,) = read_claims(evidence)
    assert "the variance of mine, run once, is not in it" in one.results[0].verdict.why


def test_other_candidates_are_other_items(tmp_path):
    made(tmp_path, {"a": 0.3, "b": 0.3}, [CLAIM], items=10)
    path = tmp_path / "results" / "b" / "seed-2.items.parquet"
    table = pq.read_table(path)
    at = table.column_names.index("size")
    pq.write_table(table.set_column(at, "size", [[7] * len(table)]), path)
    with pytest.raises(UsageError, match=r"b/seed-2\.json: the items of picture-name"):
        read_outcomes(tmp_path)


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
        read_outcomes(tmp_path)


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no study\.json"):
        read_outcomes(tmp_path)


def test_every_seed_is_shown_and_their_mean_is_the_score(tmp_path):
    one = claim(tmp_path, {"a": 0.3, "b": 0.34})
    evidence = Evidence(read_outcomes(tmp_path))
    seeds = [evidence.by_seed(arm, one.scope) for arm in one.arms]
    assert [list(found) for found in seeds] == [["1", "2", "3"]] * 2
    gap = np.mean(list(seeds[0].values())) - np.mean(list(seeds[1].values()))
    assert one.results[0].interval.value == pytest.approx(gap)
    assert set(evidence.reading.tasks) == set(TASKS)
