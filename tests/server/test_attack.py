"""What hostile askers try: filters that never end, threads that are taken for good, ids out of reach, texts without an end, slow heads."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import torch

from made_vectors import vectors_of
from twoway.content import Document, Text
from twoway.embedding.embedder import make_items
from twoway.errors import UsageError
from twoway.search.index import index
from twoway.search.query import create_store
from twoway.search.store import IndexInfo, Item
from twoway.server.app import Connection, Server, address, bind_socket, create_app, uvicorn_config
from twoway.server.schemas import ServerLimits

pytestmark = pytest.mark.xdist_group("ranks")
NAMES = ["a\nb", "a\n", "a", "\n", "...", "a/../b", "a/./b", "../x", "a\\b", "a%2Fb", "é\u2028\x00\r", " ", "a?b#c", "x/thumbnail"]


@pytest.fixture
def store(engine, tmp_path):
    store = create_store(tmp_path / "home" / "index", IndexInfo("tiny", engine.fingerprint, engine.dimension))
    vectors = engine.array([Document((Text(f"w{number}"),)) for number in range(6)])
    store.add([Item(f"n{number}", vector, f"w{number}", metadata={"row": number}) for number, vector in enumerate(vectors)])
    return store


def until(said):
    end = time.monotonic() + 90
    while not said():
        assert time.monotonic() < end
        time.sleep(0.02)


def found(client, **body):
    answer = client.post("/v1/search", json=body)
    return answer.status_code, answer.json()


@contextmanager
def held(monkeypatch, store):
    """Have every search of an index wait; yield how many wait, and let them go at the end."""
    go, waiting = threading.Event(), []

    def wait(*_, **__):
        waiting.append(1)
        assert go.wait(90)
        return []

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "search", wait)
        try:
            yield waiting
        finally:
            go.set()


def test_filters_that_an_engine_would_read_for_ever_are_folded_or_refused(serve, store):
    client = serve(store)
    folded = ["not " * 49 + "row=1", "not " * 2000 + "row=1", "(row=1 and " * 24 + "row=1" + ")" * 24, "not " * 24 + "row=1"]
    folded += ["not (" * 49 + "row=1" + ")" * 49, "not (row=0 or not (row=1 and " * 6 + "row=1" + "))" * 6]
    for text in folded:
        status, said = found(client, filter=text)
        assert (status, "error" in said) == (200, False), said
    for text in ("(row=1 or (row=2 and " * 7 + "row=1" + "))" * 7, "(" * 51 + "row=1" + ")" * 51, "(" * 5000, "not " * 2500):
        status, said = found(client, filter=text)
        assert status == 400
        assert "damaged" not in said["error"]["message"]
    assert not client.app.state.service.busy


def test_a_filter_that_the_engine_does_not_read_is_the_askers_mistake_and_no_damage(serve, store, monkeypatch):
    client = serve(store)
    for condition in ("NOT (" * 24 + "`row` = 1" + ")" * 24, "(`row` = 1 AND " * 24 + "`row` = 1" + ")" * 24):
        with monkeypatch.context() as patch:
            patch.setattr(type(store), "_condition", lambda *_, said=condition: said)
            status, said = found(client, filter="row=1")
        assert (status, said["error"]["code"]) == (400, "invalid_value")
        assert "does not take this filter" in said["error"]["message"]
        assert "damaged" not in said["error"]["message"]


def test_a_search_that_takes_too_long_is_given_up_and_its_thread_is_free(serve, store):
    client = serve(store, limits=ServerLimits(search_seconds=0))
    for body in ({}, {"text": "w1"}, {"text": "w1", "hybrid": True}, {"id": "n1"}):
        status, said = found(client, **body)
        assert (status, said["error"]["code"]) == (504, "timeout"), said
        assert "damaged" not in said["error"]["message"]
    assert not client.app.state.service.readers.busy
    store.seconds = None
    assert found(client, text="w1")[0] == 200


def test_it_is_not_ready_while_nothing_can_be_answered(serve, store, monkeypatch):
    client = serve(store, limits=ServerLimits(stuck_seconds=0.3))
    with ThreadPoolExecutor(4) as pool, held(monkeypatch, store) as waiting:
        asked = [pool.submit(found, client) for _ in range(4)]
        until(lambda: len(waiting) == 4)
        until(lambda: client.get("/readyz").status_code == 503)
        said = client.get("/readyz").json()["error"]
        assert (said["code"], "ask the index" in said["message"]) == ("broken", True)
        assert client.get("/healthz").status_code == 200
    assert [one.result()[0] for one in asked] == [200] * 4
    assert client.get("/readyz").status_code == 200


def test_it_is_not_ready_while_the_model_is_at_one_batch_for_longer_than_a_request_may_take(serve, engine, monkeypatch):
    client, go, begun = serve(limits=ServerLimits(seconds=0.3)), threading.Event(), threading.Event()

    def slow(*_, **__):
        begun.set()
        assert go.wait(90)
        raise RuntimeError("gone")

    monkeypatch.setattr(type(engine.sentence), "forward", slow)
    assert client.post("/v1/embeddings", json={"input": "w1"}).status_code == 504
    assert begun.wait(90)
    until(lambda: client.get("/readyz").status_code == 503)
    go.set()
    until(lambda: client.get("/readyz").status_code == 200)


@contextmanager
def running(engine, grace=60.0, **options):
    app, taken = create_app(engine, **options), bind_socket("127.0.0.1", 0)
    server = Server(uvicorn_config(app), app.state.service, grace)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
    thread.start()
    until(lambda: server.started)
    try:
        yield server, thread, address(taken)
    finally:
        server.should_exit = True
        thread.join(90)
        assert not thread.is_alive()


def test_stopping_waits_no_longer_than_it_was_told(engine, store, monkeypatch):
    with (
        ThreadPoolExecutor(4) as pool,
        held(monkeypatch, store) as waiting,
        running(engine, grace=1.0, store=store) as (server, thread, where),
    ):

        def ask():
            try:
                return httpx.post(f"{where}v1/search", json={}, timeout=90).status_code
            except httpx.TransportError:
                return 0

        asked = [pool.submit(ask) for _ in range(4)]
        until(lambda: len(waiting) == 4)
        server.handle_exit(signal.SIGTERM, None)
        thread.join(90)
        assert not thread.is_alive()
        assert server.service.cut_off
        assert server.service.busy  # the searches hold their threads yet, and nothing has waited for them
    assert {one.result() for one in asked} <= {0, 500, 503}


def test_refusals_do_not_keep_it_from_ending(engine):
    with running(engine, grace=2.0) as (server, thread, where):
        server.service.reader.running += 1  # a request that was there before
        server.handle_exit(signal.SIGTERM, None)
        with _opened(where) as late:
            late.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n")
            until(lambda: server.server_state.tasks)
            server.service.reader.running -= 1
            thread.join(90)
        assert not thread.is_alive()
        assert not server.service.cut_off


_PROGRAM = """
import sys, time
from twoway.search.lance import LanceStore
from twoway.cli import main
LanceStore.search = lambda *_, **__: time.sleep(3600)
sys.exit(main(sys.argv[1:]))
"""


def test_the_program_ends_though_a_thread_of_it_never_does(engine, store):
    command = [
        sys.executable,
        "-c",
        _PROGRAM,
        "serve",
        engine.name,
        "--index",
        store.location,
        "--port",
        "0",
        "--grace",
        "1",
        "--device",
        "cpu",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            where = next(word for line in process.stderr for word in line.split() if word.startswith("http"))
            with httpx.Client(base_url=where) as client:
                with pytest.raises(httpx.ReadTimeout):
                    client.post("v1/search", json={}, timeout=1)
                process.send_signal(signal.SIGTERM)
                said = process.communicate(timeout=120)[1]
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert said.strip().splitlines()[-1] == "twoway serve: stopped; every answer that was begun is given"  # its asker had left


@pytest.mark.parametrize("name", [".", ".."])
def test_an_id_that_no_address_can_have_is_refused_however_it_comes(serve, store, engine, tmp_path, monkeypatch, name):
    client = serve(store)
    said = client.post("/v1/index/items", json={"items": [{"id": "good", "text": "w1"}, {"id": name, "text": "w1"}]})
    assert said.status_code == 400
    assert f"items[1]: an item has the id '{name}'" in said.json()["error"]["message"]
    with pytest.raises(UsageError, match="no address can have"):
        store.add([Item(name, engine.array([Document((Text("w1"),))])[0])])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"id": "fine", "text": "w"}) + "\n" + json.dumps({"id": name, "text": "w"}) + "\n")
    vectors_of("rows.jsonl", tmp_path / "vectors", dim=8)
    for db in ("db", "index.db"):
        with pytest.raises(UsageError, match=r"rows.jsonl:2: an item has the id"):
            index("vectors", db)
        assert not (tmp_path / db).exists()
    assert index("vectors", "db", ids="place").items == 2
    assert store.count() == 6


def test_every_id_that_is_taken_can_be_asked_for_and_deleted(engine, store):
    with running(engine, store=store) as (_, _, where), httpx.Client(base_url=where, timeout=60) as client:
        said = client.post("/v1/index/items", json={"items": [{"id": name, "text": "w1"} for name in NAMES]})
        assert said.json() == {"added": len(NAMES), "replaced": 0}
        for number, name in enumerate(NAMES):
            place = f"/v1/index/items/{quote(name, safe='')}"
            assert client.get(place).json()["id"] == name
            assert client.delete(place).json() == {"deleted": name}
            assert client.get(place).status_code == 404
            assert store.count() == 6 + len(NAMES) - number - 1


def test_an_index_that_was_moved_away_is_said_and_nothing_is_made_in_its_place(serve, store, tmp_path, caplog):
    client = serve(store)
    assert found(client, text="w1")[0] == 200
    home = tmp_path / "home"
    (home / "index").rename(tmp_path / "elsewhere")
    answers = [
        client.post("/v1/search", json={"text": "w1"}),
        client.post("/v1/search", json={"filter": "row = 1"}),
        client.post("/v1/index/items", json={"items": [{"id": "new", "text": "w1"}]}),
        client.delete("/v1/index/items/n1"),
        client.get("/v1/index/items/n1"),
    ]
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert "no longer exists" in answer.json()["error"]["message"]
    told = "".join(answer.text for answer in answers) + caplog.text
    assert str(tmp_path).lstrip("/") not in told
    assert "damaged" not in told
    assert list(home.iterdir()) == []
    (tmp_path / "elsewhere").rename(home / "index")
    assert found(client, text="w1")[0] == 200


def test_what_an_engine_says_of_its_files_names_no_folder(serve, store, monkeypatch, caplog):
    """Engines name files with and without the first slash of their folder."""
    client = serve(store)
    for path in (store.location, store.location.lstrip("/"), f"file://{store.location}"):
        with monkeypatch.context() as patch:

            def fail(_, path=path):
                raise RuntimeError(f"lance error: {path}/items.lance/data/x.lance is odd")

            patch.setattr("twoway.search.lance.read_search_settings", fail)
            answer = client.post("/v1/search", json={"text": "w1"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert "items.lance/data/x.lance is odd" in answer.json()["error"]["message"]
        assert "its files look whole" in answer.json()["error"]["message"]
        assert store.location.lstrip("/") not in answer.text + caplog.text


def test_texts_of_one_request_are_bounded_together(serve):
    client = serve(limits=ServerLimits(characters=1000, request_characters=2500))
    asked = {"input": ["w1 " * 300, "w2 " * 300, "w3 " * 300], "truncate": True}
    answer = client.post("/v1/embeddings", json=asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_long")
    assert "input[2]: the texts of the request have more than 2,500 characters together" in answer.json()["error"]["message"]
    assert client.post("/v1/embeddings", json={**asked, "input": asked["input"][:2]}).status_code == 200


def test_tokens_of_one_request_are_bounded_with_the_prompt_before_each_text(serve):
    client = serve(limits=ServerLimits(queue_tokens=2000))
    asked = {"input": [f"w{number}" for number in range(20)]}
    assert client.post("/v1/embeddings", json=asked).status_code == 200
    answer = client.post("/v1/embeddings", json={**asked, "prompt": "w1 w2 w3 w4 " * 40, "truncate": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_long")
    assert "more than 2,000 tokens" in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["word ", "x", " " * 300 + "w1", "w1 \n", "日本"])
def test_a_text_that_the_model_cuts_is_cut_before_a_tokenizer_sees_it(engine, kind):
    longest = engine.lengths.longest
    whole = Document((Text((kind * (1 << 18))[: 1 << 18]),))
    cut = make_items(engine, [whole])[0].document
    assert longest < len(cut.texts[0]) < 1 << 17
    assert whole.texts[0].startswith(cut.texts[0])
    rows = [[{"role": "user", "content": document.texts[0]}] for document in (whole, cut)]
    ids = [engine.sentence[0].preprocess([row])["input_ids"] for row in rows]
    assert torch.equal(*ids)
    assert ids[0].shape[1] == longest


def test_a_device_whose_memory_ends_costs_one_request_an_answer_and_nobody_else(serve, engine, monkeypatch):
    client, forward, sizes = serve(), type(engine.sentence).forward, []

    def full(self, features, *given, **named):
        sizes.append(len(features["input_ids"]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return forward(self, features, *given, **named)

    monkeypatch.setattr(type(engine.sentence), "forward", full)
    most = 2
    right = engine.array([Document((Text(f"w{number}"),)) for number in range(8)])
    sizes.clear()
    answer = client.post("/v1/embeddings", json={"input": [f"w{number}" for number in range(8)]})
    assert answer.status_code == 200
    assert max(sizes) > 2  # met, and halved
    assert np.abs(right - [one["embedding"] for one in answer.json()["data"]]).max() < 1e-5
    most = 0
    answer = client.post("/v1/embeddings", json={"input": ["w1", "w2"]})
    assert answer.status_code == 503
    assert "this document alone does not fit into the device's memory" in answer.json()["error"]["message"]
    assert "CUDA" not in answer.text
    most = 8
    assert client.post("/v1/embeddings", json={"input": "w1"}).status_code == 200
    assert client.get("/readyz").status_code == 200


def test_a_tokenizer_that_panics_costs_the_text_that_did_it(serve, engine, monkeypatch):
    class PanicException(BaseException):
        """What a library written in Rust raises."""

    client, count = serve(), type(engine.lengths)._count

    def panics(self, texts):
        if any("xx" in text for text in texts):
            raise PanicException("Onig: Regex search error: retry-limit-in-match over")
        return count(self, texts)

    monkeypatch.setattr(type(engine.lengths), "_count", panics)
    answer = client.post("/v1/embeddings", json={"input": ["w1", "xx"]})
    assert answer.status_code == 400
    assert "input[1]: the model's tokenizer fails on it (Onig" in answer.json()["error"]["message"]
    assert client.post("/v1/embeddings", json={"input": ["w1", "w2"]}).status_code == 200
    assert client.get("/readyz").status_code == 200


def _opened(where):
    host, port = where.removeprefix("http://").rstrip("/").split(":")
    raw = socket.create_connection((host, int(port)), timeout=60)
    raw.settimeout(60)
    return raw


def _read(raw):
    """Return all that comes until the other side ends it."""
    said = b""
    try:
        while more := raw.recv(65536):
            said += more
    except ConnectionError:
        return said + b"reset"
    return said


def test_heads_that_never_end_are_cut_off_and_keep_nobody_waiting(engine, monkeypatch):
    monkeypatch.setattr(Connection, "head_seconds", 1.0)
    with running(engine) as (server, _, where):
        begun = [b"", b"P", b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nX-"]
        begun.append(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n{")  # is answered, and its body not read
        slow = [_opened(where) for _ in range(40)]
        first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for number, raw in enumerate(slow):
            raw.sendall((first if number >= 20 else b"") + begun[number % 4])
        assert httpx.get(f"{where}healthz", timeout=60).status_code == 200
        until(lambda: len(server.server_state.connections) <= 5)  # of those that asked once, the silent ones may stay for a while
        for number, raw in enumerate(slow):
            with raw:
                if number < 20 or number % 4:
                    assert _read(raw).count(b"HTTP/1.1") == (number >= 20) + (number % 4 == 3)
        assert httpx.get(f"{where}readyz", timeout=60).status_code == 200


def test_more_connections_than_may_be_cost_those_that_ask_nothing(engine, monkeypatch):
    monkeypatch.setattr(Connection, "most", 8)
    with running(engine) as (server, _, where):
        silent = [_opened(where) for _ in range(40)]
        until(lambda: len(server.server_state.connections) == 8)
        assert httpx.get(f"{where}healthz", timeout=60).status_code == 200
        batcher = server.service.batcher
        batcher._slot.acquire()  # nothing leaves the queue
        body = b'{"input": "w1"}'
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        asking = []
        for number in range(8):
            asking.append(_opened(where))
            asking[-1].sendall(head.encode() + body)
            until(lambda number=number: len(batcher.queue.documents) == number + 1)
        with _opened(where) as late:
            said = _read(late)
        assert said.startswith(b"HTTP/1.1 503"), said
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["code"] == "busy"
        batcher._slot.release()
        for raw in asking:
            with raw:
                assert _read(raw).startswith(b"HTTP/1.1 200")
        for raw in silent:
            raw.close()


def test_who_had_connected_when_it_was_told_to_stop_is_answered(engine):
    """The system takes connections before the server does; giving the address back would reset them."""
    asked = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running(engine) as (server, thread, where):
        kept = _opened(where)  # one that asked before and is asked on while it stops
        kept.sendall(asked)
        first = b""
        while not first.endswith(b"}]}"):
            first += kept.recv(65536)
        busy, connected = threading.Event(), threading.Event()

        def hold():
            """Be at work, as a large answer would have it, while others connect."""
            busy.set()
            assert connected.wait(60)

        loop = server.servers[0].get_loop()
        loop.call_soon_threadsafe(hold)
        assert busy.wait(60)
        server.handle_exit(signal.SIGTERM, None)
        late = [_opened(where) for _ in range(60)]
        for raw in late:
            raw.sendall(asked)
        kept.sendall(asked)
        connected.set()
        for raw in [*late, kept]:
            with raw:
                said = _read(raw)
            assert said.startswith(b"HTTP/1.1 "), said
            assert b"connection: close" in said.lower()
        thread.join(90)
        assert not thread.is_alive()
        assert not server.service.cut_off
        with pytest.raises(OSError, match="refused"):
            _opened(where)


def test_the_clock_set_back_changes_nothing(serve, store, monkeypatch):
    client = serve(store)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 365 * 24 * 3600)
    assert client.post("/v1/index/items", json={"items": [{"id": "past", "text": "w1"}]}).json() == {"added": 1, "replaced": 0}
    assert found(client, filter="id = 'past'")[1]["hits"][0]["id"] == "past"
    store.compact()
    assert client.get("/readyz").status_code == 200
