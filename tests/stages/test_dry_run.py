"""A forecast of several stages looks through what they share once, and counts for each what that stage would meet."""

from __future__ import annotations

import json

import numpy as np
import yaml
from PIL import Image as PILImage

from twoway.data import table
from twoway.stages.dry_run import dry_run, forecast
from twoway.stages.steps import lay_out


def test_data_of_several_stages_is_looked_through_once_and_each_counts_by_its_own_processor(tiny_model, tmp_path, monkeypatch):
    data, draw = tmp_path / "rows.jsonl", np.random.default_rng(0)
    for number in range(4):
        PILImage.fromarray(draw.integers(0, 255, (168, 168, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    data.write_text("".join(json.dumps({"parts": [{"image": f"{number}.png"}, {"text": "some words"}]}) + "\n" for number in range(4)))
    shared = {"dtype": "float32", "batch_rows": 2, "workers": 0, "held_out": 0, "max_steps": 2, "data": [{"spec": str(data)}]}
    stages = {
        "large": {"stage": "pretrain", "from": "base"},
        "convert": {"from": "base", "max_pixels": 28 * 28},
        "small": {"stage": "pretrain"},
        "again": {"stage": "pretrain", "from": "base", "seed": 1},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"base": str(tiny_model("qwen2_vl")), **shared, "stages": stages}, sort_keys=False))
    passes, look = [], table._looked
    monkeypatch.setattr(table, "_looked", lambda *given: passes.append(given[0]) or look(*given))

    large, _, small, again = dry_run(recipe, tmp_path / "out")
    assert passes == [str(data)]
    assert 0 < small.amount.image_tokens < large.amount.image_tokens == again.amount.image_tokens
    steps = lay_out(recipe, tmp_path / "out")[1]
    alone = [forecast(step, steps, 1).amount for step in steps]
    assert [alone[0], alone[2], alone[3]] == [large.amount, small.amount, again.amount]
    assert passes == [str(data)], "what was found out lies in the cache for whoever comes after"
    assert not (tmp_path / "out").exists()
