"""What every route works with: the model and its queue, the index, the limits, who may ask."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends, Request

from .. import images
from ..content import ContentError, Document, Text
from ..embedding import Embedder
from ..embedding.batches import Item
from ..embedding.precision import cut
from ..embedding.prompts import prompt_of
from ..embedding.steps import look
from ..errors import TwowayError, did_you_mean
from .access import Access
from .batcher import Batcher, Threads
from .contents import Contents, pixels
from .errors import ApiError
from .limits import Limits
from .metrics import Metrics
from .receiving import Receiver
from .waiting import Ask, Job, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..embedding.prompts import Side
    from ..search.store import Store

Answer = TypeVar("Answer")
_READERS = 4  # threads that ask the index
_END = 10.0  # seconds that what is under way gets where nobody says how many


class Service:
    """One model behind HTTP, and an index where there is one."""

    def __init__(
        self, engine: Embedder, store: Store | None, limits: Limits, access: Access, *, name: str | None = None, read_only: bool = False
    ) -> None:
        # The engine as it is, with the server's bounds on pictures.
        self.engine = Embedder(
            engine.sentence, name=engine.name, settings=replace(engine.settings, limits=images.Limits(max_pixels=limits.pixels))
        )
        self.limits, self.access, self.store, self.read_only = limits, access, store, read_only
        self.name = name or Path(engine.name).name or "model"
        self.metrics = Metrics()
        self.batcher = Batcher(self.engine, limits, self.metrics)
        self.receiver = Receiver(limits)
        self.on_model, self.beside = self.batcher.on_model, self.batcher.beside
        self.cut_off = False  # whether answers were
        self.until: float | None = None  # when it has to have ended, by the clock that only goes forward
        self._frame = lru_cache(maxsize=64)(self._measure_frame)
        # An index takes one change at a time, and changes that wait for each other must not keep those who only ask.
        self.readers, self.writer = Threads(_READERS, "index"), Threads(1, "index-change")
        self.pages = Threads(1, "page", most=limits.pages)
        if store is not None:
            store.seconds = limits.search_seconds

    def contents(self) -> Contents:
        """Return what makes the documents of one request."""
        return Contents(self.limits)

    def ask(self, *, side: Side | None = None, instruction: str | None = None, prompt_name: str | None = None) -> Ask:
        """Return how documents are to be embedded; the prompts are those of sentence-transformers."""
        if instruction is not None and len(instruction) > self.limits.instruction:
            message = f"an instruction of {len(instruction):,} characters; at most {self.limits.instruction:,} are taken"
            raise ApiError(400, message, code="too_long", param="instruction")
        return Ask(prompt_of(self.engine.sentence, side=side, instruction=instruction, prompt_name=prompt_name), side)

    async def embed(self, documents: Sequence[Document], ask: Ask, *, truncate: bool = False) -> Job:
        """Take documents through the model, whole or not at all; the job has the vectors."""
        if self.stopping:
            raise ApiError(503, "the server is stopping", code="stopping", wait=5)
        job = Job(ask, len(documents))
        await self.batcher.through(job, await self.beside(lambda: self._tickets(documents, job, truncate)))
        return job

    async def query(self, document: Document) -> Any:
        """Return the vector of a query, as long as those of the index."""
        job = await self.embed([document], self.ask(side="query"), truncate=True)
        return cut(job.vectors[0][None], self.index().dimension, normal=True)[0]

    def require_model(self, name: str | None) -> None:
        """Refuse to stand in for another model."""
        if name is not None and name not in (self.name, self.engine.name):
            near = did_you_mean(name, [self.name])
            raise ApiError(
                404, f"there is no model {name[:200]!r} here{near} (there is: {self.name})", code="model_not_found", param="model"
            )

    def index(self) -> Store:
        """Return the index, or say that there is none."""
        if self.store is None:
            raise ApiError(404, "this server has no index; start it with --db PATH ('twoway index' makes one)", code="no_index")
        return self.store

    async def indexed(self, work: Callable[[Store], Answer], *, change: bool = False) -> Answer:
        """Ask or change the index, in a thread beside; the answer names no folder of this machine."""
        store = self.index()
        try:
            return await (self.writer if change else self.readers).do(work, store)
        except ContentError:
            raise
        except TwowayError as error:
            raise type(error)(_unnamed(str(error), str(store.location))) from error

    def trouble(self) -> str | None:
        """Say why nothing can be answered just now; nothing where something can."""
        if not self.batcher.alive:
            return "the model's thread has ended; start the server again"
        if self.batcher.stuck(self.limits.seconds):
            return "the model has been at one batch for longer than a request may take"
        for threads, what in ((self.batcher.look, "look at requests"), (self.readers, "ask the index")):
            if threads.stuck(self.limits.stuck_seconds):
                return f"all threads that {what} have been at one piece of work each for {self.limits.stuck_seconds:g} seconds"
        return None

    @property
    def stopping(self) -> bool:
        """Say whether new work is refused."""
        return self.receiver.stopping

    @stopping.setter
    def stopping(self, stopping: bool) -> None:
        self.receiver.stopping = stopping

    @property
    def busy(self) -> bool:
        """Say whether a thread is at work."""
        return self.batcher.busy or any(threads.busy for threads in (self.readers, self.writer, self.pages))

    def close(self) -> None:
        """End; called once no request is being answered, or the time for that is over."""
        until = time.monotonic() + _END if self.until is None else self.until
        self.batcher.close(until)
        for threads in (self.readers, self.writer, self.pages):
            threads.close(until)

    def _tickets(self, documents: Sequence[Document], job: Job, truncate: bool) -> list[Ticket]:
        """Look at documents and make them ready to wait."""
        found = []
        total = 0.0
        longest = self.engine.lengths.longest or float("inf")
        frame = self._frame(job.ask)
        for index, item in enumerate(look(self.engine, documents)):
            if isinstance(item, ContentError):
                raise item
            # A prompt counts like any other words, or a long one before many short texts would make a batch of any size.
            length = item.length + frame
            if length > longest and not truncate:  # what the model would cut, because the asker would not know
                message = f"{item.document.place}: it has more than the {longest:,} tokens that the model reads"
                raise ApiError(400, f'{message}; make it shorter, or send "truncate": true', code="context_length_exceeded")
            total += min(length, longest)
            if total > self.limits.queue_tokens:
                message = f"the request has more than {self.limits.queue_tokens:,} tokens, its prompts included; send less at a time"
                raise ApiError(400, message, code="too_long")
            held = pixels(item.document, self.limits)
            found.append(Ticket(item.document, item.key, item.kind, min(length, longest), job=job, index=index, pixels=held))
        return found

    def _measure_frame(self, ask: Ask) -> float:
        """Return how many tokens template and prompt add to a document."""
        item = look(self.engine, [Document((Text("a"),))])[0]
        if not isinstance(item, Item):
            return 0.0
        mask = self.engine.front.prepare([item], ask.prompt, ask.kwargs).features.get("attention_mask")
        return 0.0 if mask is None else float(mask.sum()) - item.length


def _unnamed(said: str, location: str) -> str:
    """Take the index's place out of what an engine says, as it was given and as a whole path; words that it is a part of stay.

    Engines write whole paths without their first slash, too.
    """
    whole = str(Path(location).resolve())
    for name in (f"file://{whole}", whole, location, whole.removeprefix("/")):
        said = re.sub(rf"(?<![\w/.-]){re.escape(name)}(?![\w-])", "the index", said)
    return said


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _allowed(request: Request) -> Service:
    service = _service(request)
    service.access.check(request)
    return service


Here = Annotated[Service, Depends(_service)]
Allowed = Annotated[Service, Depends(_allowed)]
