"""A batch that streams is the batch that is made at once; nothing runs far ahead of the model; bad contents are handled as asked."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from contrastive_toy import text
from twoway.content import ContentError, Document, Pair, Place
from twoway.data import loader as data_loader
from twoway.data.collators import PairEncoder, join_pairs
from twoway.data.config import AugmentConfig
from twoway.data.loader import PairLoader
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder
from twoway.data.rows import Policy
from twoway.data.sampler import cut_chunks
from twoway.errors import TwowayError
from twoway.models import loading, processor

ROWS = 8


def png(color, size):
    file = io.BytesIO()
    PILImage.new("RGB", size, color).save(file, "png")
    return {"image": file.getvalue()}


class Source:
    """Two steps of two batches of four rows each; row 5 has a picture that is none, behind a header that is one."""

    mixture = property(lambda self: self)

    def __init__(self, bad=False):
        self.bad = bad

    def rows(self, step, rank, ranks):
        pieces = np.array_split(np.arange(ROWS), 2)
        return step, tuple(pieces[rank::1][: 2 // ranks])

    def plan(self, epoch):
        return type("Plan", (), {"rows": np.arange(ROWS)})

    def read(self, row):
        picture = png((row * 30, 10, 10), (28 + 4 * row, 56))
        if self.bad and row == 5:
            picture = {"image": picture["image"][:60]}
        parts = [[text("word " * (row + 1))], [picture, text("it")], [text("no")]]
        documents = [Document.from_parts(one, place=Place("rows", row)) for one in parts]
        return f"row {row}", Pair(documents[0], (documents[1],), tuple(documents[2:]), "task")


pytestmark = pytest.mark.usefixtures("quick_processes")


@pytest.fixture(scope="module")
def encode(tiny_model):
    folder = tiny_model("qwen2_vl")
    parts = processor.load_processor(folder)
    processor.ensure_template(parts)
    return PairEncoder(Encoder(parts, PatchGeometry.of(loading.load_config(folder), parts), max_length=128), {"query": "Find: "}, 2)


def loader(encode, *, bad=False, budget=80.0, **options):
    return PairLoader(Source(bad), encode, pad_token=0, budget=budget, **options)


def taken(batch, again=()):
    """Return each content's tokens and pixels."""
    found = {}
    for chunk in [*batch["chunks"], *batch["chunks"].reread(list(again))]:
        pixels = chunk["inputs"].get("pixel_values", torch.zeros(0))
        for place, item in enumerate(chunk["items"].tolist()):
            ids = chunk["inputs"]["input_ids"][place][chunk["inputs"]["attention_mask"][place].bool()]
            found.setdefault(item, []).append((ids.tolist(), float(pixels.sum())))
    return found


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"workers": 2, "keep": 0}, {"workers": 2, "keep": 0, "processes": True}], ids=str)
def test_a_stream_holds_what_a_batch_holds(encode, options):
    source = Source()
    seen = 0
    for step, batches in enumerate(loader(encode, **options).steps(0, 2)):
        for batch, rows in zip(batches, source.rows(step, 0, 1)[1], strict=True):
            contents, expected = join_pairs([encode(source.read(row), epoch=step) for row in rows])
            assert batch["contents"] == len(contents) == 2 * len(rows) + 1  # "no" is one content, whoever has it
            for name in ("queries", "candidates", "owner", "query_keys", "candidate_keys", "others"):
                assert torch.equal(batch[name], expected[name]), name
            number = len(batch["chunks"].costs)
            found = taken(batch, range(number))
            assert sorted(found) == list(range(len(contents)))
            for item, (first, second) in found.items():
                assert first == second  # the same to the bit, made again or kept
                assert first[0] == contents[item].example.inputs["input_ids"].tolist()
            seen += 1
    assert seen == 4


@pytest.mark.parametrize("options", [{}, {"workers": 2, "keep": 0, "processes": True}], ids=str)
def test_augmented_pictures_depend_on_seed_epoch_and_row_alone(encode, options):
    def seen(code, *, ranks=1, **more):
        found = {}
        for rank in range(ranks):
            for step, batches in enumerate(loader(code, budget=1.0, **more).steps(0, 2, rank, ranks)):
                for batch in batches:
                    pixels = {item: one for item, one in taken(batch, range(len(batch["chunks"].costs))).items() if one[0][1]}
                    assert all(first == second for first, second in pixels.values())
                    for place, identity in enumerate(batch["identities"]):
                        found[step, identity] = pixels[int(batch["candidates"][place])][0][1]
        return found

    augment = AugmentConfig(rotate=30, colour=0.5)
    changed, plain = replace(encode, augment=augment), seen(encode)
    once = seen(changed)
    assert once == seen(changed, ranks=2, **options)
    assert all(once[key] != plain[key] for key in plain)
    assert all(once[0, f"row {row}"] != once[1, f"row {row}"] for row in range(ROWS))
    assert once != seen(replace(changed, seed=1))
    (looked, *_) = [changed.to_measure(Source().read(row), epoch=0).positive.example.inputs["pixel_values"] for row in range(1)]
    assert float(looked.sum()) == plain[0, "row 0"]


