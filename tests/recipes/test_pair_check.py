"""`data check` of pairs: sides are measured, a row is shown as the model sees it, and what is suspect or bad is listed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image as PILImage

from twoway.cli import main
from twoway.errors import UsageError
from twoway.methods.duplicates import HashIndex, near_texts
from twoway.recipes.data_check import check_pairs, pairs_of


@pytest.fixture
def data(tmp_path):
    """Pairs with a twin and a row without an answer, and an evaluation set that shares a text, a file, and the look of a picture."""
    draw = np.random.default_rng(0)
    for name in "abc":
        small = PILImage.fromarray(draw.integers(0, 255, (6, 6, 3), dtype=np.uint8))
        small.resize((96, 64), PILImage.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
    PILImage.open(tmp_path / "b.png").resize((90, 60)).save(tmp_path / "like-b.jpg")
    rows = [
        {"query": {"image": "a.png"}, "positive": "the first of them", "negatives": ["x", "y"], "task": "one"},
        {"query": "What is it?", "positive": {"image": "b.png"}, "task": "two"},
        {"query": "What is   it?", "positive": "what is it?", "task": "two"},
        {"query": "alone"},
        {"query": "the same words stand there", "positive": {"image": "c.png"}},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = [{"query": {"image": "like-b.jpg"}, "positive": "nothing else"}, {"query": "q", "positive": "The same  words stand there"}]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held))
    return tmp_path


def test_sides_are_measured_and_what_is_suspect_is_listed(data, tiny_model):
    config = pairs_of(str(data / "rows.jsonl"), ["prompts.query=Find: "], pairs=True)
    report = check_pairs("x", config, model=tiny_model("qwen2_vl"), against=[str(data / "eval.jsonl")])
    (source,) = report.sources
    assert (source.rows, source.tasks) == (4, {"one": 1, "two": 2, "rows.jsonl": 1})
    query, positive, negative = source.sides["query"], source.sides["positive"], source.sides["negative"]
    assert (query.documents, query.with_text, query.with_picture) == (4, 3, 1)
    assert (positive.with_picture, positive.pixels[0], positive.aspect) == (2, 96 * 64, 1.5)
    assert (negative.documents, negative.characters) == (2, (1, 1, 1, 1))
    assert source.twins == ["rows.jsonl#3"]
    assert source.seen_exact == [f"rows.jsonl#5 has a content of {source.seen_exact[0].rpartition(' ')[2]}"]
    assert source.seen_near == ["rows.jsonl#2 has a picture like one of eval.jsonl#1"]
    assert len(source.bad) == 1
    assert "no positive" in source.bad[0]
    assert not report.ok
    assert source.shown["query"].prompt.endswith("image tokens]<|vision_end|>Find: <|im_end|>\n")
    assert source.shown["positive"].parts == ["the first of them"]
    assert report.small == "a batch has 2,048 rows of one task, more than there are in one (1), two (2), rows.jsonl (1)"


def test_the_command_says_it_in_words_and_in_json(data, capsys):
    words = ["data", "check", str(data / "rows.jsonl"), "--pairs"]
    assert main([*words, "--against", str(data / "eval.jsonl")]) == 1
    said = capsys.readouterr().out
    for word in ("query is nearly its answer: 1 rows, the first: rows.jsonl#3", "looks like one in", "tasks: one 1, two 2", "bad: 1 rows"):
        assert word in said
    assert main([*words, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["sources"][0]["twins"] == ["rows.jsonl#3"]


def test_a_file_of_pairs_says_so_itself(data, tmp_path):
    assert pairs_of(str(data / "rows.jsonl"), [], pairs=False) is not None
    (tmp_path / "texts.jsonl").write_text('{"text": "no pair"}\n')
    assert pairs_of(str(tmp_path / "texts.jsonl"), [], pairs=False) is None


def test_recipes_say_themselves_whether_they_are_of_pairs(data):
    recipe = data / "recipe.yaml"
    recipe.write_text(f"global_batch_size: 4\ndata: [{{spec: {data / 'rows.jsonl'}}}]\n")
    assert pairs_of(str(recipe), [], pairs=False).global_batch_size == 4
    recipe.write_text(f"data: [{{spec: {data / 'rows.jsonl'}}}]\n")
    assert pairs_of(str(recipe), [], pairs=False) is None
    assert pairs_of(str(recipe), [], pairs=True) is not None
    recipe.write_text(f"stages:\n  pretrain: {{data: [{{spec: x}}]}}\n  finetune: {{data: [{{spec: {data / 'rows.jsonl'}}}]}}\n")
    assert pairs_of(str(recipe), [], pairs=False).data[0].spec == str(data / "rows.jsonl")
    recipe.write_text("mask: {words: 0.2}\nglobal_batch_size: 3\n")
    with pytest.raises(UsageError, match="no stage has all of its keys"):
        pairs_of(str(recipe), [], pairs=True)


def test_near_is_nearly_the_same_and_no_more():
    assert near_texts("A cat  sits on the mat.", "a cat sits on the mat.")
    assert not near_texts("a cat sits on the mat", "a dog sits on the rug")
    assert not near_texts("cat", "car")
    looks = HashIndex()
    looks.add(0b1011 << 30, "one")
    assert looks.find(0b1011 << 30 | 0b1111) == "one"
    assert looks.find(0b1011 << 30 | 0b11111) is None
