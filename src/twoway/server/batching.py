"""Batches made across requests: one thread prepares the next batch while another runs the model on this one, and no other thread runs it.

There is no waiting for company: an idle model takes what there is, and while it works, more arrives, so batches grow with the load by
themselves. A batch is chosen as late as possible, when the one before it goes into the model. Looking at documents (hash, kind, tokens; no
pixel decoded) is done by a few threads before they queue.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from twoway.content import ContentError
from twoway.embedding.embedder import finite, forward
from twoway.embedding.inputs import EmbeddingItem, batches

from .schemas import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from twoway.embedding import Embedder
    from twoway.embedding.inputs import PreparedBatch

    from .schemas import ServerLimits

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class WorkerThreads:
    """Threads for one kind of work, which is known to be under way, so that a server can say that none of them is free."""

    def __init__(self, many: int, name: str, *, most: int | None = None) -> None:
        """Begin `many` threads; `most` bounds the work that is under way and waits for that, and what is more is refused."""
        self._many, self._pool = many, ThreadPoolExecutor(many, thread_name_prefix=name)
        self._most, self._asked = most, 0
        self._since: dict[object, float] = {}

    async def run(self, work: Callable[..., Answer], *given: Any) -> Answer:
        """Do some work in one of them."""
        if self._most is not None and self._asked >= self._most:
            raise ApiError(429, "as much work of this kind waits as may; try again later", code="queue_full", wait=5)
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._do, work, given)
        finally:
            self._asked -= 1

    def stuck(self, seconds: float) -> bool:
        """Say whether each of them has been at one piece of work for longer than this."""
        begun = list(self._since.values())
        return len(begun) >= self._many and time.monotonic() - max(begun) > seconds

    @property
    def busy(self) -> bool:
        """Say whether work is under way."""
        return bool(self._since)

    def close(self, until: float) -> None:
        """Take nothing more, and wait for what is under way until that time; a thread cannot be ended from outside."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        while self._since and time.monotonic() < until:
            time.sleep(0.01)

    def _do(self, work: Callable[..., Answer], given: tuple[Any, ...]) -> Answer:
        mark = object()
        self._since[mark] = time.monotonic()
        try:
            return work(*given)
        finally:
            del self._since[mark]


class Batcher:
    """The way of documents through the model."""

    def __init__(self, engine: Embedder, limits: ServerLimits, metrics: Metrics) -> None:
        self.engine, self.metrics = engine, metrics
        settings = engine.settings
        self.queue = DocumentQueue(
            items=limits.queue_items,
            tokens=limits.queue_tokens,
            budget=engine.budget,
            most=settings.batch_size,
            pixels=limits.batch_pixels,
        )
        metrics.observe_queue(self.queue)
        self.preparers = WorkerThreads(max(1, settings.threads()), "look")
        self.run_in_thread = self.preparers.run
        self._since: float | None = None  # when the model began what it is at
        self._lane: SimpleQueue[Any] = SimpleQueue()
        self._slot = threading.Semaphore(1)
        self._threads = [threading.Thread(target=work, name=work.__name__, daemon=True) for work in (self._prepare_all, self._run_all)]
        self._begun = threading.Lock()

    async def run_in_model_thread(self, work: Callable[[], Answer]) -> Answer:
        """Do some work in the model's thread, between two batches."""
        self._begin()
        done: Future[Answer] = Future()
        self._lane.put((done, work))
        return await asyncio.wrap_future(done)

    async def embed(self, job: EmbedJob, tickets: list[QueuedDocument]) -> None:
        """Take a request's documents through the model; whatever ends this takes them out of the queue."""
        self._begin()
        self.queue.put(tickets)
        try:
            await asyncio.wrap_future(job.done)
        finally:
            self.metrics.count_dropped(self.queue.remove_job(job))

    @property
    def alive(self) -> bool:
        """Say whether the threads work, or have not been needed yet."""
        return all(thread.is_alive() or thread.ident is None for thread in self._threads)

    def stuck(self, seconds: float) -> bool:
        """Say whether the model has been at one batch, or at one question of another kind, for longer than this."""
        since = self._since
        return since is not None and time.monotonic() - since > seconds

    @property
    def busy(self) -> bool:
        """Say whether a thread is at work."""
        return self.preparers.busy or self._since is not None

    def close(self, until: float) -> None:
        """Do what is waiting, and end, at that time at the latest; called once no more comes."""
        self.queue.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=max(0.0, until - time.monotonic()))
        self.preparers.close(until)

    def _begin(self) -> None:
        with self._begun:
            for thread in self._threads:
                if thread.ident is None:
                    thread.start()

    def _prepare_all(self) -> None:
        """Prepare batch after batch, one ahead of the model."""
        while True:
            self._slot.acquire()
            batch = self.queue.take_batch()
            if batch is None:
                self._lane.put(None)
                return
            ask = batch[0].job.options
            try:
                prepared = self.engine.front.prepare(cast("list[EmbeddingItem]", batch), ask.prompt, ask.kwargs)
            except Exception as error:
                self._slot.release()
                _fail(batch, error)
                continue
            for ticket, trouble in cast("list[tuple[QueuedDocument, ContentError]]", prepared.failed):
                ticket.job.refuse(ticket.index, trouble)
            self._lane.put(prepared)

    def _run_all(self) -> None:
        """Run the model on batch after batch, and what else is asked of it."""
        while (work := self._lane.get()) is not None:
            self._since = time.monotonic()
            if isinstance(work, tuple) and isinstance(work[0], Future):
                _do(*work)
            else:
                self._slot.release()
                tickets = cast("list[QueuedDocument]", work.items)
                try:
                    if not all(ticket.job.over for ticket in tickets):
                        self._run(work, tickets)
                except Exception as error:
                    _fail(tickets, error)
            self._since = None

    def _run(self, prepared: PreparedBatch, tickets: list[QueuedDocument]) -> None:
        """Run the model on one batch and hand out its vectors."""
        start = time.perf_counter()
        ask = tickets[0].job.options
        counts = dict(zip(map(id, tickets), _tokens(prepared), strict=True))
        for items, vectors in forward(self.engine, prepared.items, prepared.features, prompt=ask.prompt, kwargs=ask.kwargs, dim=None):
            part, end = cast("list[QueuedDocument]", items), time.perf_counter()
            length = sum(ticket.length for ticket in part)
            self.queue.rate += 0.2 * (length / max(end - start, 1e-6) - self.queue.rate)
            # Counted before it is handed out: who has an answer finds it in the metrics.
            self.metrics.count_batch(rows=len(part), tokens=sum(counts[id(ticket)] for ticket in part), seconds=end - start)
            for ticket, vector, good in zip(part, vectors, finite(vectors), strict=True):
                if good:
                    ticket.job.answer(ticket.index, vector, counts[id(ticket)])
                else:
                    ticket.job.refuse(ticket.index, ContentError("the model gives numbers that are not finite", ticket.document.place))
            start = time.perf_counter()


