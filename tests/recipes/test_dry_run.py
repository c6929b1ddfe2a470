"""A forecast of several stages looks through what they share once, and counts for each what that stage would meet."""

from __future__ import annotations

import json

import huggingface_hub
import numpy as np
import pytest
import yaml
from huggingface_hub.errors import RepositoryNotFoundError
from PIL import Image as PILImage

from twoway.cli import main
from twoway.data import dataset
from twoway.recipes.dry_run import dry_run, forecast
from twoway.recipes.run import lay_out

pytestmark = pytest.mark.usefixtures("short_proof")


def test_data_of_several_stages_is_looked_through_once_and_each_counts_by_its_own_processor(tiny_model, tmp_path, monkeypatch):
    data, draw = tmp_path / "rows.jsonl", np.random.default_rng(0)
    for number in range(4):
        PILImage.fromarray(draw.integers(0, 255, (168, 168, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    data.write_text("".join(json.dumps({"parts": [{"image": f"{number}.png"}, {"text": "some words"}]}) + "\n" for number in range(4)))
    shared = {
        "dtype": "float32",
        "per_device_train_batch_size": 2,
        "dataloader_num_workers": 0,
        "held_out": 0,
        "max_steps": 2,
        "data": [{"spec": str(data)}],
    }
    stages = {
        "large": {"stage": "pretrain", "from": "base"},
        "convert": {"from": "base", "max_pixels": 28 * 28},
        "small": {"stage": "pretrain"},
        "again": {"stage": "pretrain", "from": "base", "seed": 1},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"base": str(tiny_model("qwen2_vl")), **shared, "stages": stages}, sort_keys=False))
    passes, look = [], dataset._scan_blocks
    monkeypatch.setattr(dataset, "_scan_blocks", lambda *given: passes.append(given[0]) or look(*given))

    large, _, small, again = dry_run(recipe, tmp_path / "out")
    assert passes == [str(data)]
    assert 0 < small.amount.image_tokens < large.amount.image_tokens == again.amount.image_tokens
    steps = lay_out(recipe, tmp_path / "out")[1]
    alone = [forecast(step, steps, 1).amount for step in steps]
    assert [alone[0], alone[2], alone[3]] == [large.amount, small.amount, again.amount]
    assert passes == [str(data)], "what was found out lies in the cache for whoever comes after"
    assert not (tmp_path / "out").exists()


def test_rows_that_are_not_mined_yet_are_counted_with_wrong_candidates_as_large_as_the_right_one(tiny_model, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"query": f"say {number}", "positive": f"a long answer {number}"}) + "\n" for number in range(40)))
    tuned = {"dtype": "float32", "dataloader_num_workers": 0, "held_out": 0, "global_batch_size": 4, "max_steps": 5, "calibrate": "none"}
    stages = {
        "alone": {"stage": "finetune", "from": "base", "data": [{"spec": str(data)}], "hard_negatives": 0, **tuned},
        "mine": {"data": [{"spec": str(data)}], "num_negatives": 4},
        "judge": {"stage": "rerank", "data": [{"spec": "stage:mine"}], "head": "linear", "hard_negatives": 4, **tuned},
        "score": {"data": [{"spec": "stage:mine"}]},
        "taught": {
            "stage": "finetune",
            "from": "base",
            "data": [{"spec": "stage:score"}],
            "hard_negatives": 2,
            "loss": {"distill": "kl"},
            **tuned,
        },
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"base": str(tiny_model("qwen2_vl")), "stages": stages}, sort_keys=False))
    found = {one.name: one for one in dry_run(recipe, tmp_path / "out")}
    assert not any(one.problems for one in found.values())
    alone, taught, judge = (found[name].amount for name in ("alone", "taught", "judge"))
    assert alone.rows == taught.rows == judge.rows == 20
    # A query and three answers beside a query and one: less than three times as much, as a query is shorter.
    assert 1.5 * alone.tokens < taught.tokens < 3 * alone.tokens
    assert judge.tokens > taught.tokens
    assert "made by score; counted as all rows that this reads, each with up to 4 wrong candidates" in found["taught"].notes[-1]
    assert found["taught"].seconds > found["alone"].seconds


class Answer:
    """What the hub says of a data set that it has."""

    gated = False


@pytest.mark.parametrize("hub", ["offline", "reachable"])
def test_what_is_missing_is_counted_by_reason_and_the_hub_is_asked_where_it_can_be(hub, tmp_path, monkeypatch, capsys):
    asked = []

    def about(_, name, timeout):
        asked.append((name, timeout))
        if hub == "offline":
            raise OSError("no network")
        if "gone" in name:
            raise RepositoryNotFoundError("404", response=None)
        return Answer()

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", about)
    monkeypatch.setattr(RepositoryNotFoundError, "__init__", lambda self, *_, **__: None)
    (tmp_path / "e5").mkdir()
    (tmp_path / "e5/odd.txt").write_text("no rows")
    specs = [*(f"{tmp_path}/e5/{n}.jsonl" for n in range(17)), f"{tmp_path}/e5/odd.txt"]
    specs += ["hub:somebody/gone:train", *(f"hub:somebody/set/{part}:train" for part in "abc")]
    data = [{"spec": spec, "cap": 5, "name": str(number)} for number, spec in enumerate(specs)]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"base": "somebody/model", "stages": {"finetune": {"data": data}}}))
    assert main(["run", str(recipe), str(tmp_path / "out"), "--dry-run"]) == 1
    said = capsys.readouterr().out
    assert f"17 of 22 sources are not here: {tmp_path}/e5/0.jsonl, 1.jsonl, 2.jsonl" in said
    assert "odd.txt is not data of a known kind" in said
    assert len([line for line in said.splitlines() if line.startswith("finetune: ")]) == (4 if hub == "offline" else 5)
    if hub == "offline":
        assert len(asked) == 1, "where one question is not answered, no other is asked"
        assert "4 of 22 sources are of the hub: 4 not looked for, as the hub cannot be reached" in said
    else:
        assert sorted(name for name, _ in asked) == ["somebody/gone", "somebody/set"]
        assert "4 of 22 sources are of the hub: 3 there to be fetched" in said
        assert "there is no hub:somebody/gone:train" in said
    assert main(["run", str(recipe), str(tmp_path / "out")]) == 1
    assert "17 of 22 sources are not here" in capsys.readouterr().err


def test_streams_that_are_copied_are_counted(tmp_path, monkeypatch, tiny_model, capsys):
    """A folder that `load_dataset` understands stands for the hub; once prepared, there are figures."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.jsonl").write_text("".join(json.dumps({"text": f"words {n}"}) + "\n" for n in range(8)))
    config = {
        "data": [{"spec": f"hub:{tmp_path}/set:train", "cap": 8}],
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "dtype": "float32",
    }
    recipe = tmp_path / "recipe.yaml"
    stages = {"pretrain": {**config, "dataloader_num_workers": 0, "held_out": 0, "cache_dir": str(tmp_path / "cache")}}
    recipe.write_text(yaml.safe_dump({"base": str(tiny_model("qwen2_vl")), "stages": stages}))
    (before,) = dry_run(recipe, tmp_path / "out")
    assert (before.amount, before.problems) == (None, ())
    assert before.notes[0] == "pretrain: 1 of 1 sources are of the hub: 1 there to be fetched"
    assert main(["data", "prepare", str(recipe)]) == 0
    (after,) = dry_run(recipe, tmp_path / "out")
    assert after.amount.rows == 4
