"""Formats: each public data set by a small file of the same columns, and templates for any others."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest

from twoway.content import ContentError, Text
from twoway.data.config import SourceConfig
from twoway.data.mixture import open_mixture
from twoway.data.rows import Policy
from twoway.data.sources.formats import FORMATS, document_format, mammoth_vl
from twoway.errors import UsageError


@pytest.fixture
def read(tmp_path, png, jsonl):
    """Write rows to Parquet (or JSONL) and return the first document as ("text" or size of the picture, …)."""
    (tmp_path / "pictures").mkdir()
    for number in (1, 2, 3):
        (tmp_path / f"pictures/{number}.png").write_bytes(png(size=(10 * number, 5)))

    def make(template, row, *, lines=False):
        path = tmp_path / "rows.parquet"
        if lines:
            path = jsonl(row)
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
        mixture = open_mixture([SourceConfig(str(path), row_template=template)])
        document = mixture.read(0)[1]
        widths = iter(mixture.tables[0].sizes[:, 1].tolist())
        return [part.text if isinstance(part, Text) else next(widths) for part in document.parts]

    return make


MOCA = "<|vision_start|><|image_pad|><|vision_end|>"


def test_sets_that_the_authors_of_moca_have_prepared(read, png):
    """Marks in the text, pictures as bytes; of a text alone, an empty list."""
    row = {"text": f"{MOCA}\nWhat is <image>?\n{MOCA} A cat.\n", "images": [png(size=(6, 5)), png(size=(7, 5))]}
    assert read("moca", row) == [6, "\nWhat is <image>?\n", 7, " A cat.\n"]
    row = {"text": " A page about <image> and <|image_1|>.\n", "images": []}
    assert read("moca", row, lines=True) == [row["text"]]


@pytest.mark.parametrize(("text", "pictures"), [(f"{MOCA} a {MOCA}", 1), (f"{MOCA} a", 0), ("a", 1), (f"{MOCA} a", 2)])
def test_a_prepared_row_with_other_marks_than_pictures_is_bad(read, png, text, pictures):
    with pytest.raises(ContentError, match=rf"rows\.parquet:1: the text has {text.count(MOCA)} marks .* the row has {pictures} pictures"):
        read("moca", {"text": text, "images": [png()] * pictures or [b""][:0]})


def test_dclm(read):
    row = {
        "bff_contained_ngram_count_before_dedupe": 1,
        "language_id_whole_page_fasttext": {"en": 0.9},
        "url": "https://example.org",
        "text": "A page.\n",
    }
    assert read("dclm", row, lines=True) == ["A page.\n"]


def test_pixelprose(read, png):
    row = {
        "uid": "1",
        "url": "https://example.org/a.jpg",
        "key": "0001",
        "status": "success",
        "original_caption": "cat",
        "vlm_model": "gemini",
        "vlm_caption": " This image displays: A cat on a mat.",
    }
    with pytest.raises(
        ContentError, match=r"rows\.parquet:1: PixelProse has only the picture's url; fetch the pictures into a column image"
    ):
        read("pixelprose", row)
    assert read("pixelprose", row | {"image": {"bytes": png(), "path": None}}) == [4, "A cat on a mat."]
    assert read("pixelprose", row | {"image": "pictures/2.png"}) == [20, "A cat on a mat."]


def test_mammoth_vl(read):
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
    row = {"id": "1", "image": "pictures/1.png", "conversations": turns, "source": "x"}
    assert read("mammoth-vl", row, lines=True) == [10, "\nWhat is it?\nA cat."]
    several = [{"from": "human", "value": "Is <image> like <image>?"}, {"from": "gpt", "value": "No."}]
    row |= {"image": ["pictures/1.png", "pictures/2.png"], "conversations": several}
    assert read("mammoth-vl", row, lines=True) == ["Is ", 10, " like ", 20, "?\nNo."]
    assert read("mammoth-vl", {"id": "2", "conversations": turns[1:]}, lines=True) == ["A cat."]
    row = {"id": "3", "image": ["pictures/1.png"], "conversations": several}
    with pytest.raises(ContentError, match="the text has 2 times <image> for 1 pictures"):
        read("mammoth-vl", row, lines=True)
    for mark in ("<image>", "<video>"):
        parts = mammoth_vl({"id": "4", "video": "a.mp4", "conversations": [{"from": "human", "value": f"{mark}\nWhat is it?"}, turns[1]]})
        assert parts == [{"video": "a.mp4"}, {"text": "\nWhat is it?\nA cat."}]
    with pytest.raises(ContentError, match="the row has a video and an image, and its marks do not tell which stands where"):
        read("mammoth-vl", {"id": "5", "video": "a.mp4", "image": "pictures/1.png", "conversations": turns}, lines=True)


def test_mmeb_train(read):
    row = {
        "qry": "<|image_1|>\nRepresent the given image with the following question: what?\n",
        "qry_image_path": "pictures/1.png",
        "pos_text": "A cat",
        "pos_image_path": "",
        "neg_text": "A dog",
        "neg_image_path": "",
    }
    assert read("mmeb-train", row) == [10, "\nRepresent the given image with the following question: what?\n", "A cat"]
    row |= {
        "qry": "Find a cat.",
        "qry_image_path": "",
        "pos_text": "<|image_1|>\nRepresent the given image.",
        "pos_image_path": "pictures/3.png",
    }
    assert read("mmeb-train", row) == ["Find a cat.", 30, "\nRepresent the given image."]


def test_docmatix(read, png):
    row = {
        "images": [{"bytes": png(size=(6, 5)), "path": None}, {"bytes": png(size=(7, 5)), "path": None}],
        "texts": [{"user": "Who?", "assistant": "A cat.", "source": "PDFA"}, {"user": "Where?", "assistant": "Here.", "source": "PDFA"}],
    }
    assert read("docmatix", row) == [6, 7, "Who? A cat.\nWhere? Here."]


def test_visrag(read, png):
    assert read("visrag", {"query": "Which year?", "image": {"bytes": png(), "path": "a.png"}, "source": "slides"}) == [4, "Which year?"]


def test_colpali(read, png):
    row = {
        "image": {"bytes": png(), "path": None},
        "image_filename": "a.png",
        "query": "Which year?",
        "answer": "1999",
        "source": "docvqa",
        "options": None,
        "page": "1",
        "model": None,
        "prompt": None,
        "answer_type": None,
    }
    assert read("colpali", row) == [4, "Which year? 1999"]
    assert read("colpali", row | {"answer": None}) == [4, "Which year?"]
    assert read("colpali", row | {"answer": ["1999", "2000"]}) == [4, "Which year? 1999 2000"]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_row_of_other_columns_is_a_bad_row_with_its_place(name, jsonl):
    path = jsonl({"other": 1})
    with pytest.raises(ContentError, match=r"rows\.jsonl:1: "):
        open_mixture([SourceConfig(str(path), row_template=name)])


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{photo:image} {caption}", [10, " a cat"]),
        ("Question: {caption}? {photo:image} {caption}", ["Question: a cat? ", 10, " a cat"]),
        ("{caption}", ["a cat"]),
        ("{more:image}{caption}", [20, 30, "a cat"]),
        ("{nothing:image}{caption} {nothing}{number}", ["a cat 3"]),
    ],
)
def test_templates(template, expected, read):
    row = {"photo": "pictures/1.png", "caption": "a cat", "more": ["pictures/2.png", "pictures/3.png"], "nothing": None, "number": 3}
    assert read(template, row, lines=True) == expected


def test_columns_called_image_and_images_hold_pictures(read):
    assert read("{image}{images}{text}", {"image": "pictures/1.png", "images": ["pictures/2.png"], "text": "a"}, lines=True) == [
        10,
        20,
        "a",
    ]


def test_a_missing_column_is_named_with_the_nearest(read):
    with pytest.raises(ContentError, match=r"rows\.jsonl:1: the row has no column captoin; did you mean caption\? \(it has caption\)"):
        read("{captoin}", {"caption": "a"}, lines=True)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("docmatrix", "no format 'docmatrix'; did you mean docmatix?"),
        ("{", "cannot be read"),
        ("{}", "a field that is not"),
        ("{a:picture}", "a field that is not"),
        ("{{a}}", "names no column"),
    ],
)
def test_what_is_no_template_is_refused(template, words):
    with pytest.raises(UsageError) as caught:
        document_format(template)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_rows_of_a_format_can_be_skipped(jsonl, tmp_path):
    path = jsonl({"text": "a"}, {"text": 3}, {"text": " "})
    mixture = open_mixture([SourceConfig(str(path), row_template="dclm")], policy=Policy("skip", tmp_path / "bad.jsonl"))
    assert len(mixture) == 1
    assert [json.loads(line)["row"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()] == [2, 3]