def _tokens(prepared: PreparedBatch) -> list[int]:
    """Return the tokens of each row as the model gets it, or as they were counted before where it gets no mask."""
    mask = prepared.features.get("attention_mask")
    if mask is None or mask.shape[0] != len(prepared.items):
        return [round(item.length) for item in prepared.items]
    return [int(count) for count in mask.sum(1).tolist()]


def _fail(tickets: list[QueuedDocument], error: Exception) -> None:
    for ticket in tickets:
        ticket.job.fail(error)


def _do(done: Future[Any], work: Callable[[], Any]) -> None:
    """Do one piece of work for who waits for it, if anybody still does."""
    if not done.set_running_or_notify_cancel():
        return
    try:
        done.set_result(work())
    except Exception as error:
        done.set_exception(error)


# What waits for the model: documents of all requests, bounded in number and tokens, given out in batches of one kind
# and near length.
#
# The next batch is the one that holds the document which is due first. Of a request, the first document is due at
# once and each later one when the model would have done those before it, so a long request does not hold up short
# ones that come after it, and is not held up for ever. Batches are cut as bulk embedding cuts them, and by the pixels
# that lie decoded at a time. A request that is over takes its documents along.


class EncodeOptions(NamedTuple):
    """How documents are embedded; those of one batch agree in it."""

    prompt: str | None = None
    task: str | None = None

    @property
    def kwargs(self) -> dict[str, Any]:
        """What the model is called with."""
        return {} if self.task is None else {"task": self.task}


class EmbedJob:
    """The documents of one request, on their way through the model; `done` may be cancelled at any time.

    With `skip` a document that cannot be read has no vector; else it ends the request.
    """

    def __init__(self, ask: EncodeOptions, count: int, *, skip: bool = False) -> None:
        self.options, self.skip = ask, skip
        self.vectors: list[Any] = [None] * count
        self.tokens = [0] * count
        self.done: Future[None] = Future()
        self._left, self._lock = count, threading.Lock()

    @property
    def over(self) -> bool:
        """Say whether nobody waits for it any more."""
        return self.done.done()

    def answer(self, index: int, vector: Any, tokens: int) -> None:
        """Note the vector of one document."""
        self.vectors[index], self.tokens[index] = vector, tokens
        with self._lock:
            self._left -= 1
            ended = not self._left
        if ended:
            self._end(lambda: self.done.set_result(None))

    def refuse(self, index: int, error: ContentError) -> None:
        """Go on without one document, or end."""
        if self.skip:
            self.answer(index, None, 0)
        else:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        self._end(lambda: self.done.set_exception(error))

    def _end(self, end: Any) -> None:
        try:
            end()
        except InvalidStateError:
            return  # it was cancelled meanwhile, or has failed already


@dataclass(kw_only=True, eq=False)
class QueuedDocument(EmbeddingItem):
    """One document that waits."""

    job: EmbedJob
    index: int
    pixels: int = 0
    due: float = 0.0


