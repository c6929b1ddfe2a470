"""A mistake costs no more than it is long: the first is told, and a body of millions is refused before it is taken apart."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from pydantic import ValidationError

from twoway.server.schemas import AddItemsRequest, ApiError, EmbeddingsRequest, SearchRequest, parse_body


def bodies(count):
    keys = b",".join(b'"%x":[]' % number for number in range(count))
    ones = b",".join([b"1"] * count)
    return {
        "messages": (EmbeddingsRequest, b'{"messages":[' + ones + b"]}", "messages.0"),
        "parts": (EmbeddingsRequest, b'{"messages":[{"role":"user","content":[' + ones + b"]}]}", "messages.0.content"),
        "items": (AddItemsRequest, b'{"items":[' + ones + b"]}", "items.0"),
        "item parts": (AddItemsRequest, b'{"items":[{"id":"a","parts":[' + ones + b"]}]}", "items.0"),
        "metadata": (AddItemsRequest, b'{"items":[{"id":"a","text":"b","metadata":{' + keys + b"}}]}", "an item has at most 64"),
        "keys": (SearchRequest, b"{" + keys + b"}", "unknown key '0'"),
    }


@pytest.mark.parametrize("kind", bodies(0))
def test_many_mistakes_are_one_and_take_no_memory(kind):
    model, body, said = bodies(20_000)[kind]
    tracemalloc.start()
    try:
        with pytest.raises(ApiError) as refused:
            parse_body(model, body)
        assert tracemalloc.get_traced_memory()[1] < 50 * len(body) + (1 << 20 if kind != "keys" else 1 << 25)
    finally:
        tracemalloc.stop()
    assert said in refused.value.message
    found = refused.value.__cause__
    assert isinstance(found, ValidationError)
    assert found.error_count() == (1 if kind != "keys" else 20_000)


@pytest.mark.parametrize("kind", bodies(0))
def test_a_body_of_very_many_values_is_not_looked_at(kind, monkeypatch):
    model, body, _ = bodies(70_000)[kind]
    monkeypatch.setattr(model, "model_validate_json", lambda *_: pytest.fail("it was looked at"))
    with pytest.raises(ApiError, match="the body holds more than 65,536 values"):
        parse_body(model, body)


def test_commas_of_a_text_are_no_values():
    text = 'one, two, \\"three\\", \\\\' * 30_000
    assert parse_body(SearchRequest, f'{{"text": "{text}", "top_k": 3}}'.encode()).top_k == 3


@pytest.mark.parametrize(
    "body", [b'"' + b'\\"' * 400_000, b'"a' * 400_000 + b'"', b'"' + b"\\" * 800_001], ids=["quotes", "odd", "backslashes"]
)
def test_a_body_without_end_is_counted_in_time(body):
    start = time.process_time()
    with pytest.raises(ApiError):
        parse_body(SearchRequest, b'{"text":' + b"," * 70_000 + body)
    assert time.process_time() - start < 2
