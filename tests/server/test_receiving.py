"""A request is bounded in size and time, whatever it says of itself, and an asker that leaves leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
import pytest

from twoway.server import routes
from twoway.server.app import create_app
from twoway.server.schemas import ServerLimits

JSON = {"content-type": "application/json"}


def post(client, content, **headers):
    return client.post("/v1/embeddings", content=content, headers={**JSON, **headers})


def test_a_body_that_is_too_large_is_refused_whatever_it_says_of_its_size(serve):
    client = serve(limits=ServerLimits(body_bytes=100))
    assert post(client, b'{"input": "w1"}').status_code == 200
    read = []

    def pieces():
        for number in range(50):
            read.append(number)
            yield b" " * 10

    for answer in (post(client, b" " * 101), post(client, pieces()), post(client, b'{"input": "w1"}', **{"content-length": "999"})):
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
    assert client.app.state.service.reader.held_bytes == 0


def test_all_bodies_together_are_bounded(serve):
    client = serve(limits=ServerLimits(bodies_bytes=100))
    client.app.state.service.reader.held_bytes = 90
    answer = post(client, b'{"input": "w1"}')
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "2"
    assert client.app.state.service.reader.held_bytes == 90


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_page_of_another_site_cannot_post_without_being_asked(client, kind):
    assert client.post("/v1/embeddings", content=b'{"input": "w1"}', headers={"content-type": kind}).status_code == 415


def test_a_body_is_gone_once_its_request_is_over(serve, monkeypatch):
    """Work that was dropped before a thread came to it holds on to its body, but no longer to what was in it."""
    client, bodies = serve(), []
    whole = routes._read_embeddings
    monkeypatch.setattr(routes, "_read_embeddings", lambda body, service: bodies.append(body) or whole(body, service))
    assert post(client, b'{"input": "w1"}').status_code == 200
    assert post(client, b'{"input": 1}').status_code == 400
    assert bodies == [bytearray(), bytearray()]


class Asking:
    """One request at the level of ASGI, so that its body can be slow and its asker can leave."""

    def __init__(self, app, body=b'{"input": "w1 w2"}'):
        self.app, self.body = app, body
        self.left = asyncio.Event()
        self.sent = []

    async def receive(self):
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    async def run(self):
        scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "raw_path": b"/v1/embeddings", "query_string": b"",
                 "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")], "http_version": "1.1", "scheme": "http",
                 "server": ("localhost", 80), "client": ("localhost", 9), "root_path": ""}  # fmt: skip
        await self.app(scope, self.receive, self.send)
        return self.sent[0]["status"]


async def until(said):
    end = time.monotonic() + 60
    while not said():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def held_up(service):
    """Keep documents in the queue until what is returned is called."""
    service.batcher._slot.acquire()
    return service.batcher._slot.release


def test_an_asker_that_leaves_takes_its_documents_out_of_the_queue(engine):
    async def main():
        app = create_app(engine)
        service = app.state.service
        let_go, waiting = held_up(service), service.batcher.queue
        running = [asyncio.create_task(Asking(app, json.dumps({"input": [f"w{number}", "w"]}).encode()).run()) for number in range(4)]
        await until(lambda: len(waiting.documents) == 8)
        last = Asking(app, b'{"input": ["w9", "w8", "w7"]}')
        leaving = asyncio.create_task(last.run())
        await until(lambda: len(waiting.documents) == 11)
        last.left.set()
        assert await leaving == 499
        assert len(waiting.documents) == 8
        let_go()
        assert await asyncio.gather(*running) == [200] * 4
        assert (service.reader.running, service.reader.held_bytes) == (0, 0)
        assert b"twoway_documents_left_queue_total 3.0" in service.metrics.text()

    asyncio.run(main())


def test_past_its_time_a_request_is_given_up_and_leaves_the_queue(engine):
    async def main():
        app = create_app(engine, limits=ServerLimits(seconds=0.3))
        service = app.state.service
        let_go = held_up(service)
        assert await asyncio.gather(*[Asking(app).run() for _ in range(3)]) == [504] * 3
        assert service.batcher.queue.documents == []
        let_go()

    asyncio.run(main())


def test_a_body_that_does_not_come_is_given_up(engine):
    async def main():
        asker = Asking(create_app(engine, limits=ServerLimits(upload_seconds=0.1)))
        asker.body = None
        assert await asker.run() == 408

    asyncio.run(main())


def test_a_full_queue_answers_429_and_then_recovers(engine):
    async def main():
        app = create_app(engine, limits=ServerLimits(queue_items=2))
        let_go = held_up(app.state.service)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            asked = [asyncio.create_task(client.post("/v1/embeddings", json={"input": f"w{number}"})) for number in range(9)]
            await until(lambda: sum(one.done() for one in asked) == 7)
            let_go()
            answers = await asyncio.gather(*asked)
            refused = [one for one in answers if one.status_code == 429]
            assert [one.status_code for one in answers].count(200) == 2
            assert len(refused) == 7
            assert all(int(one.headers["retry-after"]) >= 1 for one in refused)
            assert all(one.json()["error"]["code"] == "queue_full" for one in refused)
            assert (await client.post("/v1/embeddings", json={"input": "w1"})).status_code == 200

    asyncio.run(main())


def test_requests_that_come_while_the_model_works_share_a_batch(engine, monkeypatch):
    rows = []
    forward = type(engine.sentence).forward
    monkeypatch.setattr(type(engine.sentence), "forward", lambda self, x, **kw: rows.append(len(x["input_ids"])) or forward(self, x, **kw))

    async def main():
        app = create_app(engine)
        service = app.state.service
        let_go = held_up(service)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            asked = [asyncio.create_task(client.post("/v1/embeddings", json={"input": f"w{number}"})) for number in range(16)]
            await until(lambda: len(service.batcher.queue.documents) == 16)
            let_go()
            answers = await asyncio.gather(*asked)
        return [one.json()["data"][0]["embedding"] for one in answers]

    found = asyncio.run(main())
    assert rows == [16] or sorted(rows) == [6, 10]  # texts of two lengths
    right = engine.sentence.encode([[{"role": "user", "content": f"w{number}"}] for number in range(16)])
    assert abs(right - found).max() < 1e-5
