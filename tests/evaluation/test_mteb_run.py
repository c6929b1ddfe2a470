"""How sure a score of mteb's is: queries are drawn again, each with all that it is asked in."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from twoway.evaluation.mteb import MtebResult, QueryOutcome


def test_a_query_that_is_asked_in_several_languages_is_no_more_evidence_than_one():
    draw = np.random.default_rng(0)
    asked = {str(number): QueryOutcome(float(score), (1,), (1,), 9, tied=False) for number, score in enumerate(draw.random(80))}
    metadata = SimpleNamespace(main_score="ndcg_at_5", type="Retrieval", dataset={})
    task = SimpleNamespace(name="Toy", task=SimpleNamespace(metadata=metadata))
    scores = {"test": [{"hf_subset": "en", "main_score": 0.5}]}

    def interval(*languages: str) -> float:
        mean = SimpleNamespace(get_score=lambda: 0.5, scores=scores)
        low, high = MtebResult(task, mean, {("test", language): asked for language in languages}).entry()["ci95"]
        return high - low

    assert interval("en", "fr", "de") == pytest.approx(interval("en"))
