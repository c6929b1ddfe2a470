"""Estimated lengths: pictures exactly as each family's processor cuts them, texts by a rate that is measured on each source."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import transformers
from PIL import Image

from tiny import FAMILIES
from twoway.data import lengths
from twoway.data.config import CostWeights
from twoway.data.lengths import estimate_costs, picture_tokens
from twoway.data.mixture import open_mixture
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder
from twoway.errors import TwowayError
from twoway.models.processor import ensure_template

WORDS = ["a", "the", "cat", "dog", "red", "blue", "small", "large", "one", "two"]


def encoder(folder, length=1024):
    processor = transformers.AutoProcessor.from_pretrained(folder)
    ensure_template(processor)
    return Encoder(processor, PatchGeometry.of(transformers.AutoConfig.from_pretrained(folder), processor), max_length=length)


@pytest.fixture
def mixture(tmp_path):
    """A source of pictures and texts, and one of texts alone that are written otherwise."""
    draw = random.Random(0)
    for number in range(4):
        Image.new("RGB", (draw.randint(20, 90), draw.randint(20, 90))).save(tmp_path / f"{number}.png")
    rows = []
    for number in range(40):
        text = " ".join(draw.choices(WORDS, k=draw.randint(1, 60)))
        rows.append({"parts": [{"image": f"{one}.png"} for one in range(number % 3)] + [{"text": text}]})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dense = [{"text": " ".join(draw.choices("abcdefgh", k=draw.randint(1, 60)))} for _ in range(40)]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dense))
    return open_mixture([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])


def actual(mixture, encode):
    return np.array([len(encode(*mixture.read(row)).words) for row in range(len(mixture))])


@pytest.mark.parametrize("family", FAMILIES)
def test_estimates_are_near_for_every_family(family, tiny_model, mixture):
    encode = encoder(tiny_model(family))
    estimated, counted = estimate_costs(mixture, encode).length, actual(mixture, encode)
    assert np.abs(estimated - counted).mean() < 0.06 * counted.mean()
    assert abs(estimated.sum() - counted.sum()) < 0.03 * counted.sum()


def test_a_processor_that_does_not_say_is_tried(tiny_model, mixture, monkeypatch):
    encode = encoder(tiny_model("qwen2_vl"))
    said = picture_tokens(mixture.tables[0], encode)
    monkeypatch.setattr(type(encode.processor), "_get_num_multimodal_tokens", None)
    assert np.array_equal(picture_tokens(mixture.tables[0], encode), said)
    assert said.max() > 0
    monkeypatch.setattr(lengths, "_SIZES", 1)
    assert picture_tokens(mixture.tables[0], encode).max() > 0


def test_pictures_cost_what_their_weight_says(tiny_model, mixture):
    encode = encoder(tiny_model("qwen2_vl"))
    plain, dear = estimate_costs(mixture, encode), estimate_costs(mixture, encode, CostWeights(2.0, 5.0))
    images = np.concatenate([table.images() for table in mixture.tables])
    tokens = np.concatenate([picture_tokens(table, encode) for table in mixture.tables])
    assert np.array_equal(plain.length, dear.length)
    assert not plain.extra.any()
    assert np.allclose(dear.extra, tokens + 5 * images)


def test_rows_longer_than_the_limit_count_as_the_limit(tiny_model, mixture):
    encode = encoder(tiny_model("qwen2_vl"), length=40)
    found = estimate_costs(mixture, encode).length
    assert found.max() <= 40
    assert (found >= 39.5).sum() > 10


def test_data_that_cannot_be_encoded_is_an_error(tiny_model, mixture):
    with pytest.raises(TwowayError, match=r"none of 32 rows of .*a\.jsonl that were tried can be used, the first: .*max_length 2"):
        estimate_costs(mixture, encoder(tiny_model("qwen2_vl"), length=2))
