"""A real server at a real address, asked by the real OpenAI client; it stops without cutting an answer off."""

from __future__ import annotations

import errno
import re
import socket
import threading
import time

import httpx
import numpy as np
import openai
import pytest
from PIL import Image as PILImage

from rerank_toys import speaking
from snippets import ROOT, blocks, commands
from twoway.embedding.reranker import open_reranker
from twoway.errors import TwowayError, UsageError
from twoway.server.app import Server, address, bind_socket, create_app, is_local, uvicorn_config
from twoway.server.schemas import ServerLimits
from twoway.server.service import Access

pytestmark = pytest.mark.xdist_group("ranks")
KEY = "k" * 20


@pytest.fixture(scope="module")
def running(engine):
    """Return `start(**options) -> (server, address)` of servers in threads of their own."""
    begun = []

    def start(grace=90.0, **options):
        app, taken = create_app(engine, **options), bind_socket("127.0.0.1", 0)
        server = Server(uvicorn_config(app), app.state.service, grace)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        begun.append((server, thread))
        until(lambda: server.started)
        return server, thread, address(taken)

    yield start
    for server, thread in begun:
        server.should_exit = True
        thread.join(90)


def until(said):
    end = time.monotonic() + 90
    while not said():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(running):
    return running(access=Access.of((KEY,)), name="tiny", limits=ServerLimits(body_bytes=1 << 20))


def test_an_asker_that_reads_nothing_of_its_answer_is_cut_off(monkeypatch):
    monkeypatch.setattr("twoway.server.app._UNREAD", 1)
    with bind_socket("127.0.0.1", 0) as taken, socket.create_connection(taken.getsockname()):
        answering, _ = taken.accept()
        with answering, pytest.raises(TimeoutError) as cut:
            answering.settimeout(60)
            while True:
                answering.send(b"x" * 1_000_000)
        assert cut.value.errno == errno.ETIMEDOUT  # the system's own end of it, not that of this test, which has no number


def client_of(where, key=KEY):
    return openai.OpenAI(base_url=f"{where}v1", api_key=key, max_retries=0)


def as_message(text):
    return [{"role": "user", "content": text}]


def test_the_openai_client_gets_the_vectors_of_encode(server, engine):
    client = client_of(server[2])
    right = engine.sentence.encode([as_message("w4 w5"), as_message("w6")])
    found = client.embeddings.create(model="tiny", input=["w4 w5", "w6"])
    assert np.abs(right - [one.embedding for one in found.data]).max() < 1e-5
    assert found.usage.total_tokens > 0
    short = client.embeddings.create(model="tiny", input="w4 w5", dimensions=8, encoding_format="float", extra_body={"side": "query"})
    right = engine.sentence.encode_query([as_message("w4 w5")], truncate_dim=8, normalize_embeddings=True)
    assert np.abs(right - [short.data[0].embedding]).max() < 1e-5
    assert [one.id for one in client.models.list()] == ["tiny"]


def test_the_openai_client_knows_the_errors(server):
    client = client_of(server[2])
    with pytest.raises(openai.BadRequestError, match="1 to 32"):
        client.embeddings.create(model="tiny", input="w4", dimensions=99)
    with pytest.raises(openai.NotFoundError, match="no model 'gpt'"):
        client.embeddings.create(model="gpt", input="w4")
    with pytest.raises(openai.AuthenticationError, match="API key"):
        client_of(server[2], "wrong").embeddings.create(model="tiny", input="w4")
    with pytest.raises(openai.APIStatusError) as refused:
        client.embeddings.create(model="tiny", input="w" * (2 << 20))
    assert refused.value.status_code == 413


def test_what_is_no_http_ends_that_connection_alone(server):
    host, port = server[2].removeprefix("http://").rstrip("/").split(":")
    for sent in (b"\x00\xff\r\n\r\n", b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection((host, int(port)), timeout=60) as raw:
            raw.sendall(sent)
            assert raw.recv(100).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{server[2]}readyz", timeout=60).status_code == 200


def test_the_snippets_of_the_page_get_the_answers_that_stand_there(running, tiny_model, tmp_path, monkeypatch, capsys):
    reranker = open_reranker(speaking(tiny_model("qwen3_vl"), tmp_path / "judge"), device="cpu")
    where = running(name="my-model", reranker=reranker)[2].rstrip("/")
    PILImage.new("RGB", (30, 30), "red").save(tmp_path / "red.png")
    monkeypatch.chdir(tmp_path)
    promised = ""
    for block in blocks(ROOT / "docs/serve.md"):
        text = block.text.replace("http://127.0.0.1:8000", where)
        if block.kind == "python":
            promised += "".join(f"{said}\n" for said in re.findall(r"^print.*  # (.*)$", text, re.MULTILINE))
            exec(compile(text, "serve.md", "exec"), {})
        elif text.startswith("curl"):
            ((_, (_, url, header, said, data, body)),) = commands(text)
            assert (header, data) == ("-H", "-d")
            answer = httpx.post(url, content=body, headers=[said.split(": ")], timeout=60).json()
            answers = answer["results" if url.endswith("rerank") else "data"]
            assert len(answers) == (2 if url.endswith("embeddings") else 1)
    assert promised
    assert capsys.readouterr().out == promised


def test_told_to_stop_it_finishes_what_is_running_and_takes_nothing_new(running):
    server, thread, where = running()
    batcher = server.service.batcher
    batcher._slot.acquire()  # nothing leaves the queue
    answers = []
    asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{where}v1/embeddings", json={"input": "w1"}, timeout=90)))
    asking.start()
    until(lambda: batcher.queue.documents)
    assert httpx.get(f"{where}readyz", timeout=60).status_code == 200
    server.handle_exit(15, None)
    for path, method in (("readyz", "GET"), ("v1/embeddings", "POST")):
        answer = httpx.request(method, f"{where}{path}", json={"input": "w2"}, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    assert httpx.get(f"{where}healthz", timeout=60).status_code == 200
    batcher._slot.release()
    asking.join(90)
    thread.join(90)
    assert answers[0].status_code == 200
    assert not thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{where}readyz", timeout=60)


def test_it_does_not_wait_for_ever(running):
    server, thread, where = running(grace=0.3)
    server.service.batcher._slot.acquire()
    asking = threading.Thread(target=lambda: httpx.post(f"{where}v1/embeddings", json={"input": "w1"}, timeout=90))
    asking.start()
    until(lambda: server.service.batcher.queue.documents)
    server.handle_exit(15, None)
    server.handle_exit(15, None)
    server.service.batcher._slot.release()
    thread.join(90)
    asking.join(90)
    assert not thread.is_alive()


def test_an_address_that_cannot_be_taken_is_named():
    with bind_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert is_local(taken)
        assert address(taken) == f"http://127.0.0.1:{port}/"
        with pytest.raises(TwowayError, match=rf"127.0.0.1:{port} cannot be taken.*another program has the port.*--port"):
            bind_socket("127.0.0.1", port)
    with pytest.raises(UsageError, match="--port 99999"):
        bind_socket("127.0.0.1", 99999)
    with pytest.raises(TwowayError, match="this machine has no such address"):
        bind_socket("192.0.2.1", 0)
    with bind_socket("0.0.0.0", 0) as taken:
        assert not is_local(taken)
