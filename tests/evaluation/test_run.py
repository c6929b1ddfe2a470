"""A task is ranked as the model compares its vectors, and what is kept of its items tells every one of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from twoway.content import Document, Text
from twoway.data.rows import Policy
from twoway.evaluation.cache import VectorSource
from twoway.evaluation.runner import run_task
from twoway.evaluation.tasks import RankingQuery, RankingTask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# "near" looks where the query looks and is short, "long" looks elsewhere, "beside" ends nearly where the query does.
VECTORS = {"query": (2, 0), "near": (0.5, 0), "long": (9, 9), "beside": (2, 0.5)}
FIRST = {"cosine": "near", "dot": "long", "euclidean": "beside", "manhattan": "beside"}


class Engine:
    """A model whose vectors have any length."""

    name, dimension = "engine", 2

    def __init__(self, similarity: str) -> None:
        self.sentence, self.fingerprint = SimpleNamespace(similarity_fn_name=similarity), similarity

    def embed(self, documents: Any, *, side: Any = None, refuse: Any = None) -> Iterator[tuple[int, Any]]:
        for number, document in enumerate(documents):
            yield number, np.array(VECTORS[document.texts[0]], np.float32)


def words(text: str) -> Document:
    return Document((Text(text),))


CANDIDATES = tuple(words(name) for name in ("near", "long", "beside"))


@pytest.mark.parametrize(("similarity", "first"), FIRST.items())
@pytest.mark.parametrize("among", [None, np.array([2, 0, 1])])
def test_candidates_are_ranked_as_the_model_compares_its_vectors(similarity: str, first: str, among: Any, tmp_path: Path):
    right = next(number for number, one in enumerate(CANDIDATES) if one.texts[0] == first)
    task = RankingTask("task", "group", CANDIDATES, (RankingQuery(words("query"), np.array([right]), among),))
    found = run_task(task, VectorSource(Engine(similarity), tmp_path), Policy("fail"))
    assert found.outcomes[0].places == (1,)
    assert found.outcomes[0].found[0] == right


def test_two_items_of_one_question_are_two(tmp_path: Path):
    items = tuple(RankingQuery(words("query"), np.array([0]), np.array(among)) for among in ([0, 1], [0, 2], [0, 1, 2]))
    found = run_task(RankingTask("task", "group", CANDIDATES, items), VectorSource(Engine("cosine"), tmp_path), Policy("fail"))
    rows = list(found.rows())
    assert len({row["item"] for row in rows}) == len(rows) == 3
    # And one piece of evidence: all of them are about the same.
    assert len({tuple(row["about"]) for row in rows}) == 1
    entry = found.entry()
    assert entry["ci95"] == pytest.approx([entry["score"]] * 2)
