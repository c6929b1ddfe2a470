"""What waits for the model: documents of all requests, bounded in number and tokens, given out in batches of one kind and near length.

The next batch is the one that holds the document which is due first. Of a request, the first document is due at once and each later one
when the model would have done those before it, so a long request does not hold up short ones that come after it, and is not held up for
ever. Batches are cut as bulk embedding cuts them, and by the pixels that lie decoded at a time. A request that is over takes its
documents along.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from ..embedding.batches import Item, batches
from .errors import ApiError


class Ask(NamedTuple):
    """How documents are embedded; those of one batch agree in it."""

    prompt: str | None = None
    task: str | None = None

    @property
    def kwargs(self) -> dict[str, Any]:
        """What the model is called with."""
        return {} if self.task is None else {"task": self.task}


class Job:
    """The documents of one request, on their way through the model; `done` may be cancelled at any time."""

    def __init__(self, ask: Ask, count: int) -> None:
        self.ask = ask
        self.vectors: list[Any] = [None] * count
        self.tokens = [0] * count
        self.done: Future[None] = Future()
        self._left = count

    @property
    def over(self) -> bool:
        """Say whether nobody waits for it any more."""
        return self.done.done()

    def answer(self, index: int, vector: Any, tokens: int) -> None:
        """Note the vector of one document; called by the model's thread alone."""
        self.vectors[index], self.tokens[index] = vector, tokens
        self._left -= 1
        if not self._left:
            self._end(lambda: self.done.set_result(None))

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        self._end(lambda: self.done.set_exception(error))

    def _end(self, end: Any) -> None:
        try:
            end()
        except InvalidStateError:
            return  # it was cancelled meanwhile, or has failed already


@dataclass(kw_only=True, eq=False)
class Ticket(Item):
    """One document that waits."""

    job: Job
    index: int
    pixels: int = 0
    due: float = 0.0


class Waiting:
    """A bounded queue that is emptied by batches."""

    def __init__(self, *, items: int, tokens: float, budget: float, most: int, pixels: int) -> None:
        self.bounds = (items, tokens)
        self.budget, self.most, self.pixels = budget, most, pixels
        self.rate = float(budget)  # tokens a second, as measured lately
        self.tickets: list[Ticket] = []
        self.tokens = 0.0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, tickets: list[Ticket]) -> None:
        """Add the documents of one request, all of them or none; one alone is taken whatever its size."""
        with self._changed:
            if self._closed:
                raise ApiError(503, "the server is stopping", code="stopping", wait=5)
            items, tokens = self.bounds
            more = sum(ticket.length for ticket in tickets)
            if self.tickets and (len(self.tickets) + len(tickets) > items or self.tokens + more > tokens):
                raise self.full()
            ahead, now = 0.0, time.monotonic()
            for ticket in tickets:
                ticket.due = now + ahead / self.rate
                ahead += ticket.length
            self.tickets += tickets
            self.tokens += more
            self._changed.notify()

    def full(self) -> ApiError:
        """Return the refusal of a full queue: worth another try when half of it is done."""
        wait = min(60.0, self.tokens / self.rate / 2)
        return ApiError(429, "the server has as much work waiting as it takes; try again later", code="queue_full", wait=wait)

    def take(self) -> list[Ticket] | None:
        """Wait for work and return the next batch; nothing, once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self.tickets or self._closed)
            if not self.tickets:
                return None
            lead = min(self.tickets, key=lambda ticket: ticket.due)
            like = cast("list[Item]", [one for one in self.tickets if one.kind == lead.kind and one.job.ask == lead.job.ask])
            cut = cast("list[list[Ticket]]", list(batches(like, budget=self.budget, most=self.most)))
            batch = self._decodable(next(found for found in cut if any(one is lead for one in found)))
            self._remove({id(ticket) for ticket in batch})
            return batch

    def leave(self, job: Job) -> int:
        """Take out what is left of a request and return how many documents that was."""
        with self._changed:
            gone = {id(ticket) for ticket in self.tickets if ticket.job is job}
            self._remove(gone)
        return len(gone)

    def close(self) -> None:
        """Take nothing more; what waits is still given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _decodable(self, batch: list[Ticket]) -> list[Ticket]:
        """Leave the last due of a batch waiting where its pictures would be too many to hold."""
        kept: list[Ticket] = []
        held = 0
        for ticket in sorted(batch, key=lambda ticket: ticket.due):
            if not kept or held + ticket.pixels <= self.pixels:
                kept.append(ticket)
                held += ticket.pixels
        return kept

    def _remove(self, gone: set[int]) -> None:
        self.tickets = [ticket for ticket in self.tickets if id(ticket) not in gone]
        self.tokens = sum(ticket.length for ticket in self.tickets)
