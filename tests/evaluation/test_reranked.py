"""`evaluate --rerank`: the second step's scores are those of a plain loop, and what it cost stands beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image as PILImage

from rerank_toys import speaking
from twoway.cli import main
from twoway.embedding import open_embedder
from twoway.embedding.reranker import open_reranker
from twoway.errors import UsageError
from twoway.evaluation.evaluate import evaluate
from twoway.evaluation.runner import SEARCH_COSTS, search_costs

ROWS = [{"query": f"say {number}", "positive": f"answer {number}"} for number in range(5)] + [
    {"query": {"image": "red.png"}, "positive": "red"},
]


def test_scores_are_those_of_a_plain_loop_with_their_cost(tiny_encoder, tiny_model, tmp_path, capsys):
    judge, model = speaking(tiny_model("qwen3_vl"), tmp_path / "judge"), tiny_encoder("qwen2_vl")
    PILImage.new("RGB", (30, 40), "red").save(tmp_path / "red.png")
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = ["--suite", "pairs", "--cache-dir", str(tmp_path), "--device", "cpu", "--data", str(data), "--rerank", str(judge)]
    assert main(["evaluate", str(model), *words, "--rerank-top", "3", "--out", str(tmp_path / "out.json")]) == 0
    assert "not reranked" in capsys.readouterr().out
    plain = evaluate(model, "pairs", data=data, cache_dir=tmp_path, device="cpu")
    found = json.loads((tmp_path / "out.json").read_text())
    entry = found["tasks"]["test.jsonl"]
    assert found["reranker"]["top"] == 3
    assert (entry["reranked"]["before"], entry["reranked"]["pairs"]) == (pytest.approx(plain.found["mean"]), 18)
    assert entry["reranked"]["seconds"] > 0

    # By hand: the three nearest are read again, and the right answer stands where it stands among them, or where it stood.
    engine, (result,), places = open_reranker(judge, device="cpu"), plain.results, []
    task = result.task
    for number, item in enumerate(task.items):
        order = list(result.outcomes[number].found)
        again = engine.rank(item.query, [task.candidates[place] for place in order[:3]])
        order = [order[one.number] for one in again] + order[3:]
        right = int(item.right[0])
        places.append(order.index(right) + 1 if right in order else result.outcomes[number].places[0])
    assert entry["score"] == pytest.approx(float(np.mean([1 / place for place in places])))
    assert list(search_costs(plain.results)) == list(SEARCH_COSTS[:2])
    assert search_costs(plain.results)["numbers_per_item"] == open_embedder(model, device="cpu").dimension
    again = evaluate(model, "pairs", data=data, cache_dir=tmp_path, device="cpu", rerank=str(judge), rerank_top=3)
    assert list(search_costs(again.results)) == list(SEARCH_COSTS[:2])  # a reranker that was not asked has no time
    assert again.found["tasks"]["test.jsonl"]["reranked"]["pairs"] == 0  # all of it was in the cache


def test_suites_of_mteb_rank_by_vectors():
    with pytest.raises(UsageError, match="the suite vidore-v2 is scored by mteb, which ranks by vectors; leave rerank out"):
        evaluate("model", "vidore-v2", rerank="judge")
