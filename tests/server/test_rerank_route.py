"""`/v1/rerank` in the form that the clients of Cohere and Jina, LangChain and vLLM speak; and search in two steps."""

from __future__ import annotations

import io

import cohere
import pytest
from rich.console import Console

import twoway
from made_vectors import pictures
from page_server import make_clips, make_pages
from rerank_toys import speaking
from twoway.content import CandidatePair, Document, Text
from twoway.data.sources.pdf import page
from twoway.embedding.embedder import make_items
from twoway.embedding.reranker import open_reranker
from twoway.search.reading import read_item
from twoway.search.terminal import print_hits
from twoway.server.schemas import ServerLimits


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
    items = [read_item(reranker, Document((Text("number 4"),)), store.get(hit["id"])).document for hit in before[:4]]
    order = expected(reranker, "number 4", items)
    assert [(hit["place_before"], hit["relevance"]) for hit in after] == [(number + 1, score) for number, score in order[:2]]
    assert [hit["id"] for hit in after] == [before[number]["id"] for number, _ in order[:2]]
    # In Python and on the command line it is the same.
    found = twoway.find(tmp_path / "db", "number 4", model=engine, top_k=2, rerank=reranker.name, rerank_top=4, device="cpu")
    assert [(hit.item.id, hit.place_before) for hit in found] == [(hit["id"], hit["place_before"]) for hit in after]
    refused = client.post("/v1/search", json={"rerank_top": 4})
    assert "'rerank_top' needs a question" in refused.json()["error"]["message"]


@pytest.mark.parametrize("harm", ["cut off", "too large"])
def test_a_picture_that_can_no_longer_be_read_stands_behind_those_that_can(serve, engine, reranker, picture, tmp_path, harm):
    (tmp_path / "data").mkdir()
    for number in range(4):
        picture(number).save(tmp_path / "data" / f"{number}.png")
    twoway.embed(engine, tmp_path / "data", tmp_path / "vectors", side="document")
    twoway.index(tmp_path / "vectors", tmp_path / "db")
    file = tmp_path / "data" / "2.png"
    if harm == "cut off":
        file.write_bytes(file.read_bytes()[:-1000])  # whose header is whole
    else:
        picture(2, 80, 60).save(file)
    client = serve(twoway.open_store(tmp_path / "db"), ServerLimits(pixels=4000), reranker=reranker)
    answer = client.post("/v1/search", json={"text": "w1", "rerank_top": 4})
    assert answer.status_code == 200, answer.text
    hits = answer.json()["hits"]
    assert [hit["relevance"] is None for hit in hits] == [False, False, False, True]
    assert hits[-1]["id"] == str(file)
    file.unlink()
    assert all(hit["relevance"] is not None for hit in client.post("/v1/search", json={"text": "w1", "rerank_top": 4}).json()["hits"])


def test_a_page_is_rendered_within_the_bounds_of_the_server(serve, engine, reranker, tmp_path, monkeypatch):
    store, asked = make_pages(tmp_path, engine)[0], []

    def noted(file, index, place, options):
        asked.append((options.limits.max_pixels, options.limits.max_page_seconds, options.limits.max_page_memory))
        return page(file, index, place, options)

    monkeypatch.setattr("twoway.search.reading.page", noted)
    limits = ServerLimits(pixels=200_000)
    hits = serve(store, limits, reranker=reranker).post("/v1/search", json={"text": "w4", "rerank_top": 2}).json()["hits"]
    assert asked == [(200_000, limits.page_seconds, limits.page_memory)] * 2
    assert [hit["relevance"] is not None for hit in hits] == [True, True]


def test_a_video_is_judged_by_its_frames_and_by_its_thumbnail_where_it_is_gone(serve, engine, reranker, tmp_path, monkeypatch):
    store, file = make_clips(tmp_path, engine), tmp_path / "clips" / "a.mp4"
    client, name = serve(store, reranker=reranker), f"{file}@2"

    def found():
        return {hit["id"]: hit for hit in client.post("/v1/search", json={"text": "w1", "rerank_top": 3}).json()["hits"]}

    def score(part):
        return pytest.approx(reranker.relevance(reranker.rank("w1", [[part]])[0].score), abs=1e-5)

    hits = found()
    assert hits[name]["relevance"] == score({"video": file, "start": 2, "end": 4})
    assert "by_thumbnail" not in hits[name]
    assert hits["tone"]["relevance"] is None, "this reranker takes no sounds, and a drawing of its loudness is none"
    item, query = store.get(name), Document((Text("w1"),))
    (whole,) = make_items(reranker, [CandidatePair.of(query, read_item(reranker, query, item).document)])
    monkeypatch.setattr(reranker.lengths, "longest", round(whole.length))
    assert read_item(reranker, query, item).document.parts[0].num_frames == 4, "as many frames as a row has room for, with its template"
    monkeypatch.undo()
    file.unlink()
    hits = found()
    assert hits[name]["by_thumbnail"]
    assert hits[name]["relevance"] == score({"image": item.thumbnail})
    console = Console(file=io.StringIO(), width=120)
    print_hits(twoway.Finder(store, engine, reranker).search("w1", top_k=3), console)
    assert "2 of 3 were judged by their thumbnails: the files are not where they were indexed" in console.file.getvalue()
