"""A server of vectors is a model like any other: same scores, patient where it is busy, one line where it is not to be had."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image as PILImage

from twoway.content import ContentError, Document, Image, Text
from twoway.data.config import PairSource
from twoway.data.mixture import open_pairs
from twoway.embedding import open_embedder
from twoway.embedding.endpoint import Endpoint
from twoway.embedding.opening import open_engine
from twoway.errors import TwowayError, UsageError
from twoway.evaluation.cache import VectorSource
from twoway.methods.score import score

if TYPE_CHECKING:
    from collections.abc import Iterator


class Server(ThreadingHTTPServer):
    """OpenAI's API around an engine, as vLLM has it: `input`, or the messages of one document."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.owner, self.key = engine, "vllm", None
        self.asked: list[dict[str, Any]] = []
        self.trouble: list[int] = []  # statuses to answer with before it works
        self.change = lambda vectors: vectors
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self, status: int, body: dict[str, Any]) -> None:
        written = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(written)))
        self.end_headers()
        self.wfile.write(written)

    def do_GET(self) -> None:
        self.answer(200, {"object": "list", "data": [{"id": "tiny", "object": "model", "created": 0, "owned_by": self.server.owner}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
            return self.answer(401, {"error": {"message": "no such key"}})
        if self.server.trouble:
            return self.answer(self.server.trouble.pop(), {"error": {"message": "busy"}})
        self.server.asked.append(body)
        documents = [Document((Text(text),)) for text in body["input"]] if "input" in body else [self.read(body["messages"])]
        if any("refuse me" in document.texts for document in documents):
            return self.answer(400, {"error": {"message": "too long"}})
        vectors = self.server.change(self.server.engine.array(documents, side=body.get("side")).tolist())
        rows = [{"object": "embedding", "index": number, "embedding": vector} for number, vector in enumerate(vectors)]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        return self.answer(200, {"object": "list", "model": body["model"], "data": rows[::-1], "usage": usage})

    def read(self, messages: list[dict[str, Any]]) -> Document:
        parts = []
        for part in messages[-1]["content"]:
            if part["type"] == "text":
                parts.append(Text(part["text"]))
            else:
                parts.append(Image(base64.b64decode(part["image_url"]["url"].partition("base64,")[2])))
        return Document(tuple(parts))


@pytest.fixture
def server(tiny_encoder) -> Iterator[Server]:
    found = Server(open_embedder(tiny_encoder("qwen2_vl", prompts={"query": "Find: "}), device="cpu", workers=0))
    threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def picture(kind: str = "PNG", mode: str = "RGB", **saved: Any) -> bytes:
    data = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, len(mode)), dtype=np.uint8)
    PILImage.fromarray(pixels, mode).save(data, kind, **saved)
    return data.getvalue()


def turned() -> bytes:
    exif = PILImage.Exif()
    exif[0x0112] = 6
    return picture("JPEG", exif=exif)


def documents() -> list[Document]:
    found = [Document((Text(f"text number {number}"),)) for number in range(3)]
    for data in (picture(), turned(), picture(mode="RGBA"), picture("BMP")):
        found += [Document((Image(data),)), Document((Text("before"), Image(data), Text("after")))]
    return found


@pytest.mark.parametrize("prefix", ["openai", "openai-chat"])
def test_its_vectors_are_those_of_the_model_behind_it(server, prefix):
    asked = documents()
    engine = open_engine(f"{prefix}:{server.url}#tiny", device="auto")
    found = dict(engine.embed(asked))
    wanted = server.engine.array(asked)
    assert np.abs(np.stack([found[number] for number in range(len(asked))]) - wanted).max() < 1e-5
    assert engine.dimension == server.engine.dimension
    together = [len(body["input"]) for body in server.asked if "input" in body]
    assert together == ([3, 3] if prefix == "openai" else [])  # of the documents, and what the dimension is asked of


def test_it_may_be_the_teacher_of_a_smaller_model(server, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"query": "w1", "positive": "w2 w3", "negatives": ["w4", "w5 w6"]}) + "\n")
    score(f"openai:{server.url}#tiny", tmp_path / "rows.jsonl", tmp_path / "out")
    pair = open_pairs((PairSource(str(tmp_path / "out")),)).read(0)[1]
    query, *candidates = server.engine.array(list(pair.documents))
    assert pair.scores == pytest.approx(list(np.stack(candidates) @ query), abs=1e-5)


