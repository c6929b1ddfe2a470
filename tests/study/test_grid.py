"""Jobs of a study: what arms share is one job, what differs is another, and rates come first."""

from __future__ import annotations

from collections import Counter

from study_fakes import KINDS, write
from twoway.study.config import Choice, read_study
from twoway.study.grid import GridBuilder

TWO = {
    "first": {"stage": "shape", "per_device_train_batch_size": 4, "rows": 8, "seeds": [5, 6]},
    "second": {"stage": "shape", "from": "first"},
}


def layout(path, out):
    return GridBuilder(read_study(path, kinds=KINDS), out, KINDS)


def kinds_of(grid):
    return Counter(task.job.kind.name for task in grid.tasks.values())


def test_a_shared_stage_is_one_job_and_each_arm_has_one_for_each_seed(tmp_path):
    grid = layout(write(tmp_path), tmp_path / "out").lay_out({})
    assert kinds_of(grid) == {"gate": 1, "shape": 1, "finetune": 4, "evaluate": 4}
    assert len({task.folder for task in grid.tasks.values()}) == len(grid.tasks)
    first = next(task for task in grid.tasks.values() if task.job.kind.name == "shape")
    assert all(grid.tasks[run.finetune].needs == (first.key,) for run in grid.runs)
    assert all(grid.tasks[run.evaluate].needs == (run.finetune,) for run in grid.runs)
    assert [(run.arm, run.seed, run.results.name) for run in grid.runs] == [
        ("causal", 1, "seed-1.json"),
        ("two-way", 1, "seed-1.json"),
        ("causal", 2, "seed-2.json"),
        ("two-way", 2, "seed-2.json"),
    ]


def test_seeds_of_a_stage_multiply_what_starts_from_it(tmp_path):
    path = write(tmp_path, stages=TWO, finetune={"from": "second"}, arms={"a": {}, "b": {"from": "base"}}, claims=[])
    grid = layout(path, tmp_path / "out").lay_out({})
    assert kinds_of(grid) == {"gate": 1, "shape": 4, "finetune": 4 + 2, "evaluate": 4 + 2}
    assert sorted(run.results.name for run in grid.runs if run.arm == "a") == [
        "seed-5-1.json",
        "seed-5-2.json",
        "seed-6-1.json",
        "seed-6-2.json",
    ]
    assert [run.stage_seeds for run in grid.runs if run.arm == "b"] == [{}, {}]
    assert len(grid.named["second"]) == 2


def test_an_arm_waits_for_its_rate(tmp_path):
    arms = {"a": {"learning_rate": {"rates": [1.0, 2.0], "rows": 2}}, "b": {"pooling": "last", "learning_rate": {"like": "a"}}}
    laid = layout(write(tmp_path, arms=arms, claims=[]), tmp_path / "out")
    before = laid.lay_out({})
    assert before.waiting == ("a", "b")
    assert kinds_of(before)["finetune"] == 2
    rates = {choice: before.tasks[key].job.config.learning_rate for choice, key in before.trials["a"].items()}
    assert rates == {Choice(1.0, "first"): 1.0, Choice(2.0, "first"): 2.0}
    assert {before.tasks[key].job.config.held_out for key in before.trials["a"].values()} == {64}
    after = laid.lay_out({"a": Choice(2.0, "first"), "b": Choice(2.0, "first")})
    assert after.waiting == ()
    assert {after.tasks[run.finetune].job.config.learning_rate for run in after.runs} == {2.0}


def test_arms_that_search_alike_share_the_search(tmp_path):
    rate = {"rates": [1.0, 2.0], "rows": 2}
    laid = layout(
        write(tmp_path, arms={"a": {"rows": 4, "learning_rate": rate}, "b": {"rows": 8, "learning_rate": rate}}, claims=[]),
        tmp_path / "out",
    )
    grid = laid.lay_out({})
    assert grid.trials["a"] == grid.trials["b"]
    assert kinds_of(grid)["finetune"] == 2


def test_what_is_one_job_under_two_names_is_done_in_one_folder(tmp_path):
    same = {"stage": "shape", "per_device_train_batch_size": 4, "rows": 8}
    path = write(tmp_path, stages={"first": same, "again": same}, arms={"a": {}, "b": {"from": "again", "learning_rate": 2.0}}, claims=[])
    grid = layout(path, tmp_path / "out").lay_out({})
    assert kinds_of(grid)["shape"] == 1
    (shape,) = [task for task in grid.tasks.values() if task.job.kind.name == "shape"]
    assert {grid.tasks[run.finetune].base for run in grid.runs} == {str(shape.folder)}
