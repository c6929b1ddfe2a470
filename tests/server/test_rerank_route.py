"""`/v1/rerank` in the form that the clients of Cohere and Jina, LangChain and vLLM speak; and search in two steps."""

from __future__ import annotations

import cohere
import pytest

import twoway
from made_vectors import pictures
from rerank_toys import speaking
from twoway.embedding.reranker import open_reranker
from twoway.search.reranking import item_document


@pytest.fixture(scope="module")
def reranker(tiny_model, tmp_path_factory):
    return open_reranker(speaking(tiny_model("qwen3_vl"), tmp_path_factory.mktemp("speaking") / "judge"), device="cpu")


@pytest.fixture
def client(serve, reranker):
    return serve(reranker=reranker)


def expected(reranker, query, documents):
    return [(one.number, pytest.approx(reranker.relevance(one.score), abs=1e-5)) for one in reranker.rank(query, documents)]


TEXTS = ["a fox in the snow", "nothing", "a longer text about a fox, and about snow, and a little more"]


def test_coheres_own_client_gets_the_rerankers_order(client, reranker):
    ask = {"model": "judge", "query": "a fox", "documents": TEXTS, "top_n": 2}
    for asking in (cohere.Client, cohere.ClientV2):
        found = asking("no key is needed", base_url="http://localhost", httpx_client=client).rerank(**ask)
        assert [(one.index, one.relevance_score) for one in found.results] == expected(reranker, "a fox", TEXTS)[:2]


def test_jinas_and_vllms_form_takes_pictures_on_either_side(client, reranker, picture, data_url):
    shown, url = picture(), data_url(picture())
    documents = [
        {"text": "words"},
        {"image": url},
        {"content": [{"type": "text", "text": "both"}, {"type": "image_url", "image_url": {"url": url}}]},
    ]
    answer = client.post("/rerank", json={"query": {"image": url}, "documents": documents, "return_documents": True}).json()
    order = expected(reranker, shown, ["words", shown, [{"text": "both"}, {"image": shown}]])
    assert [(one["index"], one["relevance_score"]) for one in answer["results"]] == order
    assert [one["document"] for one in answer["results"]] == [documents[number] for number, _ in order]
    assert answer["usage"]["total_tokens"] > 0
    assert client.get("/metrics").text.count('route="/rerank"') > 0


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"query": "a", "documents": []}, 400, "documents"),
        ({"query": "a", "documents": ["b"], "model": "jugde"}, 404, "there is no reranker 'jugde' here; did you mean judge?"),
        ({"query": "a", "documents": [{}]}, 400, "documents[0] needs 'text', 'image' or both, or else 'content'"),
        ({"query": "", "documents": ["b"]}, 400, "query"),
        ({"query": "a", "documents": [{"image": "http://elsewhere/x.png"}]}, 400, "nothing is fetched"),
        ({"query": "a", "documents": ["b"], "top_m": 1}, 400, "unknown key 'top_m'; did you mean top_n?"),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_line(client, body, status, said):
    answer = client.post("/v1/rerank", json=body)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (status, True), answer.text


def test_without_a_reranker_the_server_says_how_to_have_one(serve):
    answer = serve().post("/v1/rerank", json={"query": "a", "documents": ["b"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_reranker")


def test_search_shows_the_order_before_and_after(serve, engine, reranker, tmp_path):
    pictures(tmp_path / "data")
    twoway.embed(engine, tmp_path / "data/data.jsonl", tmp_path / "vectors", side="document")
    twoway.index(tmp_path / "vectors", tmp_path / "db")
    client = serve(twoway.open_store(tmp_path / "db"), reranker=reranker)
    before = client.post("/v1/search", json={"text": "number 4", "top_k": 6}).json()["hits"]
    after = client.post("/v1/search", json={"text": "number 4", "top_k": 2, "rerank_top": 4}).json()["hits"]
    store = twoway.open_store(tmp_path / "db")
    items = [item_document(store.get(hit["id"])) for hit in before[:4]]
    order = expected(reranker, "number 4", items)
    assert [(hit["place_before"], hit["relevance"]) for hit in after] == [(number + 1, score) for number, score in order[:2]]
    assert [hit["id"] for hit in after] == [before[number]["id"] for number, _ in order[:2]]
    # In Python and on the command line it is the same.
    found = twoway.find(tmp_path / "db", "number 4", model=engine, top_k=2, rerank=reranker.name, rerank_top=4, device="cpu")
    assert [(hit.item.id, hit.place_before) for hit in found] == [(hit["id"], hit["place_before"]) for hit in after]
    refused = client.post("/v1/search", json={"rerank_top": 4})
    assert "'rerank_top' needs a question" in refused.json()["error"]["message"]
