"""`/v1/why` explains the small picture of an item by words, a picture or another item, and says what it cannot explain."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from fastapi.testclient import TestClient

from page_server import HOSTILE, drawn, items, make_store, opened
from twoway.content import Document, Image, Text
from twoway.embedding import open_embedder
from twoway.embedding.explain import Explainer
from twoway.server import routes
from twoway.server.app import create_app
from twoway.server.service import Access


@pytest.fixture(scope="module")
def parts(tiny_encoder, tmp_path_factory):
    engine = open_embedder(tiny_encoder("qwen2_vl"), device="cpu", workers=0)
    return engine, make_store(tmp_path_factory.mktemp("db") / "db", engine, items(engine))


@pytest.fixture(scope="module")
def client(parts):
    with TestClient(create_app(*parts)) as one:
        yield one


def ask(client, **body):
    return client.post("/v1/why", json=body)


def refused(answer):
    return answer.status_code, answer.json()["error"]["message"]


def test_the_parts_of_the_small_picture_add_up_to_its_score(client, parts):
    engine, store = parts
    found = ask(client, id="plan/3", text="w4 w5").json()
    assert found["method"] == "parts"
    assert np.sum(found["pulls"]) + found["rest"] == pytest.approx(found["score"], abs=1e-5)
    assert (np.min(found["grid"]), np.max(found["grid"])) == (0, 1)
    small = store.get("plan/3").thumbnail
    shape = np.shape(Explainer(engine)(Document((Image(small),)), np.ones(engine.dimension)).pulls)
    assert np.shape(found["grid"]) == shape
    assert opened(client.get(found["thumbnail"]).content).size == opened(small).size


def test_the_share_of_the_picture_is_what_the_score_falls_by_without_it(parts):
    engine, _ = parts
    picture, words = Image(drawn(3)), "w4 w5 w6"
    seen = [Document((picture, Text(words))), Document((Text(words),)), Document((picture,))]
    both, text, shown = engine.array(seen, side="document")
    explain = Explainer(engine)
    for query in (text - shown, shown - text, both, -both):
        score = [float(one @ query / np.linalg.norm(query)) for one in (both, text, shown)]
        falls = max(0.0, score[0] - score[1]), max(0.0, score[0] - score[2])
        share = explain.share(seen[2], words, query)
        assert share is None if not sum(falls) else share == pytest.approx(falls[0] / sum(falls), abs=1e-4)
    assert explain.share(seen[2], words, text - shown) < 0.5 < explain.share(seen[2], words, shown - text)


def test_a_picture_and_an_item_explain_as_words_do(client):
    same = "data:image/png;base64," + base64.b64encode(drawn(3)).decode()
    by_picture, by_item = ask(client, id="plan/3", image=same).json(), ask(client, id="plan/3", like="plan/3").json()
    assert by_picture["score"] == pytest.approx(by_item["score"], abs=1e-4)
    assert np.allclose(by_picture["pulls"], by_item["pulls"], atol=1e-4)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"id": "plan/3"}, 400, "'text', 'image' or both, or else 'like'"),
        ({"id": "plan/3", "text": "a", "like": "plan/4"}, 400, "'text', 'image' or both, or else 'like'"),
        ({"text": "a"}, 400, "id"),
        ({"id": "plan/3", "txt": "a"}, 400, "did you mean text"),
        ({"id": "text", "text": "a"}, 400, "no picture"),
        ({"id": "nothing", "text": "a"}, 404, "no item 'nothing'"),
        ({"id": "plan/3", "like": "nothing"}, 404, "no item 'nothing'"),
        ({"id": "plan/3", "image": "https://example.org/a.png"}, 400, "image"),
    ],
)
def test_what_cannot_be_explained_is_said(client, body, status, said):
    found, message = refused(client.post("/v1/why", json=body))
    assert found == status
    assert said in message


def test_a_hostile_id_is_an_id(client):
    assert ask(client, id=HOSTILE, text="a").status_code == 200


def test_only_so_many_wait(client, monkeypatch):
    monkeypatch.setattr(routes, "_WAITING", 0)
    answer = ask(client, id="plan/3", text="a")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0


def test_it_needs_an_index_and_a_key(parts):
    engine, store = parts
    with TestClient(create_app(engine)) as bare:
        assert ask(bare, id="a", text="b").json()["error"]["code"] == "no_index"
    with TestClient(create_app(engine, store, access=Access.of(("k" * 16,)))) as locked:
        assert ask(locked, id="plan/3", text="b").status_code == 401
