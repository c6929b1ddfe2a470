"""Rows and models that an earlier stage makes: named before they are there, found where they come to lie, counted as what made them."""

from __future__ import annotations

import pytest

from recipe_fakes import GATHER, JOIN, LOG, write
from recipe_fakes import KINDS as PLAIN
from twoway.errors import UsageError
from twoway.recipes.recipe import read_recipe
from twoway.recipes.records import plan_jobs
from twoway.recipes.run import run

KINDS = {**PLAIN, "gather": GATHER, "join": JOIN}
STAGES = {"make": {}, "gather": {}, "train": {"from": "make", "data": [{"spec": "stage:gather", "weight": 2.0}]}}


@pytest.fixture(autouse=True)
def nothing_to_collect(monkeypatch):
    """Looking through all of torch for what a stage left takes a quarter of a second."""
    monkeypatch.setattr("twoway.recipes.run.gc.collect", lambda: 0)


def prints(path, *words):
    return {job.name: job.fingerprint for job in plan_jobs(read_recipe(path, words, kinds=KINDS))}


def test_rows_are_found_where_they_lie(tmp_path):
    run(write(tmp_path, STAGES), tmp_path / "out", kinds=KINDS)
    (source,) = LOG.configs["3-train"].data
    folder = tmp_path / "out" / "2-gather"
    assert (source.spec, source.root, source.weight, source.label) == (f"jsonl:{folder / 'made.json'}", folder, 2.0, "gather")
    run(write(tmp_path, STAGES), tmp_path / "out", ["gather.folder=2-gather"], kinds=KINDS)


def test_rows_count_as_what_made_them(tmp_path):
    path = write(tmp_path, STAGES)
    before, after = prints(path), prints(path, "gather.many=4")
    assert [name for name in before if before[name] != after[name]] == ["gather", "train"]
    assert prints(path, "gather.folder=elsewhere") == before


def test_a_model_of_a_stage_is_found_and_counts_as_what_made_it(tmp_path):
    path = write(tmp_path, {"make": {}, "train": {}, "join": {"models": ["stage:make", str(tmp_path / "base")], "judge": "stage:train"}})
    run(path, tmp_path / "out", kinds=KINDS)
    joined = LOG.configs["3-join"]
    assert joined.models == (str(tmp_path / "out" / "1-make"), str(tmp_path / "base"))
    assert joined.judge == str(tmp_path / "out" / "2-train")
    before, after = prints(path), prints(path, "make.width=9")
    assert [name for name in before if before[name] != after[name]] == ["make", "train", "join"]
    assert prints(path, "make.folder=elsewhere") == before
    assert prints(path, f"join.judge={tmp_path / 'base'}")["join"] != before["join"]


def test_rows_of_a_stage_that_is_not_asked_for_are_needed(tmp_path):
    path, out = write(tmp_path, STAGES), tmp_path / "out"
    run(path, out, only="make", kinds=KINDS)
    with pytest.raises(UsageError, match="gather is not done in"):
        run(path, out, only="train", kinds=KINDS)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"train": {"data": [{"spec": "stage:gathr"}]}, "gather": {}}, r"train reads stage:gathr, and no stage .* \(there is none\)"),
        ({"gather": {}, "train": {"data": [{"spec": "stage:gathr"}]}}, r"did you mean gather\? \(there are: gather\)"),
        ({"make": {}, "train": {"data": [{"spec": "stage:make"}]}}, "no stage of that name makes rows before it"),
        (
            {"make": {}, "gather": {}, "join": {"models": ["stage:gather"]}},
            r"no stage of that name makes a model before it \(there are: make\)",
        ),
        ({"make": {}, "join": {"judge": "stage:mak"}}, r"join reads stage:mak, and no .* did you mean make\?"),
    ],
)
def test_what_makes_no_rows_or_no_model_is_refused(stages, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        read_recipe(write(tmp_path, stages), kinds=KINDS)