class DocumentQueue:
    """A bounded queue that is emptied by batches."""

    def __init__(self, *, items: int, tokens: float, budget: float, most: int, pixels: int) -> None:
        self.bounds = (items, tokens)
        self.budget, self.most, self.pixels = budget, most, pixels
        self.rate = float(budget)  # tokens a second, as measured lately
        self.documents: list[QueuedDocument] = []
        self.tokens = 0.0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, tickets: list[QueuedDocument]) -> None:
        """Add the documents of one request, all of them or none; one alone is taken whatever its size."""
        with self._changed:
            if self._closed:
                raise ApiError(503, "the server is stopping", code="stopping", wait=5)
            items, tokens = self.bounds
            more = sum(ticket.length for ticket in tickets)
            if self.documents and (len(self.documents) + len(tickets) > items or self.tokens + more > tokens):
                raise self.full_error()
            ahead, now = 0.0, time.monotonic()
            for ticket in tickets:
                ticket.due = now + ahead / self.rate
                ahead += ticket.length
            self.documents += tickets
            self.tokens += more
            self._changed.notify()

    def full_error(self) -> ApiError:
        """Return the refusal of a full queue: worth another try when half of it is done."""
        wait = min(60.0, self.tokens / self.rate / 2)
        return ApiError(429, "the server has as much work waiting as it takes; try again later", code="queue_full", wait=wait)

    def take_batch(self) -> list[QueuedDocument] | None:
        """Wait for work and return the next batch; nothing, once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self.documents or self._closed)
            if not self.documents:
                return None
            lead = min(self.documents, key=lambda ticket: ticket.due)
            like = cast(
                "list[EmbeddingItem]", [one for one in self.documents if one.kind == lead.kind and one.job.options == lead.job.options]
            )
            cut = cast("list[list[QueuedDocument]]", list(batches(like, budget=self.budget, most=self.most)))
            batch = self._decodable(next(found for found in cut if any(one is lead for one in found)))
            self._remove({id(ticket) for ticket in batch})
            return batch

    def remove_job(self, job: EmbedJob) -> int:
        """Take out what is left of a request and return how many documents that was."""
        with self._changed:
            gone = {id(ticket) for ticket in self.documents if ticket.job is job}
            self._remove(gone)
        return len(gone)

    def close(self) -> None:
        """Take nothing more; what waits is still given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _decodable(self, batch: list[QueuedDocument]) -> list[QueuedDocument]:
        """Leave the last due of a batch waiting where its pictures would be too many to hold."""
        kept: list[QueuedDocument] = []
        held = 0
        for ticket in sorted(batch, key=lambda ticket: ticket.due):
            if not kept or held + ticket.pixels <= self.pixels:
                kept.append(ticket)
                held += ticket.pixels
        return kept

    def _remove(self, gone: set[int]) -> None:
        self.documents = [ticket for ticket in self.documents if id(ticket) not in gone]
        self.tokens = sum(ticket.length for ticket in self.documents)


# What Prometheus reads at `/metrics`; each application has a registry of its own.

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._queues: list[DocumentQueue] = []
        kept: dict[str, Any] = {"registry": self.registry, "namespace": "twoway"}
        ProcessCollector(registry=self.registry)
        self.requests = Counter("requests", "Requests answered", ("route", "status"), **kept)
        self.seconds = Histogram("request_seconds", "Time to the end of the answer", ("route",), buckets=_SECONDS, **kept)
        self.running = Gauge("requests_running", "Requests being answered", **kept)
        self.items = Gauge("queue_documents", "Documents that wait for the model", **kept)
        self.tokens = Gauge("queue_tokens", "Their tokens", **kept)
        self.gone = Counter("documents_left_queue", "Documents whose request ended before the model came to them", **kept)
        self.rows = Histogram("batch_documents", "Documents of a batch", buckets=_ROWS, **kept)
        self.worked = Counter("model_seconds", "Time the model worked", **kept)
        self.embedded = Counter("documents", "Documents embedded", **kept)
        self.embedded_tokens = Counter("tokens", "Their tokens", **kept)

    def observe_queue(self, waiting: DocumentQueue) -> None:
        """Show a queue, beside those that are shown already."""
        self._queues.append(waiting)
        self.items.set_function(lambda: sum(len(one.documents) for one in self._queues))
        self.tokens.set_function(lambda: sum(one.tokens for one in self._queues))

    def count_dropped(self, documents: int) -> None:
        """Count documents that were not waited for."""
        self.gone.inc(documents)

    def count_batch(self, *, rows: int, tokens: int, seconds: float) -> None:
        """Count one batch."""
        self.rows.observe(rows)
        self.worked.inc(seconds)
        self.embedded.inc(rows)
        self.embedded_tokens.inc(tokens)

    def text(self) -> bytes:
        """Return all in Prometheus' text form."""
        written: bytes = generate_latest(self.registry)
        return written


class MetricsMiddleware:
    """Counts what passes through an application; routes by their pattern, so that no asker makes new names.

    By hand, because the counters of the queue and the model stand in the same registry, whose names dashboards have; an instrumentator of
    FastAPI would be a dependency for these lines.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.metrics.running.inc()
        try:
            await self.app(scope, receive, note)
        finally:
            self.metrics.running.dec()
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)
