"""A fingerprint is that of what a stage makes: equal wherever it is made, and another as soon as anything that counts is another."""

from __future__ import annotations

import json
import shutil

import pytest

from recipe_fakes import KINDS, write
from twoway.data.config import SourceConfig
from twoway.recipes.recipe import read_recipe
from twoway.recipes.records import data_identity, model_identity, plan_jobs
from twoway.recipes.run import resolve

STAGES = {"make": {}, "train": {"steps": 4}, "other": {"stage": "train"}, "score": {}}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"parts": [{"text": "a"}]}) + "\n")
    return path


def prints(path, *words, **options):
    return {job.name: job.fingerprint for job in plan_jobs(read_recipe(path, words, kinds=KINDS), **options)}


def changed(before, after):
    return [name for name in before if before[name] != after[name]]


def test_a_change_reaches_the_stage_and_all_behind_it(tmp_path):
    path = write(tmp_path, STAGES)
    before = prints(path)
    assert len(set(before.values())) == 4
    assert changed(before, prints(path)) == []
    assert changed(before, prints(path, "other.learning_rate=2")) == ["other", "score"]
    assert changed(before, prints(path, "make.width=9")) == ["make", "train", "other", "score"]
    assert changed(before, prints(path, "seed=1")) == ["train", "other", "score"]
    assert changed(before, prints(path, "other.from=make")) == ["other", "score"]


def test_what_changes_no_result_changes_no_fingerprint(tmp_path):
    path = write(tmp_path, STAGES)
    before = prints(path)
    assert changed(before, prints(path, "*.dataloader_num_workers=4")) == []
    assert changed(before, prints(path, "train.folder=elsewhere")) == []
    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "base", tmp_path / "moved" / "base")
    assert changed(before, prints(path, f"base={tmp_path / 'moved' / 'base'}")) == []
    (tmp_path / "moved" / "base" / "config.json").write_text('{"other": 1}')
    assert changed(before, prints(path, f"base={tmp_path / 'moved' / 'base'}")) == list(before)


def test_names_do_not_count_so_that_recipes_share_stages(tmp_path):
    left = prints(write(tmp_path, STAGES))
    right = prints(
        write(tmp_path, {"begin": {"stage": "make"}, "middle": {"stage": "train"}, "end": {"stage": "train", "learning_rate": 5}})
    )
    assert (right["begin"], right["middle"]) == (left["make"], left["train"])
    assert right["end"] not in left.values()


def test_data_counts_by_its_content(tmp_path, rows):
    path = write(tmp_path, {"make": {}, "train": {}}, data=[{"spec": str(rows)}])
    before = prints(path)
    (tmp_path / "there").mkdir()
    shutil.copy(rows, tmp_path / "there" / "rows.jsonl")
    moved = json.dumps([{"spec": str(tmp_path / "there" / "rows.jsonl")}])
    assert changed(before, prints(path, f"data={moved}")) == []
    rows.write_text(rows.read_text().replace("a", "b"))
    assert changed(before, prints(path)) == ["train"]
    assert changed(before, prints(path, f"data={moved.replace('}', ', cap: 1}')}")) == ["train"]


def test_every_kind_of_data_has_an_identity(tmp_path, rows):
    assert data_identity(SourceConfig("hub:owner/name")) == "hub:owner/name"
    assert data_identity(SourceConfig("samples:pretrain")) != data_identity(SourceConfig("samples:texts"))
    left = data_identity(SourceConfig(str(rows)))
    rows.write_text(rows.read_text() * 2)
    assert data_identity(SourceConfig(f"jsonl:{rows}")) != left


def test_of_large_files_blocks_all_through_are_hashed(tmp_path, rows, monkeypatch):
    from twoway.recipes import records

    monkeypatch.setattr(records, "_WHOLE", 10)
    monkeypatch.setattr(records, "_BLOCK", 4)
    monkeypatch.setattr(records, "_BLOCKS", 3)
    seen = set()
    for text in ("." * 40, "x" + "." * 39, "." * 39 + "x", "." * 19 + "xx" + "." * 19, "." * 41):
        rows.write_text(text)
        seen.add(records._sum(rows))
    assert len(seen) == 5


def test_a_stage_s_revision_and_ranks_count(tmp_path, monkeypatch):
    import dataclasses

    import recipe_fakes

    path = write(tmp_path, STAGES)
    before = prints(path)
    monkeypatch.setitem(recipe_fakes.KINDS, "train", dataclasses.replace(KINDS["train"], revision=2))
    assert changed(before, prints(path)) == ["train", "other", "score"]


def test_shards_that_ranks_decide_count(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("base: a/b\ndata: [{spec: 'hub:a/b', cap: 2}]\nstages: {pretrain: {}}\n")

    def one(words=(), **options):
        return plan_jobs(read_recipe(path, words), **options)[0].fingerprint

    assert one(nproc=1) != one(nproc=2)
    assert one(nproc=2) == one(["pretrain.batches_per_step=2"], nproc=1)
    assert one() == one(["pretrain.dataloader_num_workers=7", "pretrain.save_steps=3"])


def test_what_is_not_there_is_a_problem_and_no_crash(tmp_path):
    path = write(tmp_path, {"make": {}, "train": {"data": [{"spec": str(tmp_path / "gone.jsonl")}]}})
    jobs = plan_jobs(read_recipe(path, kinds=KINDS))
    assert [len(job.problems) for job in jobs] == [0, 1]
    assert "gone.jsonl" in jobs[1].problems[0]
    jobs = plan_jobs(read_recipe(path, [f"base={tmp_path / 'nowhere'}", "train.data=[]"], kinds=KINDS))
    assert "no such model" in jobs[0].problems[0]


def test_a_model_of_the_hub_goes_by_its_name_and_a_folder_by_its_weights(tmp_path):
    assert model_identity("owner/name") == "hub:owner/name"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"one")
    before = model_identity(str(folder))
    (folder / "checkpoints").mkdir()
    (folder / "log.jsonl").write_text("a trainer's")
    (folder / "run.json").write_text("{}")
    assert model_identity(str(folder)) == before
    (folder / "model.safetensors").write_bytes(b"two")
    assert model_identity(str(folder)) != before


def test_the_resolved_recipe_gives_the_same_jobs(tmp_path, rows):
    path = write(tmp_path, STAGES, data=[{"spec": str(rows)}], learning_rate=3)
    recipe = read_recipe(path, ["*.group.a=2"], kinds=KINDS)
    again = tmp_path / "resolved.yaml"
    again.write_text(resolve(recipe))
    assert {job.name: job.fingerprint for job in plan_jobs(recipe)} == prints(again)


def test_a_stage_that_is_taken_as_it_stands_counts_as_what_it_is(tmp_path):
    path = write(tmp_path, STAGES)
    before = prints(path)
    assert changed(before, prints(path, taken={"make": before["make"]})) == []
    assert changed(before, prints(path, taken={"make": "something else"})) == ["train", "other", "score"]
