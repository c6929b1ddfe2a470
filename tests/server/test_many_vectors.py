"""A server of a model of many vectors: it searches, adds and explains by words; what has room for one vector alone is refused in a line."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from sentence_transformers import MultiVectorEncoder

from page_server import drawn, items, make_store
from twoway.content import Document
from twoway.embedding import open_embedder
from twoway.embedding.explain import match_words
from twoway.server.app import warm_up
from twoway.server.schemas import ServerLimits


@pytest.fixture(scope="module")
def parts(tiny_late, tmp_path_factory):
    engine = open_embedder(tiny_late, device="cpu", workers=0, late_interaction=True)
    warm_up(engine)
    return engine, make_store(tmp_path_factory.mktemp("db") / "db", engine, items(engine)[:6])


@pytest.fixture
def client(serve, parts):
    engine, store = parts
    return serve(store, engine=engine)


def refused(answer):
    return answer.status_code, answer.json()["error"]["message"]


def test_pooling_gives_the_vectors_of_encode_in_vllms_form(client, tiny_late, parts):
    assert "POST /pooling gives them" in refused(client.post("/v1/embeddings", json={"input": "a"}))[1]
    model = MultiVectorEncoder(str(tiny_late), device="cpu")
    answer = client.post("/pooling", json={"input": ["a navy thing", "red"], "side": "query"}).json()
    assert (answer["object"], [one["object"] for one in answer["data"]], answer["usage"]["total_tokens"] > 0) == (
        "list",
        ["pooling"] * 2,
        True,
    )
    for one, text in zip(answer["data"], ["a navy thing", "red"], strict=True):
        np.testing.assert_allclose(one["data"], model.encode_query([text])[0], atol=1e-5)
    packed = client.post("/pooling", json={"input": "red", "side": "query", "encoding_format": "base64"}).json()["data"][0]["data"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(packed), "<f4").reshape(-1, 16), answer["data"][1]["data"], atol=1e-5)
    assert refused(client.post("/pooling", json={"input": "a", "dimensions": 8}))[0] == 400


def test_pooling_of_a_model_of_one_vector_gives_that(serve, engine):
    found = serve().post("/pooling", json={"input": "a"}).json()["data"][0]["data"]
    np.testing.assert_allclose(found, engine.array(["a"])[0], atol=1e-5)


def test_search_is_maxsim_and_says_where_a_hit_stood(client, parts):
    engine, store = parts
    plain = client.post("/v1/search", json={"text": "a navy thing", "top_k": 6}).json()["hits"]
    _, query = next(engine.embed(["a navy thing"], side="query"))
    for hit in plain:
        nearest = (query @ store.get(hit["id"]).vector.T).max(axis=1)
        assert hit["score"] == pytest.approx(float(nearest.mean()), abs=1e-3)
        assert "place_before_maxsim" not in hit
    steps = client.post("/v1/search", json={"text": "a navy thing", "top_k": 2, "maxsim_top": 6}).json()["hits"]
    assert [hit["id"] for hit in steps] == [hit["id"] for hit in plain[:2]]
    assert all(1 <= hit["place_before_maxsim"] <= 6 for hit in steps)
    near = client.post("/v1/search", json={"id": "plan/3", "top_k": 2, "maxsim_top": 6}).json()["hits"]
    assert near == client.post("/v1/search", json={"id": "plan/3", "top_k": 2, "maxsim_top": 5}).json()["hits"]
    assert "plan/3" not in [hit["id"] for hit in near]
    assert "leave 'maxsim_top' out" in refused(client.post("/v1/search", json={"text": "a", "hybrid": True, "maxsim_top": 2}))[1]
    assert "at most 1000" in refused(client.post("/v1/search", json={"text": "a", "maxsim_top": 5000}))[1]


def test_an_item_is_added_with_its_many_vectors(client, parts):
    url = "data:image/png;base64," + base64.b64encode(drawn(30)).decode()
    assert client.post("/v1/index/items", json={"items": [{"id": "new", "image": url, "text": "new"}]}).json() == {
        "added": 1,
        "replaced": 0,
    }
    stored = parts[1].get("new").vector
    assert stored.ndim == 2
    assert client.delete("/v1/index/items/new").status_code == 200


def test_why_says_which_words_match_which_patches(client, parts):
    engine, store = parts
    found = client.post("/v1/why", json={"id": "plan/3", "text": "navy thing"}).json()
    assert (found["method"], [one["word"] for one in found["words"]]) == ("words", ["navy", "thing"])
    truth = match_words(engine, Document.from_parts([{"image": store.get("plan/3").thumbnail}]), "navy thing")
    for one, other in zip(found["words"], truth, strict=True):
        np.testing.assert_allclose(one["pulls"], other.cells, atol=1e-5)
        assert (np.min(one["grid"]), np.max(one["grid"]), one["score"]) == (0, 1, pytest.approx(np.max(one["pulls"])))
    assert "ask by 'text' alone" in refused(client.post("/v1/why", json={"id": "plan/3", "like": "plan/4"}))[1]


def test_so_many_vectors_at_a_time(serve, parts):
    client = serve(engine=parts[0], limits=ServerLimits(vectors=30))
    assert refused(client.post("/pooling", json={"input": ["a few words"] * 9})) == (
        400,
        "the request has more than 30 tokens, its prompts included; send less at a time",
    )
