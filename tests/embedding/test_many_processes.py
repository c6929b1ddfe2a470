"""A model in several processes gives what it gives in one: the same vectors, hits and negatives, and the same refusals."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from twoway.cli import main
from twoway.content import ContentError, Document, Place
from twoway.embedding import open_embedder
from twoway.embedding.opening import Embedders, open_embedders
from twoway.errors import UsageError
from twoway.evaluation.runner import items_path
from twoway.methods.mine import mine

pytestmark = pytest.mark.usefixtures("quick_processes")


@pytest.fixture(scope="module")
def folder(tiny_encoder):
    return tiny_encoder("qwen2_vl", prompts={"query": "Find: "})


@pytest.fixture
def pairs(tmp_path):
    rows = []
    for number in range(24):
        Image.new("RGB", (30, 30 + number), (number * 10, 255 - number * 10, number)).save(tmp_path / f"{number}.png")
        rows.append({"query": f"colour {number}", "positive": {"image": f"{number}.png"}})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "pairs.jsonl"


def test_two_processes_give_the_vectors_the_refusals_and_the_negatives_of_one(folder, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("twoway.embedding.opening._FIRST", 4)
    documents = [
        Document.from_parts(
            [{"text": "word " * (1 + number % 7)}, {"image": f"{number}.png"}], root=tmp_path, place=Place("rows", number + 1)
        )
        for number in range(20)
    ]
    documents[9] = Document.from_parts([{"image": "gone.png"}], root=tmp_path, place=Place("rows", 10))
    one, two = open_embedder(folder, device="cpu"), open_embedders(folder, device="cpu", processes=2)
    assert isinstance(two, Embedders)
    assert (two.fingerprint, two.dimension, two.normal) == (one.fingerprint, one.dimension, one.normal)
    with pytest.raises(ContentError, match=r"rows:10: picture gone.png does not exist"):
        list(two.embed(documents, side="query"))
    found, refused = [], []
    for engine in (one, two):
        bad = []
        found.append(dict(engine.embed(documents, side="query", refuse=lambda number, error, bad=bad: bad.append((number, str(error))))))
        refused.append(bad)
    assert refused[0] == refused[1] == [(9, refused[0][0][1])]
    assert sorted(found[0]) == list(found[1]) == [number for number in range(20) if number != 9]
    for number, vector in found[0].items():
        np.testing.assert_allclose(found[1][number], vector, atol=1e-6)
    assert np.abs(found[0][0] - found[0][1]).max() > 1e-3  # they are no constants

    negatives = []
    for name, engine in (("one", one), ("two", two)):
        mine(engine, pairs, tmp_path / name, num_negatives=3, range_max=10)
        negatives.append([row for path in sorted((tmp_path / name).glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()])
    assert len(negatives[0]) == 24
    for first, second in zip(*negatives, strict=True):
        assert rounded(first) == rounded(second)


def rounded(value):
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value


def test_evaluate_in_two_processes_has_the_hits_of_one(folder, tmp_path, capsys):
    outcomes = []
    for name in ("1", "2"):
        output = tmp_path / f"{name}.json"
        words = ["evaluate", str(folder), "--suite", "nano", "--tasks", "picture-name", "--subset", "24", "--out", str(output)]
        assert main([*words, "--device", "cpu", "--cache-dir", str(tmp_path / name), "--processes", name]) == 0
        outcomes.append((json.loads(output.read_text()), items_path(output).read_bytes()))
        assert re.search(r"[1-9]\d* contents embedded, 0 taken", capsys.readouterr().err)
    assert outcomes[0] == outcomes[1]


def test_what_cannot_be_is_said(folder, monkeypatch):
    with pytest.raises(UsageError, match="processes takes a whole number from 1, not '0'"):
        open_embedders(folder, processes=0)
    with pytest.raises(UsageError, match="a model in memory cannot be sent to other processes"):
        open_embedders(open_embedder(folder, device="cpu"), processes=2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UsageError, match="--processes 3: this machine shows 2 GPUs"):
        open_embedders(folder, processes=3)
    with pytest.raises(UsageError, match="--processes 2 cannot share the device cuda:1"):
        open_embedders(folder, device="cuda:1", processes=2)
