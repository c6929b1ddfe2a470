"""One machine's part of bulk embedding: a shard is answered whole, with its bad rows; what is wrong is answered too."""

from __future__ import annotations

import json

import numpy as np

from twoway.embedding import open_embedder
from twoway.embedding.ray import ShardEmbedder, SourceRows, describe_model, read_answer
from twoway.embedding.writing import Sources


def batch(number, first, places):
    return {"number": np.array([number]), "first": np.array([first]), "places": np.array([places.ravel()])}


def answered(worker, number, first, places):
    answer = {name: value[0] for name, value in worker(batch(number, first, places)).items()}
    return answer, read_answer(answer, 32)


def test_a_shard_is_answered_with_its_rows_in_order_and_its_bad_rows(tiny_encoder, tmp_path):
    rows = [{"text": f"row {n} " + "w " * (n % 5), "n": n} for n in range(9)]
    rows[2] = {"image": "none.png"}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = SourceRows(Sources([str(tmp_path / "rows.jsonl")], root=None, dpi=72))
    opening, prompts = {"model": str(tiny_encoder("qwen2_vl")), "device": "cpu"}, {"side": "document"}
    facts = describe_model(opening, prompts)
    worker = ShardEmbedder(opening, prompts, places, facts["fingerprint"], strict=False)
    first, second = places.shards(6)
    answer, (numbers, found, vectors, bad) = answered(worker, 0, 0, first)
    assert (answer["error"], answer["seen"], numbers) == ("", 6, [0, 1, 3, 4, 5])
    assert [row.id for row in found] == [f"{tmp_path / 'rows.jsonl'}:{n + 1}" for n in numbers]
    where = f"{tmp_path} (root: names the folder that paths are relative to)"
    assert [str(one) for one in bad] == [f"{tmp_path / 'rows.jsonl'}:3: picture none.png does not exist in {where}"]
    engine = open_embedder(**opening)
    alone = engine.sentence.encode([rows[n]["text"] for n in numbers], show_progress_bar=False)
    assert np.abs(vectors - alone).max() < 1e-5
    assert answered(worker, 1, 6, second)[1][0] == [6, 7, 8]
    strict = ShardEmbedder(opening, prompts, places, facts["fingerprint"], strict=True)
    assert len(answered(strict, 0, 0, first)[1][3]) == 1
    other = ShardEmbedder(opening, prompts, places, "of another model", strict=True)
    assert "is another model on one of the machines" in answered(other, 0, 0, first)[0]["error"]


def test_what_is_wrong_is_said_where_the_model_would_run(tiny_encoder, tmp_path):
    wrong = describe_model({"model": str(tiny_encoder("qwen2_vl"))}, {"prompt_name": "passage"})
    assert wrong == {"error": "the model has no prompt 'passage' (it has: query, document)", "usage": True}
    assert "none" in describe_model({"model": str(tmp_path / "none")}, {})["error"]
