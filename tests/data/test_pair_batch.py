"""A batch holds each content once, in chunks that pad little and cost no more than they may, and knows who belongs to whom."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from twoway.content import Document, Image, Pair, Place, Text
from twoway.data.collators import PairEncoder, collate_pairs, content_key, task_prompt
from twoway.data.config import CostWeights
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder
from twoway.models.loading import load_config
from twoway.models.processor import load_processor


def text(words):
    return Document((Text(words),))


PICTURE = Document((Image(PILImage.new("RGB", (56, 56), "red")),))


@pytest.fixture(scope="module")
def encoder(tiny_model):
    processor = load_processor(tiny_model("qwen2_vl"))
    return Encoder(processor, PatchGeometry.of(load_config(tiny_model("qwen2_vl")), processor), max_length=256)


@pytest.fixture
def made(encoder):
    def make(*rows, prompts=None, negatives=2, epoch=0, choose="first", fill=False, **options):
        code = PairEncoder(encoder, prompts or {}, negatives, choose, seed=1, fill=fill)
        examples = [code(code.defer(f"row#{number}", row), epoch=epoch) for number, row in enumerate(rows)]
        return collate_pairs(examples, pad_token=0, **{"budget": 10_000.0} | options)

    return make


def row(query, positive, *negatives, others=()):
    return Pair(query, (positive, *others), negatives, "t", Place("rows", 1))


def test_a_content_is_embedded_once_and_found_by_its_number(made):
    batch = made(row(text("q"), text("a"), text("b")), row(text("r"), text("a"), text("c"), PICTURE), row(text("a"), PICTURE))
    assert batch["contents"] == 6
    assert batch["queries"][2] == batch["candidates"][0] == batch["candidates"][1]
    assert batch["candidates"][2] == batch["candidates"][5]
    assert batch["owner"].tolist() == [0, 1, 2, 0, 1, 1]
    items = torch.cat([chunk["items"] for chunk in batch["chunks"]])
    assert sorted(items.tolist()) == list(range(6))
    keys = {content_key(one) for one in (text("a"), text("b"), text("c"), PICTURE)}
    assert set(batch["candidate_keys"].tolist()) == keys
    assert batch["query_keys"][2] == batch["candidate_keys"][0] == content_key(text("a"))


def test_no_negatives_in_a_row_or_in_any(made):
    batch = made(row(text("q"), text("a")), row(text("r"), text("b"), text("c")))
    assert batch["owner"].tolist() == [0, 1, 1]
    assert made(row(text("q"), text("a")))["owner"].tolist() == [0]
    assert made(row(text("q"), text("a"), text("b")), negatives=0)["owner"].tolist() == [0]


@pytest.mark.parametrize("choose", ["first", "random"])
def test_a_row_that_is_short_of_negatives_has_its_last_one_again_where_asked(made, choose):
    """As the released code of MoCa and mmE5 fills its lists; a row without any stays so."""
    rows = row(text("q"), text("a"), text("b"), text("c")), row(text("r"), text("d"))
    batch = made(*rows, negatives=4, fill=True, choose=choose)
    assert batch["owner"].tolist() == [0, 1, 0, 0, 0, 0]
    wrong = [content_key(text(word)) for word in "bccc"]
    assert batch["candidate_keys"].tolist()[2:] == wrong
    assert made(*rows, negatives=4, choose=choose)["owner"].tolist() == [0, 1, 0, 0]


def test_further_answers_take_turns_and_never_count_as_wrong(made):
    one = row(text("q"), text("a"), others=(text("b"), text("c")))
    shown = [made(one, epoch=epoch) for epoch in range(4)]
    wanted = [content_key(text(word)) for word in "abca"]
    assert [int(batch["candidate_keys"][0]) for batch in shown] == wanted
    assert {tuple(pair) for pair in shown[1]["others"].tolist()} == {(0, wanted[0]), (0, wanted[2])}


def test_negatives_are_the_first_or_drawn_anew_each_epoch(made):
    one = row(text("q"), text("a"), *(text(f"n{number}") for number in range(9)))
    first = made(one, negatives=3)["candidate_keys"].tolist()[1:]
    assert first == [content_key(text(f"n{number}")) for number in range(3)]
    drawn = [tuple(made(one, negatives=3, choose="random", epoch=epoch)["candidate_keys"].tolist()[1:]) for epoch in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 2
    assert all(len(set(keys)) == 3 for keys in drawn)


def test_prompts_are_those_of_the_task_or_of_the_side(made):
    assert task_prompt({"query": "a", "t-query": "b"}, "t", "query") == "b"
    assert task_prompt({"query": "a"}, "t", "query") == "a"
    assert task_prompt({"query": "a"}, "t", "document") == ""
    rows = [row(text("same"), text("same"))]
    bare, asked = made(*rows), made(*rows, prompts={"query": "Find: "})
    # The same words are two contents where one of them has an instruction before it; as answers they are the same still.
    assert (bare["contents"], asked["contents"]) == (1, 2)
    assert asked["query_keys"][0] == asked["candidate_keys"][0]


def test_long_pages_do_not_pad_short_texts(made):
    rows = [row(text("q" * (number + 1)), Document((Text("page " * 30), *PICTURE.parts, Text(str(number))))) for number in range(8)]
    batch = made(*rows, budget=400.0)
    padded = real = 0
    for chunk in batch["chunks"]:
        mask = chunk["inputs"]["attention_mask"]
        assert mask.numel() <= 400 or len(mask) == 1
        padded, real = padded + mask.numel(), real + int(mask.sum())
    assert 1 - real / padded < 0.15
    longest = max(chunk["inputs"]["attention_mask"].shape[1] for chunk in batch["chunks"])
    assert 16 * longest > 1.5 * padded


def test_pictures_count_in_a_chunks_cost(made):
    rows = [row(text(f"q{number}"), Document((*PICTURE.parts, Text(str(number))))) for number in range(6)]
    plain, dear = made(*rows, budget=80.0), made(*rows, budget=80.0, weights=CostWeights(image=50.0))
    assert len(dear["chunks"]) > len(plain["chunks"])
    assert max(len(chunk["inputs"].get("image_grid_thw", [])) for chunk in dear["chunks"]) == 1


def test_chunks_hold_what_encoding_alone_gives(made, encoder):
    documents = [text("one"), PICTURE, Document((Text("a"), *PICTURE.parts, Text("b"), *PICTURE.parts))]
    batch = made(*(row(text(f"q{number}"), one) for number, one in enumerate(documents)))
    found = {}
    for chunk in batch["chunks"]:
        at = 0
        for place, item in enumerate(chunk["items"].tolist()):
            inputs = chunk["inputs"]
            ids = inputs["input_ids"][place][inputs["attention_mask"][place].bool()]
            pictures = int((ids == encoder.geometry.image_token).sum()) * 4
            found[item] = ids, inputs["pixel_values"][at : at + pictures] if pictures else None
            at += pictures
    for number, document in enumerate(documents):
        ids, pixels = found[int(batch["candidates"][number])]
        alone = encoder("x", document).inputs
        assert torch.equal(ids, alone["input_ids"])
        assert (pixels is None) == ("pixel_values" not in alone)
        if pixels is not None:
            np.testing.assert_array_equal(pixels, alone["pixel_values"])


def test_a_picture_of_one_token_is_no_row_of_tokens(tiny_model):
    """Its grid (1, 3) has the shape of a row of three tokens: a mark before it, itself, a mark behind it."""
    processor = load_processor(tiny_model("qwen2_vl"))
    encoder = Encoder(processor, PatchGeometry.of(load_config(tiny_model("qwen2_vl")), processor), max_length=256, template="plain")
    one = Document((Image(PILImage.new("RGB", (28, 28), "red")),))
    example = encoder("x", one)
    assert example.inputs["input_ids"].shape == (3,)
    assert example.inputs["image_grid_thw"].shape == (1, 3)
    code = PairEncoder(encoder, {}, 0)
    batch = collate_pairs(
        [code(("r", row(text("q"), one)), epoch=0), code(("s", row(text("r"), PICTURE)), epoch=0)], pad_token=0, budget=1e4
    )
    assert sum(len(chunk["inputs"].get("image_grid_thw", [])) for chunk in batch["chunks"]) == 2
