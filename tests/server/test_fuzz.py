"""Whatever is sent, the answer is an answer: never a 5xx, never nothing, and an error always in the same shape."""

from __future__ import annotations

import base64
import io
import json
from urllib.parse import quote

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from twoway.search.query import create_store
from twoway.search.store import IndexInfo
from twoway.server.app import create_app
from twoway.server.schemas import ServerLimits

fuzzed = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
POSTS = ("/v1/embeddings", "/v1/search", "/v1/index/items", "/v1/why")
KEYS = ("input", "messages", "model", "dimensions", "encoding_format", "side", "truncate", "text", "image", "id", "top_k", "filter",
        "hybrid", "items", "role", "content", "type", "image_url", "url", "parts", "metadata", "like", "detail")  # fmt: skip
WORDS = ("query", "base64", "user", "system", "image_url", "text", "data:image/png;base64,AAAA", "data:,", "http://x/", "a/1", "shelf > 3",
         "shelf in (", "shelf > 1.5", "shelf = 1e400", "shelf < " + "9" * 5000, "'", "\x00", "../../etc/passwd", "w1")  # fmt: skip

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(WORDS)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=4)
)
RIGHT = [
    {"input": ["w1", "w2"], "dimensions": 4, "encoding_format": "float", "side": "query"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "w1"}]}]},
    {"text": "w1", "top_k": 2, "filter": "shelf > 3", "hybrid": True},
    {"items": [{"id": "a/1", "text": "w1", "metadata": {"shelf": 7}}]},
    {"id": "a/1", "text": "w1"},
]


@pytest.fixture(scope="module")
def client(engine, tmp_path_factory):
    store = create_store(tmp_path_factory.mktemp("fuzz") / "index", IndexInfo("tiny", engine.fingerprint, engine.dimension))
    limits = ServerLimits(seconds=20, pixels=100_000, body_bytes=1 << 20)
    with TestClient(create_app(engine, store, limits), raise_server_exceptions=False) as client:
        assert client.post("/v1/index/items", json=RIGHT[3]).status_code == 200
        yield client


def answered(answer):
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["message"]


def post(client, path, content):
    answered(client.post(path, content=content, headers={"content-type": "application/json"}))


@st.composite
def mutated(draw, whole):
    """Return bytes that were changed, cut, doubled or had something put between."""
    body = bytearray(draw(whole) if isinstance(whole, st.SearchStrategy) else whole)
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, max(0, len(body) - 1)))
        how = draw(st.sampled_from(("change", "cut", "insert", "double")))
        if how == "change" and body:
            body[where] = draw(st.integers(0, 255))
        elif how == "cut":
            del body[where : where + draw(st.integers(1, 40))]
        elif how == "insert":
            body[where:where] = draw(st.binary(max_size=12))
        else:
            body[where:where] = body[where : where + 20]
    return bytes(body)


@fuzzed
@given(path=st.sampled_from(POSTS), body=st.binary(max_size=60) | mutated(st.sampled_from([json.dumps(one).encode() for one in RIGHT])))
def test_any_bytes(client, path, body):
    post(client, path, body)


@fuzzed
@given(path=st.sampled_from(POSTS), value=values)
def test_any_json(client, path, value):
    post(client, path, json.dumps(value).encode("utf-8", "surrogatepass"))


@fuzzed
@given(path=st.sampled_from(POSTS), data=st.data())
def test_a_right_request_with_one_wrong_value(client, path, data):
    body = json.loads(json.dumps(data.draw(st.sampled_from(RIGHT))))
    place = body
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(values)
    post(client, path, json.dumps(body).encode("utf-8", "surrogatepass"))


def pictures():
    """Return the same picture as files of every kind."""
    shown = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8))
    found = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"):
        written = io.BytesIO()
        shown.save(written, kind)
        found.append(written.getvalue())
    return found


@fuzzed
@given(data=mutated(st.sampled_from(pictures())))
def test_a_mutated_picture(client, data):
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
    post(client, "/v1/embeddings", json.dumps(body).encode())


@fuzzed
@given(name=st.text(max_size=20) | st.sampled_from(WORDS), method=st.sampled_from(("GET", "DELETE")), small=st.booleans())
def test_any_id_in_an_address(client, name, method, small):
    path = f"/v1/index/items/{quote(name, safe='', errors='replace')}{'/thumbnail' if small else ''}"
    answered(client.request(method, path, follow_redirects=False))


@fuzzed
@given(method=st.sampled_from(("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")), path=st.text("abc/%.._-~v1", max_size=20))
def test_any_address(client, method, path):
    answered(client.request(method, f"/{path.replace('%', '%25')}".replace("//", "/"), follow_redirects=False))


@fuzzed
@given(value=st.binary(max_size=30).map(lambda one: one.replace(b"\r", b"").replace(b"\n", b"")), name=st.sampled_from(("authorization", "content-type", "content-length")))  # fmt: skip  # noqa: E501
def test_any_header(client, name, value):
    answered(client.post("/v1/embeddings", content=b'{"input": "w1"}', headers={"content-type": "application/json", name: value}))
