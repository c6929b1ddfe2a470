"""Late chunks beside chunks alone: documents whose right chunk is told by its neighbour alone, and a rank that equal chunks share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from benchmarks.late_chunks import COLUMNS, SAID, chunked, made, names, reciprocal, show, vectors

from twoway.embedding import open_embedder
from twoway.embedding.chunks import LateEmbedder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("order", ["before", "behind"])
def test_the_right_chunk_says_the_place_and_its_neighbour_the_name(order):
    documents = made(["teapot", "lamp", "kite"], 7, 1, order)
    assert len({query for query, _, _ in documents}) > 3
    for query, chunks, right in documents:
        assert right == (1 if order == "before" else 0)
        name = query.removeprefix("the ").partition(" is kept")[0]
        assert name in chunks[1 - right]
        assert name not in chunks[right]
        assert query.split()[-1] in chunks[right]
        assert [(one.number, len(one.whole)) for one in chunked(chunks)] == [(0, 2), (1, 2)]


def test_training_and_test_are_about_different_things():
    assert not set(names("seen")) & set(names("unseen"))


def test_equal_chunks_share_their_places():
    nearness = np.array([[0.9, 0.5, 0.5, 0.5], [0.1, 0.2, 0.9, 0.3]], np.float32)
    assert reciprocal(nearness, [1, 2]) == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.parametrize("attention", ["causal", "two-way"])
def test_a_two_way_model_alone_reads_the_chunk_behind(tiny_encoder, attention):
    engine = LateEmbedder(open_embedder(tiny_encoder("qwen2_vl", attention=attention), device="cpu", dtype="float32"))
    first, _, second, _ = vectors(engine, [one for name in ("kite", "lamp") for one in chunked(("It is kept here.", f"It is a {name}."))])
    assert np.allclose(first, second, atol=1e-6) == (attention == "causal")


def test_runs_of_a_seed_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, attention in enumerate(("causal", "two-way")):
        for seed in (0, 1):
            run = dict.fromkeys(SAID, 1) | {"way": f"tuned-{attention}", "seed": seed} | dict.fromkeys(COLUMNS.values(), seed + number / 10)
            (tmp_path / f"tuned-{attention}-{seed}.json").write_text(json.dumps(run))
    show(tmp_path)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == [
        "| mean over seeds",
        "| tuned-causal",
        "| tuned-two-way",
        "| difference to `tuned-causal`, seed by seed",
        "| tuned-two-way",
    ]
    assert rows[-1][1] == "0.100 ± 0.000"
