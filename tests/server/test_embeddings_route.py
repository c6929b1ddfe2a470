"""What `/v1/embeddings` gives is what `SentenceTransformer.encode` gives, in the forms that clients ask for."""

from __future__ import annotations

import base64
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient

from twoway.embedding import Embedder
from twoway.server.app import create_app
from twoway.server.schemas import ServerLimits

TEXTS = ["w4 w5 w6", "a much longer text " * 4, "https://example.org/cat.png", "/etc/passwd"]


def ask(client, **body):
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]], np.float32)


def refused(client, status=400, **body):
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def as_message(text):
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


def sent(url):
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def test_texts_give_the_vectors_of_encode_whatever_they_look_like(client, engine):
    right = engine.sentence.encode([as_message(text) for text in TEXTS], show_progress_bar=False)
    assert np.abs(ask(client, input=TEXTS) - right).max() < 1e-5
    assert np.abs(ask(client, input=TEXTS[2]) - right[2]).max() < 1e-5


def test_messages_give_the_vectors_of_encode(client, engine, picture, data_url):
    first, second = picture(1), picture(2, 60, 30)
    parts = [("text", "w7 "), ("image", first), ("text", " w9 "), ("image", second)]
    given = [{"type": "text", "text": one} if kind == "text" else sent(data_url(one)) for kind, one in parts]
    right = engine.sentence.encode([[{"role": "user", "content": [{"type": kind, kind: value} for kind, value in parts]}]])
    assert np.abs(ask(client, messages=[{"role": "user", "content": given}]) - right).max() < 1e-5
    right = engine.sentence.encode([as_message("w1")])
    assert np.abs(ask(client, messages=[{"role": "user", "content": "w1"}]) - right).max() < 1e-5


def test_dimensions_keep_the_first_numbers_at_length_one(client, engine):
    whole, short = ask(client, input="w4 w5"), ask(client, input="w4 w5", dimensions=8)
    assert short.shape == (1, 8)
    assert np.abs(short - whole[:, :8] / np.linalg.norm(whole[:, :8])).max() < 1e-6
    assert "1 to 32" in refused(client, input="w4", dimensions=33)["message"]


def test_base64_holds_the_same_numbers(client):
    said = client.post("/v1/embeddings", json={"input": "w4", "encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert (np.frombuffer(base64.b64decode(said), "<f4") == ask(client, input="w4")[0]).all()


def test_prompts_are_those_of_encode(client, engine):
    row = [as_message("w4 w5")]
    assert np.abs(ask(client, input="w4 w5", side="query") - engine.sentence.encode_query(row)).max() < 1e-5
    assert np.abs(ask(client, input="w4 w5", side="document") - engine.sentence.encode_document(row)).max() < 1e-5
    right = engine.sentence.encode(row, prompt="Find: ")
    assert np.abs(ask(client, input="w4 w5", prompt="Find: ") - right).max() < 1e-5
    system = {"role": "system", "content": "Find: "}
    assert np.abs(ask(client, messages=[system, {"role": "user", "content": "w4 w5"}]) - right).max() < 1e-5
    assert "other" in refused(client, input="w4", prompt_name="other")["message"]


def test_usage_counts_the_tokens_that_the_model_reads(client, engine):
    tokens = sum(int(engine.sentence.preprocess([text])["attention_mask"].sum()) for text in TEXTS[:2])
    said = client.post("/v1/embeddings", json={"input": TEXTS[:2]}).json()
    assert said["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert [one["index"] for one in said["data"]] == [0, 1]


def test_what_the_model_would_cut_is_refused_unless_it_may(client, engine):
    text = "w " * 4000
    assert refused(client, input=["w1", text])["code"] == "context_length_exceeded"
    assert np.abs(ask(client, input=text, truncate=True) - engine.sentence.encode([as_message(text)])).max() < 1e-5


def test_the_longest_text_that_fits_is_taken_and_one_token_more_is_not(client, engine):
    frame = int(engine.sentence.preprocess(["w"])["attention_mask"].sum()) - 1
    longest = engine.sentence.max_seq_length - frame
    assert ask(client, input="w" * (longest - 1)).shape == (1, 32)
    assert refused(client, input="w" * (longest + 1))["code"] == "context_length_exceeded"


def test_an_instruction_counts_like_the_texts_that_it_stands_before(serve, engine):
    small = Embedder(engine.sentence, settings=replace(engine.settings, budget=512))
    client = TestClient(create_app(small, limits=ServerLimits(prompt=400)), raise_server_exceptions=False, base_url="http://localhost")
    with client:
        said = "w1 " * 100
        long = client.post("/v1/embeddings", json={"input": [f"w{number}" for number in range(30)], "prompt": said}).json()
        batches = int(re.search(r"twoway_batch_documents_count (\d+)", client.get("/metrics").text)[1])
        assert long["usage"]["total_tokens"] / batches <= 2 * 512
        for asked in ({"prompt": "w" * 401}, {"prompt": "w" * 401, "truncate": True}):
            assert "at most 400 are taken" in refused(client, input="w1", **asked)["message"]
        assert "at most 400" in refused(client, messages=[{"role": "system", "content": "w" * 401}, *as_message("w1")])["message"]


def test_what_is_long_and_wrong_is_answered_shortly(client):
    start = time.process_time()
    for asked in ({"model": "m" * (8 << 20)}, {"k" * (8 << 20): 1}, {"prompt_name": "p" * (8 << 20)}):
        answer = client.post("/v1/embeddings", json={"input": "w1", **asked})
        assert 400 <= answer.status_code < 500
        assert len(answer.content) < 4000
    assert time.process_time() - start < 3


def test_a_template_that_adds_nothing_hides_no_cut(serve, engine):
    client, longest = serve(), engine.sentence.max_seq_length
    client.app.state.service._frame = lambda _, ask: -1.0  # beside the one that a length has on top of its tokens
    ask(client, input="w" * longest)
    assert refused(client, input="w" * (longest + 1))["code"] == "context_length_exceeded"
    assert refused(client, input="w" * 40 * longest)["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"input": [1, 2]}, "token ids"),
        ({"input": [[1, 2], [3]]}, "token ids"),
        ({"input": []}, "empty list"),
        ({"input": ""}, "input: the text of part 1 is empty"),
        ({"input": ["w1", " "]}, "input[1]"),
        ({"input": ["w1", 2]}, "input[1] is not a text"),
        ({"input": {"text": "w1"}}, "a text or a list of texts"),
        ({}, "either 'input' or 'messages'"),
        ({"input": "w1", "messages": [{"role": "user", "content": "w1"}]}, "either 'input' or 'messages'"),
        ({"inputs": "w1"}, "did you mean input?"),
        ({"input": "w1", "dimensions": 0}, "dimensions"),
        ({"input": "w1", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "w1", "side": "both"}, "side"),
        ({"messages": []}, "one message of role user"),
        ({"messages": [{"role": "assistant", "content": "w1"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "w1"}] * 2}, "one message of role user"),
        ({"messages": [{"role": "user", "content": [{"type": "mesh_url"}]}]}, "'image_url'"),
        ({"messages": [{"role": "user", "content": []}]}, "no parts"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(client, body, said):
    assert said in refused(client, **body)["message"]


def test_another_model_is_not_stood_in_for(client):
    name = client.get("/v1/models").json()["data"][0]["id"]
    assert ask(client, input="w1", model=name).shape == (1, 32)
    assert refused(client, 404, input="w1", model="text-embedding-3-small")["code"] == "model_not_found"
    assert client.get(f"/v1/models/{name}").json()["dimension"] == 32
    assert client.get("/v1/models/other").status_code == 404
