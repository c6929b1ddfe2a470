"""README's story, run whole on a model of random weights: convert, look at one's own pairs, mine, fine-tune on what was mined, score."""

from __future__ import annotations

import json
import shlex

import pytest
from PIL import Image

from twoway.cli import main

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
SMALL = ["max_steps=1", "batch=4", "max_length=128", "small_tasks=keep", "held_out=0", "dtype=float32", "hard_negatives=1"]


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Write pairs of one's own beside their pictures, in a folder that is not where the commands run."""
    folder = tmp_path / "mine own"
    folder.mkdir()
    for colour in COLOURS:
        Image.new("RGB", (40, 40), colour).save(folder / f"{colour}.png")
    rows = [{"query": f"a {colour} square", "positive": {"image": f"{colour}.png"}} for colour in COLOURS]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return folder / "pairs.jsonl"


def test_the_story_of_readme(tiny_model, pairs, tmp_path, capsys):
    base = tiny_model("qwen2_vl")
    assert main(["convert", str(base), "my-model"]) == 0
    assert main(["mine", "my-model", "--data", str(pairs), "--out", "mined", "--negatives", "1", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    following = next(line for line in said.splitlines() if "next: " in line).partition("next: ")[2]
    verb = shlex.split(following)[1:]
    assert verb == ["finetune", "my-model", "OUT", "--data", "mined"]
    assert main([*verb, *SMALL]) == 0
    assert (tmp_path / "OUT" / "modules.json").exists()
    assert main(["bridge", "my-model", "bridged", "--data", "mined", "max_steps=1", "held_out=0", "batch_rows=2", "dtype=float32"]) == 0
