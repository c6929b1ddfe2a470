"""A content kind is one class: one that is made here is read, encoded, embedded, indexed, shown and written like any other."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

import twoway
from documents import family
from twoway.content import KINDS, ContentError, Document, Image, Media, Place, Text, to_messages
from twoway.data.config import PairSource
from twoway.data.dataset import open_source
from twoway.data.lengths import MediaTokens
from twoway.data.mixture import open_pairs
from twoway.embedding.endpoint import content
from twoway.images import DEFAULT
from twoway.methods.duplicates import is_copy, sketch
from twoway.methods.negatives import Negative, key_of, write_pairs
from twoway.reports.page import CaseDocument

SIZE = (56, 28, 1)


@dataclass(frozen=True)
class Swatch(Media):
    """A colour by its name; models see it as an image."""

    key: ClassVar[str] = "swatch"
    modality: ClassVar[str] = "image"
    columns: ClassVar[tuple[str, str]] = ("swatch", "swatches")
    message_types: ClassVar[tuple[str, ...]] = ("swatch",)
    marks: ClassVar[re.Pattern[str]] = re.compile("<swatch>")
    argument: ClassVar[str] = "images"

    colour: str

    @classmethod
    def check(cls, value, label, place, root):
        if isinstance(value, Swatch):
            return value
        if value not in ("red", "blue", b"red", b"blue"):
            raise ContentError(f"{label} is not a colour", place)
        return cls(value.decode() if isinstance(value, bytes) else value)

    @classmethod
    def found_in(cls, value, *, paths):
        return False

    @classmethod
    def tokens_of_sizes(cls, processor, sizes):
        return Image.tokens_of_sizes(processor, sizes)

    @classmethod
    def sample(cls, size):
        return cls("red")

    @property
    def value(self):
        return PILImage.new("RGB", SIZE[:2], self.colour)

    memory = 3
    file = None

    def path(self, place=None):
        return None

    def payload(self, place):
        return "swatch", self.colour.encode()

    def stored(self, place, root):
        return {"bytes": self.colour.encode()}

    def as_request(self, place):
        return Image(self.value).as_request(place)

    def describe(self, most=None):
        return f"the colour {self.colour}"

    def opened(self, place, limits):
        return self

    def size(self, place, limits):
        return SIZE

    def preview(self, place, limits):
        return self.value


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    monkeypatch.setitem(KINDS, "swatch", Swatch)


RED, BLUE = Document((Swatch("red"), Text("a thing"))), Document((Swatch("blue"), Text("a thing")))
IMAGE = Document((Image(PILImage.new("RGB", SIZE[:2], "red")), Text("a thing")))


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_of_every_form_hold_it(tmp_path):
    rows = lines(
        tmp_path / "rows.jsonl",
        {"parts": [{"swatch": "red"}, {"text": "a thing"}]},
        {"swatch": "red", "text": "a thing", "year": 1},
        {"swatches": ["red"], "text": "<swatch>a thing"},
        {"messages": [{"role": "user", "content": [{"type": "swatch", "swatch": "red"}, {"type": "text", "text": "a thing"}]}]},
    )
    read = list(open_source(rows))
    assert read == [RED] * 4
    assert read[1].meta == {"year": 1}
    assert list(open_source(lines(tmp_path / "own.jsonl", {"colour": "red", "name": "a thing"}), row_template="{colour:swatch}{name}")) == [
        RED
    ]
    with pytest.raises(ContentError, match=r"bad.jsonl:1: the swatch of part 1 is not a colour"):
        list(open_source(lines(tmp_path / "bad.jsonl", {"swatch": "loud"})))
    with pytest.raises(ContentError, match="both image and swatch; make them two parts"):
        Document.from_parts([{"swatch": "red", "image": "a.png"}])


def test_it_counts_for_what_it_is(tmp_path):
    assert len({one.fingerprint() for one in (RED, BLUE, IMAGE)}) == 3
    assert key_of(Document((Swatch("red"), Text("A  thing")))) == key_of(RED) != key_of(BLUE)
    assert is_copy(sketch(RED), sketch(RED))
    assert not is_copy(sketch(RED), sketch(BLUE))
    assert not is_copy(sketch(RED), sketch(IMAGE))


def test_pairs_with_it_are_read_and_written(tmp_path):
    data = lines(tmp_path / "pairs.jsonl", {"query_swatch": "red", "query_text": "a thing", "positive": [{"swatch": "blue"}, "a thing"]})
    pair = open_pairs([PairSource(data)]).read(0)[1]
    assert (pair.query, pair.positive) == (RED, BLUE)
    write_pairs(tmp_path / "mined.parquet", [(pair, 0.5, [Negative(IMAGE, "rank", 0.4, 1)])], None, {})
    again = open_pairs([PairSource(str(tmp_path / "mined.parquet"))]).read(0)[1]
    assert (again.query, again.positive, again.negatives[0].parts[1]) == (RED, BLUE, Text("a thing"))


def test_a_model_sees_what_it_opens_as(tiny_model, tiny_encoder):
    parts = family(tiny_model("qwen2_vl"))
    encode = parts.encoder()
    seen, wanted = (encode("row", document) for document in (RED, IMAGE))
    for name, value in wanted.inputs.items():
        assert torch.equal(seen.inputs[name], value), name
    assert torch.equal(seen.words, wanted.words)
    count = MediaTokens(parts.processor)
    assert count(RED, DEFAULT) == count(IMAGE, DEFAULT) > 0
    assert to_messages(RED)[0]["content"][0]["type"] == "image"
    engine = twoway.open_embedder(tiny_encoder("qwen2_vl"), device="cpu")
    red, blue, image = engine.array([RED, BLUE, IMAGE])
    np.testing.assert_allclose(red, image, atol=1e-6)
    assert np.abs(red - blue).max() > 1e-4


def test_it_is_indexed_found_and_shown(tmp_path, tiny_encoder):
    data = lines(tmp_path / "data.jsonl", *({"id": name, "swatch": name, "text": f"a {name} thing"} for name in ("red", "blue")))
    model = tiny_encoder("qwen2_vl")
    twoway.embed(model, data, tmp_path / "vectors", device="cpu")
    twoway.index(tmp_path / "vectors", tmp_path / "db")
    store = twoway.open_store(tmp_path / "db")
    try:
        hit = twoway.Finder(store, twoway.open_embedder(model, device="cpu")).search("a red thing", top_k=2)[0]
    finally:
        store.close()
    assert hit.item.thumbnail.startswith(b"RIFF")
    shown = dict(CaseDocument("red", RED).contents())
    assert shown["text"] == "a thing"
    assert shown["image"].startswith("data:image/")
    assert content(RED)[0]["type"] == "image_url"
    assert [part.describe() for part in RED.parts] == ["the colour red", "a thing"]
    assert Document(RED.parts, Place("a")).media == (Swatch("red"),)
