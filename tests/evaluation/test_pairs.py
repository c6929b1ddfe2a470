"""The suite `pairs`: one's own pairs as retrieval over all answers, checked against a plain loop, through the command and recipes."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

from recipe_fakes import write
from twoway.cli import main
from twoway.data.config import PairSource
from twoway.errors import UsageError
from twoway.evaluation.evaluate import evaluate
from twoway.recipes.recipe import read_recipe
from twoway.recipes.records import plan_jobs

# Two rows ask one thing, two have one answer, a query is another row's answer, one task's answer is no wrong one of the other's.
ROWS = [
    {"query": "red", "positive": "a colour of blood", "negatives": ["a colour of grass", "nothing"]},
    {"query": "red", "positive": "crimson"},
    {"query": "scarlet", "positives": ["crimson", {"image": "red.png"}]},
    {"query": "green", "positive": "a colour of grass"},
    {"query": "a colour of grass", "positive": "green"},
    {"query": {"image": "red.png"}, "positive": "red"},
    {"query": "green", "positive": "vert", "task": "french"},
    {"query": "red", "positive": "rouge", "task": "french"},
]
ANSWERS = ["a colour of blood", "a colour of grass", "nothing", "crimson", "red.png", "green", "red", "vert", "rouge"]
# What each question is: its answers, and what is none of its candidates.
ASKED = {
    "test.jsonl": {
        "red": (["a colour of blood", "crimson"], ["red", "rouge"]),
        "scarlet": (["crimson", "red.png"], []),
        "green": (["a colour of grass"], ["green", "vert"]),
        "a colour of grass": (["green"], ["a colour of grass"]),
        "red.png": (["red"], ["red.png"]),
    },
    "french": {"green": (["vert"], ["green", "a colour of grass"]), "red": (["rouge"], ["red", "a colour of blood", "crimson"])},
}


def lay(folder, rows=ROWS):
    Image.new("RGB", (30, 40), "red").save(folder / "red.png")
    path = folder / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_scores_are_those_of_a_plain_loop_over_all_answers(tiny_encoder, tmp_path, capsys):
    model, data, output = tiny_encoder("qwen2_vl"), lay(tmp_path), tmp_path / "out.json"
    words = ["--suite", "pairs", "--cache-dir", str(tmp_path), "--device", "cpu", "--data"]
    assert main(["evaluate", str(model), *words, str(data), "--out", str(output), "--report", str(tmp_path / "page.html")]) == 0
    assert "french" in capsys.readouterr().out
    assert "Misses · test.jsonl" in (tmp_path / "page.html").read_text()
    sentence = SentenceTransformer(str(model), device="cpu")

    def embed(name):
        part = {"type": "image", "image": Image.open(tmp_path / name)} if name.endswith(".png") else {"type": "text", "text": name}
        return sentence.encode([[{"role": "user", "content": [part]}]])[0]

    found = json.loads(output.read_text())
    vectors = {name: embed(name) for name in [*ANSWERS, "scarlet"]}
    for task, asked in ASKED.items():
        ranks = []
        for query, (right, without) in asked.items():
            scores = {name: float(vectors[query] @ vectors[name]) for name in ANSWERS if name not in without}
            wrong = [score for name, score in scores.items() if name not in right]
            ranks.append(1 + sum(score >= max(scores[name] for name in right) for score in wrong))
        entry = found["tasks"][task]
        assert entry["score"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
        assert (entry["metric"], entry["n"], entry["left_out"]) == ("mrr", len(asked), 0)
        sizes = [len(ANSWERS) - len(without) for _, without in asked.values()]
        assert entry["candidates"] == [min(sizes), max(sizes)]
        assert 0 < entry["chance"] < 1
    assert found["settings"]["data"] == "test.jsonl"
    # Another model's results, of the rows in another order, are joined question by question.
    other, second = tiny_encoder("qwen2_vl", pooling="last"), tmp_path / "second.json"
    assert main(["evaluate", str(other), *words, str(lay(tmp_path, ROWS[::-1])), "--cap", "8", "--out", str(second)]) == 0
    capsys.readouterr()
    assert main(["compare", str(output), str(second), "--json"]) == 0
    (lines,) = json.loads(capsys.readouterr().out)["others"].values()
    scores = {line["what"]: (line["n"], line["first"], line["second"]) for line in lines}
    other_scores = json.loads(second.read_text())["tasks"]
    for task, asked in ASKED.items():
        assert scores[task] == (len(asked), pytest.approx(found["tasks"][task]["score"]), pytest.approx(other_scores[task]["score"]))


def test_bad_rows_stop_the_run_with_their_place_or_are_left_out_and_listed(tiny_encoder, tmp_path, capsys):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole, "PNG")
    side = pa.struct([("text", pa.string()), ("image", pa.binary())])
    torn = whole.getvalue()[:4000]  # its head is whole, so it is met when its pixels are asked for
    rows = [
        {"query": "a", "positive": {"text": "one"}},
        {"query": "b", "positive": None},
        {"query": "c", "positive": {"text": "two"}},
        {"query": "d", "positive": {"image": torn}},
        {"query": "e", "positive": {"text": "three"}, "negative": {"image": torn + b"\0"}},
    ]
    schema = pa.schema([("query", pa.string()), ("positive", side), ("negative", side)])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "rows.parquet")
    words = ["--suite", "pairs", "--data", str(tmp_path / "rows.parquet"), "--cache-dir", str(tmp_path), "--device", "cpu"]
    assert main(["evaluate", "no model is even looked for", *words]) == 1
    assert "rows.parquet:2: the row has no positive" in capsys.readouterr().err
    output = tmp_path / "out.json"
    assert main(["evaluate", str(tiny_encoder("qwen2_vl")), *words, "--on-bad", "skip", "--out", str(output)]) == 0
    entry = json.loads(output.read_text())["tasks"]["rows.parquet"]
    # What a torn picture answers is not asked; a torn candidate is no candidate, and counted like the rest.
    assert (entry["n"], entry["left_out"], entry["candidates"]) == (3, 3, [3, 3])
    listed = [json.loads(line) for line in (tmp_path / "out.bad-rows.jsonl").read_text().splitlines()]
    assert [one["row"] for one in listed] == [2, 4, 5]


class Recorded:
    """A server's stand-in that keeps how it is asked; its vectors are of no worth."""

    name, fingerprint, dimension = "recorded", "recorded", 2

    def __init__(self, prompts):
        self.sentence, self.asked = SimpleNamespace(prompts=prompts, similarity_fn_name="cosine"), []

    def embed(self, documents, *, refuse=None, **how):
        for number, document in enumerate(documents):
            self.asked.append((how.get("prompt"), how["side"], document.texts[0]))
            yield number, np.array([1, len(document.texts[0])], np.float32)

    def close(self):
        pass


