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
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..content import ContentError
from ..embedding.steps import finite, forward
from .errors import ApiError
from .waiting import Ticket, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..embedding import Embedder
    from ..embedding.batches import Item
    from ..embedding.prepare import Prepared
    from .limits import Limits
    from .metrics import Metrics
    from .waiting import Job

_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Threads:
    """Threads for one kind of work, which is known to be under way, so that a server can say that none of them is free."""

    def __init__(self, many: int, name: str, *, most: int | None = None) -> None:
        """Begin `many` threads; `most` bounds the work that is under way and waits for that, and what is more is refused."""
        self._many, self._pool = many, ThreadPoolExecutor(many, thread_name_prefix=name)
        self._most, self._asked = most, 0
        self._since: dict[object, float] = {}

    async def do(self, work: Callable[..., Answer], *given: Any) -> Answer:
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

    def __init__(self, engine: Embedder, limits: Limits, metrics: Metrics) -> None:
        self.engine, self.metrics = engine, metrics
        settings = engine.settings
        self.waiting = Waiting(
            items=limits.queue_items,
            tokens=limits.queue_tokens,
            budget=settings.budget,
            most=settings.most,
            pixels=limits.batch_pixels,
        )
        metrics.watch(self.waiting)
        self.look = Threads(max(1, settings.threads()), "look")
        self.beside = self.look.do
        self._since: float | None = None  # when the model began what it is at
        self._lane: SimpleQueue[Any] = SimpleQueue()
        self._slot = threading.Semaphore(1)
        self._threads = [threading.Thread(target=work, name=work.__name__, daemon=True) for work in (self._prepare_all, self._run_all)]
        self._begun = threading.Lock()

    async def on_model(self, work: Callable[[], Answer]) -> Answer:
        """Do some work in the model's thread, between two batches."""
        self._begin()
        done: Future[Answer] = Future()
        self._lane.put((done, work))
        return await asyncio.wrap_future(done)

    async def through(self, job: Job, tickets: list[Ticket]) -> None:
        """Take a request's documents through the model; whatever ends this takes them out of the queue."""
        self._begin()
        self.waiting.put(tickets)
        try:
            await asyncio.wrap_future(job.done)
        finally:
            self.metrics.left(self.waiting.leave(job))

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
        return self.look.busy or self._since is not None

    def close(self, until: float) -> None:
        """Do what is waiting, and end, at that time at the latest; called once no more comes."""
        self.waiting.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=max(0.0, until - time.monotonic()))
        self.look.close(until)

    def _begin(self) -> None:
        with self._begun:
            for thread in self._threads:
                if thread.ident is None:
                    thread.start()

    def _prepare_all(self) -> None:
        """Prepare batch after batch, one ahead of the model."""
        while True:
            self._slot.acquire()
            batch = self.waiting.take()
            if batch is None:
                self._lane.put(None)
                return
            ask = batch[0].job.ask
            try:
                prepared = self.engine.front.prepare(cast("list[Item]", batch), ask.prompt, ask.kwargs)
            except Exception as error:
                self._slot.release()
                _fail(batch, error)
                continue
            for ticket, trouble in cast("list[tuple[Ticket, ContentError]]", prepared.failed):
                ticket.job.fail(trouble)
            self._lane.put(prepared)

    def _run_all(self) -> None:
        """Run the model on batch after batch, and what else is asked of it."""
        while (work := self._lane.get()) is not None:
            self._since = time.monotonic()
            if isinstance(work, tuple) and isinstance(work[0], Future):
                _do(*work)
            else:
                self._slot.release()
                tickets = cast("list[Ticket]", work.items)
                try:
                    if not all(ticket.job.over for ticket in tickets):
                        self._run(work, tickets)
                except Exception as error:
                    _fail(tickets, error)
            self._since = None

    def _run(self, prepared: Prepared, tickets: list[Ticket]) -> None:
        """Run the model on one batch and hand out its vectors."""
        start = time.perf_counter()
        ask = tickets[0].job.ask
        counts = dict(zip(map(id, tickets), _tokens(prepared), strict=True))
        for items, vectors in forward(self.engine, prepared.items, prepared.features, prompt=ask.prompt, kwargs=ask.kwargs, dim=None):
            part, end = cast("list[Ticket]", items), time.perf_counter()
            length = sum(ticket.length for ticket in part)
            self.waiting.rate += 0.2 * (length / max(end - start, 1e-6) - self.waiting.rate)
            # Counted before it is handed out: who has an answer finds it in the metrics.
            self.metrics.batch(rows=len(part), tokens=sum(counts[id(ticket)] for ticket in part), seconds=end - start)
            for ticket, vector, good in zip(part, vectors, finite(vectors), strict=True):
                if good:
                    ticket.job.answer(ticket.index, vector, counts[id(ticket)])
                else:
                    ticket.job.fail(ContentError("the model gives numbers that are not finite", ticket.document.place))
            start = time.perf_counter()


def _tokens(prepared: Prepared) -> list[int]:
    """Return the tokens of each row as the model gets it, or as they were counted before where it gets no mask."""
    mask = prepared.features.get("attention_mask")
    if mask is None or mask.shape[0] != len(prepared.items):
        return [round(item.length) for item in prepared.items]
    return [int(count) for count in mask.sum(1).tolist()]


def _fail(tickets: list[Ticket], error: Exception) -> None:
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