def test_a_server_of_ours_is_told_the_side(server):
    asked = documents()[:4]
    list(Endpoint(f"openai:{server.url}").embed(asked, side="query"))
    assert not any("side" in body for body in server.asked)
    server.owner = "twoway"
    found = dict(Endpoint(f"openai:{server.url}").embed(asked, side="query"))
    assert np.abs(found[1] - server.engine.array(asked, side="query")[1]).max() < 1e-5


def test_other_prompts_of_a_server_of_ours_are_another_model(server, tmp_path):
    server.owner = "twoway"
    names = [VectorSource(Endpoint(f"openai:{server.url}"), tmp_path).fingerprint for _ in range(2)]
    server.engine.sentence.prompts["query"] = "Something else altogether: "
    assert names[0] == names[1] != VectorSource(Endpoint(f"openai:{server.url}"), tmp_path).fingerprint


def test_a_busy_server_is_asked_again_and_a_dead_one_is_said(server):
    server.trouble = [503, 429]
    engine = Endpoint(f"openai:{server.url}#tiny", retries=2)
    assert engine.dimension == server.engine.dimension
    server.trouble = [500] * 5
    with pytest.raises(TwowayError, match=r"failed 1 times \(busy\); what it gave is kept"):
        list(Endpoint(f"openai:{server.url}#tiny", retries=0).embed(documents()))
    with pytest.raises(TwowayError, match="cannot be reached"):
        Endpoint("openai:http://127.0.0.1:9/v1#tiny", retries=0)


def test_a_refused_document_is_that_one_alone(server):
    asked = documents()[:3]
    asked[1] = Document((Text("refuse me"),))
    engine = Endpoint(f"openai:{server.url}#tiny")
    bad: dict[int, ContentError] = {}
    assert sorted(number for number, _ in engine.embed(asked, refuse=bad.__setitem__)) == [0, 2]
    assert "too long" in str(bad[1])
    with pytest.raises(ContentError, match="the server refuses it: too long"):
        list(engine.embed(asked))
    with pytest.raises(ContentError, match="is broken"):
        list(engine.embed([Document((Image(b"no picture"),))]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [[float("nan")] * len(row) for row in rows], "not finite"),
        (lambda rows: rows[:-1], "3 vectors were asked for and 2 came"),
        (lambda rows: [[] for _ in rows], "not rows of numbers"),
    ],
)
def test_an_answer_that_is_none_ends_the_run(server, change, said):
    server.change = change
    with pytest.raises(TwowayError, match=said):
        _ = Endpoint(f"openai:{server.url}#tiny").dimension


def test_the_key_comes_from_the_environment(server, monkeypatch):
    server.key = "secret"
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    with pytest.raises(TwowayError, match=r"refuses the API key \(no such key\); set OPENAI_API_KEY"):
        _ = Endpoint(f"openai:{server.url}#tiny").dimension
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert Endpoint(f"openai:{server.url}#tiny").dimension == server.engine.dimension


def test_wrong_addresses_and_models_are_said(server):
    for spec, said in (
        ("openai:localhost:8000#tiny", "names no server; write openai:http://"),
        (f"openai:{server.url}#tinny", "has no model 'tinny'; did you mean tiny"),
    ):
        with pytest.raises(UsageError, match=said):
            Endpoint(spec)
    with pytest.raises(UsageError, match="--pooling is not for a model behind a server"):
        open_engine(f"openai:{server.url}#tiny", pooling="mean")
    assert Endpoint(f"openai:{server.url}").model == "tiny"


def test_vectors_are_kept_and_another_model_of_that_name_is_noticed(server, tmp_path):
    asked = documents()[:5]
    first = VectorSource(Endpoint(f"openai:{server.url}#tiny"), tmp_path)
    first(asked, None, "a", {})
    again = VectorSource(Endpoint(f"openai:{server.url}#tiny"), tmp_path)
    again(asked, None, "a", {})
    assert (first.embedded, again.embedded) == (5, 0)
    # The last bits of a vector are no other model; a little more is, wherever its largest number stays.
    for moved, known in ((1e-3, True), (0.1, False)):
        server.change = lambda rows, moved=moved: [
            [value + moved * (-1) ** at / len(row) ** 0.5 for at, value in enumerate(row)] for row in rows
        ]
        other = VectorSource(Endpoint(f"openai:{server.url}#tiny"), tmp_path)
        assert (other.fingerprint == first.fingerprint) == known
        found = other(asked, None, "a", {})
        assert other.embedded == (0 if known else 5)
    assert np.abs(found - first(asked, None, "a", {})).max() > 1e-3
    assert Endpoint(f"openai-chat:{server.url}#tiny").fingerprint != Endpoint(f"openai:{server.url}#tiny").fingerprint