def test_a_task_has_the_prompts_of_its_source_or_those_that_the_model_has_for_it(tmp_path, monkeypatch):
    rows = [{"query": "a", "positive": "one"}, {"query": "bc", "positive": "three"}]
    engine = Recorded({"query": "usual: ", "french-query": "the model's: ", "french-document": "its document: "})
    monkeypatch.setattr("twoway.evaluation.evaluate.open_engine", lambda model, **opening: engine)
    source = PairSource(str(lay(tmp_path, rows)), task="french", query="mine: ")
    evaluate("m", "pairs", data=[source], cache_dir=tmp_path)
    assert {(told, side) for told, side, _ in engine.asked} == {("mine: ", "query"), ("its document: ", "document")}
    engine.asked.clear()
    evaluate("m", "pairs", data=source.spec, cache_dir=tmp_path / "other")
    assert {(told, side) for told, side, _ in engine.asked} == {(None, "query"), (None, "document")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the suite pairs needs --data SPEC: pairs of a query and its answers"),
        (["--data", "test.jsonl", "--tasks", "frnch"], "there is no task 'frnch'; did you mean french"),
        (["--data", "one.jsonl"], "there is nothing to choose from"),
        (["--cap", "3"], "the suite pairs needs --data SPEC"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_opened(tmp_path, monkeypatch, capsys, words, said):
    lay(tmp_path)
    (tmp_path / "one.jsonl").write_text('{"query": "a", "positive": "b"}\n{"query": "c", "positive": "b"}\n')
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "no model", "--suite", "pairs", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_is_named_alone():
    with pytest.raises(UsageError, match="the suite mmeb reads one folder"):
        evaluate("no model", "mmeb", data=["a", "b"])


def test_a_recipe_names_pairs_and_its_fingerprint_is_of_their_content(tmp_path):
    data = lay(tmp_path)
    said = {"stage": "evaluate", "suite": "pairs"}
    one = read_recipe(write(tmp_path, {"score": said | {"data": str(data)}}))
    listed = read_recipe(write(tmp_path, {"score": said | {"data": [{"spec": str(data)}]}}))
    assert one.stages[0].config.data == listed.stages[0].config.data == (PairSource(str(data)),)
    first = plan_jobs(one)[0]
    assert not first.problems
    lay(tmp_path, ROWS[1:])
    assert plan_jobs(one)[0].fingerprint != first.fingerprint
    with pytest.raises(UsageError, match=r"unknown key data\[1\]\.spek; did you mean"):
        read_recipe(write(tmp_path, {"score": said | {"data": [{"spek": str(data)}]}}))
