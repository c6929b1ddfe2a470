"""What those who run a server read: whether it lives, whether it takes work, and what it counts."""

from __future__ import annotations

import re
import time


def counted(client, name):
    """Return a counter's values by their labels."""
    text = client.get("/metrics").text
    return {labels: float(value) for labels, value in re.findall(rf"^twoway_{name}(?:\{{(.*?)\}})? ([\d.e+]+)$", text, re.MULTILINE)}


def test_requests_are_counted_by_route_and_status_and_no_asker_makes_names(serve):
    client = serve()
    client.post("/v1/embeddings", json={"input": ["w1", "w2 w3"]})
    client.post("/v1/embeddings", json={"input": []})
    client.get("/v1/models/some-name")
    for number in range(5):
        client.get(f"/nothing/{number}")
    found = counted(client, "requests_total")
    assert found['route="/v1/embeddings",status="200"'] == 1
    assert found['route="/v1/embeddings",status="400"'] == 1
    assert found['route="/v1/models/{name:path}",status="404"'] == 1
    assert found['route="other",status="404"'] == 5
    assert not re.search("nothing|some-name", "".join(found))


def test_work_is_counted(serve):
    client = serve()
    tokens = client.post("/v1/embeddings", json={"input": ["w1", "w2 w3"]}).json()["usage"]["total_tokens"]
    assert counted(client, "documents_total") == {"": 2}
    assert counted(client, "tokens_total") == {"": tokens}
    assert counted(client, "batch_documents_sum") == {"": 2}
    assert counted(client, "queue_documents") == counted(client, "queue_tokens") == {"": 0}
    assert counted(client, "model_seconds_total")[""] > 0


def test_it_is_not_ready_while_it_stops_or_when_its_model_has_ended(serve):
    client = serve()
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    service = client.app.state.service
    service.stopping = True
    assert client.get("/readyz").status_code == 503
    assert client.post("/v1/embeddings", json={"input": "w1"}).json()["error"]["code"] == "stopping"
    service.stopping = False
    assert client.post("/v1/embeddings", json={"input": "w1"}).status_code == 200
    service.batcher.close(time.monotonic() + 60)
    assert client.get("/readyz").json()["error"]["code"] == "broken"
    assert client.get("/healthz").status_code == 200


def test_a_fault_of_the_server_tells_nothing_of_the_machine_and_harms_nobody_else(serve, engine, monkeypatch):
    client = serve()

    def fail(*_, **__):
        raise RuntimeError("/secret/path")

    with monkeypatch.context() as patch:
        patch.setattr(type(engine.sentence), "forward", fail)
        answer = client.post("/v1/embeddings", json={"input": "w1"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"]["code"] == "internal_error"
    assert client.post("/v1/embeddings", json={"input": "w1"}).status_code == 200
