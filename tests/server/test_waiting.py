"""The queue is bounded, keeps kinds, prompts and lengths apart, and lets short requests pass long ones without forgetting those."""

from __future__ import annotations

import threading

import pytest

from twoway.content import Document, Text
from twoway.server.batching import DocumentQueue, EmbedJob, EncodeOptions, QueuedDocument
from twoway.server.schemas import ApiError


def tickets(count, *, length=10, kind="text", pixels=0, ask=None):
    job = EmbedJob(ask or EncodeOptions(), count)
    document = Document((Text("w"),))
    return [QueuedDocument(document, "key", kind, length, job=job, index=number, pixels=pixels) for number in range(count)]


def queue(**changes):
    return DocumentQueue(**{"items": 100, "tokens": 10_000, "budget": 100, "most": 50, "pixels": 1000} | changes)


def test_a_batch_is_of_one_kind_one_prompt_and_near_lengths():
    waiting = queue()
    groups = [
        tickets(3),
        tickets(3, kind="picture"),
        tickets(3, ask=EncodeOptions("ask ")),
        tickets(3, length=90),
        tickets(3, ask=EncodeOptions(None, "query")),
    ]
    for group in groups:
        waiting.put(group)
    taken = [waiting.take_batch() for _ in range(7)]
    for batch in taken:
        assert len({(one.kind, one.job.options, one.length) for one in batch}) == 1
        assert len(batch) == 1 or sum(one.length for one in batch) <= 100
    assert sum(map(len, taken)) == 15
    assert (waiting.documents, waiting.tokens) == ([], 0)


def test_requests_share_batches():
    waiting = queue()
    for _ in range(6):
        waiting.put(tickets(1))
    assert len(waiting.take_batch()) == 6


def test_a_short_request_passes_a_long_one_that_is_not_forgotten():
    waiting = queue(budget=10)
    waiting.rate = 100.0  # so that ten tokens take a tenth of a second
    long, short = tickets(50), tickets(1, kind="picture")
    waiting.put(long)
    waiting.put(short)
    order = [waiting.take_batch()[0] for _ in range(51)]
    assert order.index(short[0]) <= 2
    waiting.put(late := tickets(5))
    waiting.put(tickets(5, kind="picture"))
    assert waiting.take_batch()[0] is late[0]


def test_past_its_bounds_it_takes_nothing_and_says_when_to_come_again():
    waiting = queue(items=5)
    waiting.put(tickets(4))
    with pytest.raises(ApiError) as refused:
        waiting.put(tickets(2))
    assert refused.value.status == 429
    assert int(refused.value.response().headers["Retry-After"]) >= 1
    assert len(waiting.documents) == 4
    waiting.put(tickets(1))
    full = queue(tokens=50)
    full.put(tickets(20))  # alone, any size is taken
    with pytest.raises(ApiError):
        full.put(tickets(1))


def test_what_lies_decoded_at_a_time_is_bounded():
    waiting = queue(pixels=100)
    for pixels in (60, 60, 30, 500):
        waiting.put(tickets(1, pixels=pixels))
    held = [sorted(one.pixels for one in waiting.take_batch()) for _ in range(3)]
    assert held == [[30, 60], [60], [500]]


def test_a_request_that_is_over_takes_its_documents_along():
    waiting = queue()
    gone, stays = tickets(3), tickets(2)
    waiting.put(gone)
    waiting.put(stays)
    assert waiting.remove_job(gone[0].job) == 3
    assert waiting.take_batch() == stays
    assert waiting.tokens == 0


def test_a_closed_queue_gives_out_what_it_has_and_then_ends():
    waiting = queue()
    waiting.put(tickets(1))
    waiting.close()
    with pytest.raises(ApiError) as refused:
        waiting.put(tickets(1))
    assert refused.value.status == 503
    assert len(waiting.take_batch()) == 1
    assert waiting.take_batch() is None


def test_who_waits_at_an_empty_queue_is_woken():
    waiting, taken = queue(), []
    thread = threading.Thread(target=lambda: taken.append(waiting.take_batch()))
    thread.start()
    waiting.put(tickets(1))
    thread.join(5)
    assert len(taken[0]) == 1


def test_a_request_ends_once_whatever_comes_after():
    job = EmbedJob(EncodeOptions(), 2)
    job.answer(0, "first", 3)
    assert not job.over
    job.fail(ValueError("broken"))
    job.answer(1, "late", 3)
    assert isinstance(job.done.exception(), ValueError)
    gone = EmbedJob(EncodeOptions(), 1)
    gone.done.cancel()
    gone.answer(0, "late", 1)
    gone.fail(ValueError("late"))
    assert gone.over
