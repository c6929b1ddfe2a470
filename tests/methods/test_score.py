"""A teacher's scores: written ahead beside the pairs, read with the rows, and followed in fine-tuning."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from torch.nn import functional

from contrastive_toy import ROWS, WARM, gradients, load
from pair_toys import USUAL
from rerank_toys import candidate_file
from twoway.cli import main
from twoway.content import ContentError
from twoway.data.config import PairSource
from twoway.data.mixture import open_pairs
from twoway.embedding import open_embedder
from twoway.embedding.reranker import open_reranker
from twoway.errors import UsageError
from twoway.methods.finetune.config import ContrastiveConfig
from twoway.methods.finetune.method import finetune
from twoway.methods.score import score

GOOD = {"query": "a", "positive": "b", "negatives": ["c", "d"], "positive_scores": [2], "negative_scores": [1.5, -1]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return candidate_file(tmp_path_factory.mktemp("candidates"))


def pairs_of(spec):
    pairs = open_pairs((PairSource(str(spec)),))
    return [pairs.read(number)[1] for number in range(len(pairs))]


def test_a_rerankers_scores_stand_beside_the_rows_and_a_stop_costs_nothing(tiny_reranker, rows, tmp_path, capsys):
    words = ["score", str(tiny_reranker), "--data", str(rows), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "24 pairs with the scores of" in capsys.readouterr().out
    engine, given, found = open_reranker(tiny_reranker, device="cpu"), pairs_of(rows), pairs_of(tmp_path / "out")
    assert [(one.query, one.positives, one.negatives, one.task) for one in found] == [
        (one.query, one.positives, one.negatives, one.task) for one in given
    ]
    for pair in found[:4]:
        expected = [value for _, value in sorted(engine.scores((pair.query, one) for one in pair.documents[1:]))]
        assert pair.scores == pytest.approx(expected, abs=1e-4)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    score(tiny_reranker, rows, tmp_path / "parts", part_rows=9, device="cpu")
    (tmp_path / "parts/part-000001.parquet").unlink()
    score(tiny_reranker, rows, tmp_path / "parts", part_rows=9, device="cpu")
    assert [one.scores for one in pairs_of(tmp_path / "parts")] == [pytest.approx(one.scores, abs=1e-4) for one in found]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first


def test_an_embedding_model_scores_by_the_cosine_and_another_model_is_refused(tiny_encoder, tiny_reranker, rows, tmp_path):
    model = tiny_encoder("qwen2_vl", prompts={"query": "ask "})
    score(model, rows, tmp_path / "out", device="cpu")
    engine = open_embedder(model, device="cpu")
    pair = pairs_of(tmp_path / "out")[0]
    query, *others = engine.array([pair.query], side="query")[0], *engine.array(pair.documents[1:], side="document")
    assert pair.scores == pytest.approx([float(query @ one) for one in others], abs=1e-5)
    with pytest.raises(UsageError, match="holds scores by another model; choose another folder, or pass --overwrite"):
        score(tiny_reranker, rows, tmp_path / "out", device="cpu")


def test_a_model_of_many_vectors_scores_by_maxsim(tiny_late, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({name: GOOD[name] for name in ("query", "positive", "negatives")}) + "\n")
    score(tiny_late, tmp_path / "rows.jsonl", tmp_path / "out", device="cpu", workers=0)
    model = MultiVectorEncoder(str(tiny_late), device="cpu")
    expected = model.similarity(model.encode_query(["a"]), model.encode_document(["b", "c", "d"]))[0]
    assert pairs_of(tmp_path / "out")[0].scores == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"negative_scores": [1.5, "high"]}, "negative_scores: score 2 is 'high', not a number"),
        ({"positive_scores": [True]}, "positive_scores: score 1 is True, not a number"),
        ({"negative_scores": [1.5]}, "negative_scores has 1 of 2 scores: it has one for each negative"),
        ({"positive_scores": None}, "positive_scores has 0 of 1 scores"),
        ({"positive_scores": 2.0}, "positive_scores has no list of 1 scores"),
    ],
)
def test_scores_that_are_none_are_said_with_their_row(changed, said, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | changed) + "\n")
    with pytest.raises(ContentError, match=rf"rows.jsonl:2: {said}"):
        pairs_of(path)


def test_a_score_in_a_table_that_is_no_number_is_said_too(tmp_path):
    table = pa.table({"query": ["a"], "positive": ["b"], "positive_scores": [[float("nan")]]})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(ContentError, match=r"rows.parquet:1: positive_scores: score 1 is nan, not a number"):
        pairs_of(tmp_path / "rows.parquet")


def test_a_row_without_scores_is_said_where_a_teacher_is_followed(tiny_model, tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{**GOOD, "query": f"a {number}", "positive": f"b {number}"} for number in range(6)]
    del lines[4]["positive_scores"], lines[4]["negative_scores"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = {**USUAL, "max_steps": 1, "held_out": 0, "eval_steps": 0, "prompts": {}, "calibrate": "none"}
    with pytest.raises(ContentError, match=r"rows.jsonl:5: the row has no scores of a teacher .*; twoway score writes them"):
        finetune(tiny_model("qwen2_vl"), tmp_path / "out", [str(path)], **options, loss={"distill": "kl"})
    with pytest.raises(UsageError, match="distill_weight and distill_temperature are of a teacher's loss"):
        ContrastiveConfig(distill_weight=0.5)


def batch_with(make, scores):
    """Return the toy's batch with a teacher's scores of all its candidates."""
    batch = make(ROWS)
    return batch | {"scores": torch.as_tensor(scores, dtype=torch.float32)}, batch


def student_scores(task, batch):
    """Return what the model itself says of each candidate for its query, over the temperature."""
    with torch.no_grad():
        vectors = torch.zeros(batch["contents"], 32)
        for chunk in batch["chunks"]:
            vectors[chunk["items"]] = functional.normalize(task.predict(chunk["inputs"]), dim=-1)
    return (vectors[batch["queries"]][batch["owner"]] * vectors[batch["candidates"]]).sum(1) / WARM["temperature"]


@pytest.mark.parametrize("kind", ["kl", "margin-mse"])
def test_a_student_that_scores_as_its_teacher_has_no_gradient(tiny_model, kind):
    task, make = load(tiny_model("qwen2_vl"), distill=kind)
    batch = make(ROWS)
    own = student_scores(task.eval(), batch)
    found, made = gradients(task, [batch | {"scores": own + 3.0}])
    assert max(float(one.abs().max()) for one in found.values()) < 1e-4
    assert made.numbers["sum contrastive"] == pytest.approx(0.0, abs=1e-4)
    found, made = gradients(task, [batch | {"scores": -own}])
    assert max(float(one.abs().max()) for one in found.values()) > 1e-3
    assert made.numbers["sum contrastive"] > 0.01


def test_the_teachers_share_is_mixed_with_the_contrastive_loss(tiny_model):
    sums = {}
    for name, options in {"all": {"distill_weight": 1.0}, "half": {"distill_weight": 0.5}, "none": None}.items():
        task, make = load(tiny_model("qwen2_vl"), **({} if options is None else {"distill": "kl"} | options))
        batch = make(ROWS)
        given = batch | {"scores": torch.linspace(-1, 1, len(batch["candidates"]))}
        sums[name] = gradients(task.eval(), [given])[1].numbers["sum contrastive"]
    assert sums["half"] == pytest.approx((sums["all"] + sums["none"]) / 2, rel=1e-5)


def test_what_a_teacher_finds_as_good_as_the_positive_is_no_negative(tiny_model):
    task, make = load(tiny_model("qwen2_vl"), teacher_margin=0.0, mask_copies=False)
    batch = make(ROWS)
    count = len(batch["queries"])
    scores = torch.where(torch.arange(len(batch["candidates"])) < count, 1.0, 0.0)
    scores[count] = 1.0  # the first hard negative of the first row
    _, made = gradients(task.eval(), [batch | {"scores": scores}])
    assert made.numbers["measure masked"] == 1
    assert replace(task.config, teacher_margin=None).needs_teacher is False
    assert np.isfinite(made.numbers["sum contrastive"])