def test_a_guide_sees_each_content_once(encode):
    asked = []

    def guide(documents, sides):
        asked.append(sides)
        return torch.arange(len(documents), dtype=torch.float32)[:, None]

    (batch,) = next(loader(encode, guide=guide).steps(0, 1, 0, 2))
    assert len(batch["guide"]) == batch["contents"] == len(asked[0])
    assert [asked[0][number] for number in batch["queries"]] == ["query"] * 4
    assert [asked[0][number] for number in batch["candidates"]] == ["document"] * 8


def test_nothing_runs_far_ahead(encode, monkeypatch):
    made = []
    real = data_loader.build_chunk
    monkeypatch.setattr(data_loader, "build_chunk", lambda *given: made.append(1) or real(*given))
    steps = loader(encode, workers=2, prefetch=1, budget=1.0).steps(0, 1, 0, 2)
    (batch,) = next(steps)
    used = 0
    for _ in batch["chunks"]:
        used += 1
        assert len(made) <= used + 2
    assert used == 9
    list(steps)


@pytest.mark.parametrize("processes", [False, True])
def test_a_picture_that_cannot_be_opened_is_told_by_its_row(processes, encode):
    with pytest.raises(ContentError, match="--on-bad skip") as error:
        for batches in loader(encode, bad=True, workers=1, processes=processes).steps(0, 1):
            for batch in batches:
                taken(batch)
    assert error.value.place.row == 5


class Deadly(Source):
    """A row that ends the process that reads it."""

    def read(self, row):
        if row == 6 and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(row)


def test_a_process_that_dies_is_one_line(encode):
    dying = PairLoader(Deadly(), encode, pad_token=0, budget=80.0, workers=1, processes=True)
    with pytest.raises(TwowayError, match=r"a process that was making batches died .*; what was done before is kept"):
        for batches in dying.steps(0, 1):
            for batch in batches:
                taken(batch)


def test_bad_pictures_are_skipped_and_counted(encode, tmp_path):
    skipping = loader(encode, bad=True, budget=1.0, policy=Policy("skip", tmp_path / "bad.jsonl"))
    for batches in skipping.steps(0, 1):
        missing = [set(range(batch["contents"])) - set(chunk_items(batch)) for batch in batches]
        assert missing[0] == set()
        assert missing[1] == {int(batches[1]["candidates"][1])}
    assert skipping.bad == 1
    assert '"row": 5' in (tmp_path / "bad.jsonl").read_text()


def chunk_items(batch):
    for chunk in batch["chunks"]:
        assert (chunk["inputs"] is None) == (not len(chunk["items"]))
        yield from chunk["items"].tolist()


def test_chunks_hold_contents_of_nearly_one_length():
    length = [10.0, 300.0, 12.0, 11.0, 9.0, 280.0, 500.0]
    assert cut_chunks(length, [0.0] * 7, 700.0) == [[6], [1, 5], [2, 3, 0, 4]]
    assert cut_chunks(length, [0.0] * 7, 1e9) == [[6], [1, 5], [2, 3, 0, 4]]
    assert cut_chunks(length, [0.0] * 7, 1e9, start=1e9) == [[6, 1, 5, 2, 3, 0, 4]]  # where a run is dear beside padding
    assert cut_chunks(length, [0.0] * 7, 1e9, start=0.0) == [[6], [1], [5], [2], [3], [0], [4]]
    assert cut_chunks(length, [0.0, 400.0, 0.0, 0.0, 0.0, 0.0, 0.0], 700.0) == [[6], [1], [5], [2, 3, 0, 4]]
    assert cut_chunks([], [], 600.0) == []


def test_no_other_cut_is_cheaper():
    draw = random.Random(0)
    for _ in range(50):
        length = sorted((draw.choice([5.0, 20.0, 60.0, 90.0]) + draw.randrange(9) for _ in range(7)), reverse=True)
        prices = []
        for bits in range(64):
            bounds = [0, *(place + 1 for place in range(6) if bits >> place & 1), 7]
            chunks = [length[first:last] for first, last in pairwise(bounds)]
            if all(len(chunk) == 1 or len(chunk) * chunk[0] <= 200 for chunk in chunks):
                prices.append(sum(len(chunk) * chunk[0] + 30.0 for chunk in chunks))
        ours = cut_chunks(length, [0.0] * 7, 200.0, start=30.0)
        assert sum(len(chunk) * length[chunk[0]] + 30.0 for chunk in ours) == min(prices)
