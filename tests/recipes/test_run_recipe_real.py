"""A recipe of real stages at tiny size: forecast, cut off, gone on with, and done."""

from __future__ import annotations

import json

import pytest
import yaml

from cut_off import cut_off
from twoway.cli import main
from twoway.models import checkpoint
from twoway.recipes.dry_run import dry_run
from twoway.recipes.run import run

pytestmark = pytest.mark.usefixtures("short_proof")


@pytest.fixture
def recipe(tiny_model, tmp_path):
    data = tmp_path / "rows.jsonl"
    rows = [{"parts": [{"text": f"row {number} of " + "many " * number}]} for number in range(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {
        "dtype": "float32",
        "per_device_train_batch_size": 2,
        "dataloader_num_workers": 0,
        "held_out": 0,
        "save_steps": 1,
        "max_steps": 3,
    }
    whole = {"base": str(tiny_model("qwen2_vl")), **shared, "data": [{"spec": str(data)}]}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(whole | {"stages": {"convert": {"max_length": 64}, "pretrain": {}}}, sort_keys=False))
    return path


def test_forecast_then_cut_off_then_done(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    convert, pretrain = dry_run(recipe, out)
    assert not out.exists()
    assert (convert.amount, convert.problems, pretrain.problems) == (None, (), ())
    assert (pretrain.amount.steps, pretrain.amount.rows) == (3, 6)
    assert 0 < pretrain.amount.tokens <= pretrain.amount.padded
    assert pretrain.seconds > 0
    assert pretrain.memory > 0
    with cut_off(1, saved=True):
        run(recipe, out)
    # What is left of it is forecast by its own speed.
    forecast = dry_run(recipe, out)[1]
    assert "resumes" in forecast.said

    assert main(["run", str(recipe), str(out)]) == 0
    assert "pretrain done; the whole of it is in" in capsys.readouterr().out
    record = json.loads((out / "2-pretrain.json").read_text())
    assert (record["state"], record["calls"], record["figures"]["steps"]) == ("done", 2, 3)
    assert [step["step"] for step in checkpoint.read_card(out / "2-pretrain")["chain"]] == ["convert", "pretrain"]
    assert 'href="2-pretrain/report.html"' in (out / "report.html").read_text()
    assert main(["run", str(recipe), str(out), "--json"]) == 0
    assert [stage["action"] for stage in json.loads(capsys.readouterr().out)["stages"]] == ["keep", "keep"]
    assert main(["run", str(recipe), str(out), "--dry-run"]) == 0
    assert "finished, kept" in capsys.readouterr().out.replace("\n", " ")


def test_a_forecast_says_what_it_cannot_know(recipe, tmp_path, capsys):
    hub = json.dumps([{"spec": "hub:owner/name", "cap": 3}])
    forecast = dry_run(recipe, tmp_path / "out", [f"data={hub}"])[1]
    assert forecast.amount is None
    assert "1 of 1 sources are of the hub: 1 not looked for, as the hub cannot be reached" in forecast.notes[0]
    assert "streams are not fetched now" in forecast.notes[1]
    assert "at most 3 rows" in forecast.notes[2]
    gone = json.dumps([{"spec": "gone.jsonl"}])
    assert main(["run", str(recipe), str(tmp_path / "out"), f"data={gone}", "--dry-run"]) == 1
    assert "there is no gone.jsonl" in capsys.readouterr().out.replace("\n", " ")
