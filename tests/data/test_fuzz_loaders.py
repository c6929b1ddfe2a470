"""Whatever lies in a file, a reader gives documents or says in one line what is wrong; it never falls over."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from twoway.content import Document, Image
from twoway.data.dataset import open_source
from twoway.errors import TwowayError
from twoway.images import image_size, open_image

fuzzed = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
ROWS = [
    {"text": "a red square", "id": "red"},
    {"image": "cat.png", "text": "a cat"},
    {"parts": [{"text": "before"}, {"image": "cat.png"}, {"text": "after"}], "shelf": 7},
]
plain = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(("cat.png", "../cat.png", "http://x/"))
)
keys = st.sampled_from(("text", "image", "parts", "id")) | st.text(max_size=4)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


@st.composite
def mutated(draw, whole):
    """Return bytes that were changed, cut, or had something put between."""
    body = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, max(0, len(body) - 1)))
        how = draw(st.sampled_from(("change", "cut", "insert")))
        if how == "change" and body:
            body[where] = draw(st.integers(0, 255))
        elif how == "cut":
            del body[where : where + draw(st.integers(1, 60))]
        else:
            body[where:where] = draw(st.binary(max_size=12))
    return bytes(body)


def picture(kind):
    written = io.BytesIO()
    PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(written, kind)
    return written.getvalue()


PICTURES = [picture(kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("fuzz")
    (place / "cat.png").write_bytes(picture("PNG"))
    return place


def outcome(call):
    """Return what a call gives, or the error of one line that it ends with."""
    try:
        return call()
    except TwowayError as error:
        return error


def one_line(error):
    return isinstance(error, TwowayError) and "\n" not in str(error)


def reads(folder, body, name="rows.jsonl"):
    """Read a file in every way: each row is a document or an error of one line, and a pass ends well or with one."""
    (folder / name).write_bytes(body)
    for row in open_source(folder / name, images="load").rows():
        assert isinstance(row, Document) or one_line(row)
    found = outcome(lambda: list(open_source(folder / name, on_bad="skip")))
    assert one_line(found) or all(isinstance(row, Document) for row in found)


@fuzzed
@given(body=mutated(st.just("\n".join(map(json.dumps, ROWS)).encode())) | st.binary(max_size=80))
def test_lines_that_were_mutated(folder, body):
    reads(folder, body)


@fuzzed
@given(rows=st.lists(values, min_size=1, max_size=3))
def test_lines_of_any_json(folder, rows):
    reads(folder, "\n".join(map(json.dumps, rows)).encode("utf-8", "surrogatepass"))


@fuzzed
@given(data=mutated(st.sampled_from(PICTURES)) | st.binary(max_size=40))
def test_pictures_that_were_mutated(data):
    said, opened = outcome(lambda: image_size(Image(data))), outcome(lambda: open_image(Image(data)))
    assert one_line(opened) or (opened.mode, opened.size) == ("RGB", said)
    assert one_line(opened) or not isinstance(said, TwowayError)


@fuzzed
@given(data=st.sampled_from(PICTURES), share=st.floats(0, 1))
def test_pictures_that_were_cut_off(data, share):
    found = outcome(lambda: open_image(Image(data[: int(len(data) * share)])))
    assert one_line(found) or found.size == (40, 30)
