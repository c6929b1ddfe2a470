"""What every route works with: the model and its queue, the index, the limits, who may ask.

Bodies are counted and timed here because neither Starlette nor uvicorn bounds them: a proxy can, but a server on a desk has none, and no
proxy knows what all bodies in memory hold together.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import re
import secrets
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends
from fastapi import Request as FastapiRequest
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from twoway.content import CandidatePair, ContentError, Document, Text
from twoway.embedding import Embedder
from twoway.embedding.embedder import make_items
from twoway.embedding.inputs import EmbeddingItem, prompt_of
from twoway.embedding.shards import cut
from twoway.errors import TwowayError, UsageError, did_you_mean
from twoway.search.store import normalized

from .batching import Batcher, EmbedJob, EncodeOptions, Metrics, QueuedDocument, WorkerThreads
from .schemas import ApiError, DocumentBuilder, ServerLimits, decoded_pixels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence

    from starlette.requests import Request

    from twoway.embedding.config import Side
    from twoway.embedding.reranker import Reranker
    from twoway.search.store import Store


# Who may ask. With keys, whoever brings one; without, whoever reaches the address, which is this machine's own unless
# told otherwise.
#
# A page of another site that its name's owner has pointed at this machine could pass for a page of ours (DNS
# rebinding); so a server without keys at a local address answers to local names alone.

KEYS_VARIABLE = "TWOWAY_API_KEYS"
LOCAL = ("localhost", "127.0.0.1", "::1")
_SHORTEST = 16
_SIGNED = 6 * 3600  # seconds that a signed address opens


@dataclass(frozen=True)
class Access:
    """The keys that open, by their hashes, and the names this server answers to; none of either: all."""

    keys: tuple[bytes, ...] = ()
    hosts: tuple[str, ...] = ()
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)  # of signatures, of this process alone

    @classmethod
    def of(cls, keys: tuple[str, ...] = (), hosts: tuple[str, ...] = ()) -> Access:
        """Take keys as they are written, and names of hosts in any letters: browsers ask in small ones."""
        return cls(tuple(_hash(key) for key in keys), tuple(host.lower() for host in hosts))

    def check(self, request: Request) -> None:
        """Refuse a request that may not ask."""
        if self.hosts and _host(request) not in self.hosts:
            raise ApiError(403, "this server answers to local names alone; see --allow-host", code="wrong_host")
        if not self.keys or self._is_signed(request):
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = _hash(key.strip())
        # Every key is compared, each in constant time, so that the time says nothing of how near a guess is.
        found = [hmac.compare_digest(given, known) for known in self.keys]
        if scheme.lower() != "bearer" or not any(found):
            raise ApiError(401, "a valid API key is needed, as 'Authorization: Bearer KEY'", code="invalid_api_key")

    def sign(self, path: str) -> str:
        """Return an address that opens for some hours without a key: an element of a page that plays a file sends none."""
        until = str(int(time.time()) + _SIGNED)
        return f"{path}?until={until}&signature={self._signature(path, until)}" if self.keys else path

    def _is_signed(self, request: Request) -> bool:
        until, given = (request.query_params.get(name, "") for name in ("until", "signature"))
        if request.method != "GET":  # the same address may be that of another item, to delete
            return False
        if not (until.isascii() and until.isdecimal() and len(until) < 20 and given.isascii()):
            return False
        wanted = self._signature(request.scope.get("raw_path", b"").decode("latin-1"), until)
        return hmac.compare_digest(given, wanted) and time.time() < int(until)

    def _signature(self, path: str, until: str) -> str:
        return hmac.new(self.secret, f"{until} {path}".encode(), hashlib.sha256).hexdigest()


def read_keys(path: str | Path | None, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the keys of a file, one a line, and those of the environment."""
    try:
        lines = [] if path is None else Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the keys in {path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    given = [line.strip() for line in [*lines, *environment.get(KEYS_VARIABLE, "").replace(",", "\n").splitlines()]]
    keys = tuple(key for key in given if key and not key.startswith("#"))
    if path is not None and not any(line.strip() and not line.strip().startswith("#") for line in lines):
        raise UsageError(f"{path} holds no keys; write one a line")
    for key in keys:
        if len(key) < _SHORTEST or not key.isascii() or " " in key:
            raise UsageError(f"an API key has at least {_SHORTEST} characters, ASCII and no spaces; one of those given has not")
    return keys


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host(request: Request) -> str | None:
    """Return the name that was asked, without its port."""
    said = request.headers.get("host", "").lower()
    if said.startswith("["):
        name, bracket, _ = said[1:].partition("]")
        return name if bracket else None
    return said.partition(":")[0]


# A request from its first byte to its answer: the body is counted while it is read, time is bounded, and an asker may
# leave.
#
# A body that is too large or too slow ends the connection, since the rest of it would have to be read to no purpose.
# All bodies together are bounded, too, and held until their answers are made.

_LEFT = 499  # what nginx notes for an asker that went away; nobody sees it but the counters


class RequestReader:
    """Reads requests for one server."""

    def __init__(self, limits: ServerLimits) -> None:
        self.limits = limits
        self.held_bytes = 0  # bytes of all bodies in memory
        self.running = 0  # pieces of work of requests that are being answered
        self.stopping = False

    async def respond(self, request: Request, work: Callable[[bytearray], Coroutine[Any, Any, Response]]) -> Response:
        """Read a JSON body and answer with what `work` makes of it, in time, while the asker is there."""
        _require_json(request)
        try:
            if self.stopping:  # not counted: refusals without an end would keep the server from ending
                async with self._body(request):
                    raise ApiError(503, "the server is stopping", code="stopping", wait=5)
            with self._counted():
                async with self._body(request) as body:
                    return await self.with_timeout(_until_disconnect(request, work(body)))
        except ClientDisconnect:
            return Response(status_code=_LEFT)

    async def with_timeout(self, work: Awaitable[Answer]) -> Answer:
        """Wait for a piece of work as long as a request may take."""
        with self._counted():
            return await self._bounded(work)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count work that a server which stops waits for."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def _bounded(self, work: Awaitable[Answer]) -> Answer:
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await work
        except TimeoutError as error:
            message = f"the answer was not ready in {self.limits.seconds:g} seconds; send less at a time, or later"
            raise ApiError(504, message, code="timeout", wait=self.limits.seconds / 4) from error

    @asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytearray]:
        """Read the body; its bytes count until the block ends, and then they are gone.

        Work that was dropped may wait for a thread yet, and holds on to the body: an asker that sends and leaves would fill the memory.
        """
        body = bytearray()
        try:
            await self._read(request, body)
            yield body
        finally:
            self.held_bytes -= len(body)
            with suppress(BufferError):  # a thread is reading it at this moment, and lets go of it by itself
                body.clear()

    async def _read(self, request: Request, body: bytearray) -> None:
        said = request.headers.get("content-length", "")
        self._check(int(said) if said.isdecimal() else 0)
        try:
            async with asyncio.timeout(self.limits.upload_seconds):
                async for chunk in request.stream():
                    body += chunk
                    self.held_bytes += len(chunk)
                    self._check(len(body))
                    if self.held_bytes > self.limits.bodies_bytes:
                        raise ApiError(429, "the server holds as much as it takes; try again later", code="busy", wait=2, close=True)
        except TimeoutError as error:
            raise ApiError(408, f"the body did not come in {self.limits.upload_seconds:g} seconds", code="slow", close=True) from error

    def _check(self, length: int) -> None:
        if length > self.limits.body_bytes:
            message = f"the body has more than {self.limits.body_bytes:,} bytes"
            raise ApiError(413, message, code="body_too_large", close=True)


def _require_json(request: Request) -> None:
    """Take JSON alone; it also keeps pages of other sites from posting, because a browser asks before it sends JSON elsewhere."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"the body must be JSON with 'Content-Type: application/json', not {kind[:80]!r}", code="no_json", close=True)


async def _until_disconnect(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Do some work, or drop it as soon as the asker is gone."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return Response(status_code=_LEFT)
        return task.result()
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(request: Request) -> None:
    """Wait until the connection ends; the body is read, so nothing else comes."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


Answer = TypeVar("Answer")
Engine = TypeVar("Engine", bound=Embedder)
_READERS = 4  # threads that ask the index
_END = 10.0  # seconds that what is under way gets where nobody says how many


class Service:
    """One model behind HTTP, and an index where there is one."""

    def __init__(
        self,
        engine: Embedder,
        store: Store | None,
        limits: ServerLimits,
        access: Access,
        *,
        name: str | None = None,
        read_only: bool = False,
        reranker: Reranker | None = None,
    ) -> None:
        # The engine as it is, with the server's bounds on pictures.
        self.engine = _within(engine, limits)
        self.limits, self.access, self.store, self.read_only = limits, access, store, read_only
        self.name = name or Path(engine.name).name or "model"
        self.reranker_name = "" if reranker is None else Path(reranker.name).name or "reranker"
        self.metrics = Metrics()
        self.batcher = Batcher(self.engine, limits, self.metrics)
        self.reranker = None if reranker is None else _within(reranker, limits)
        self.pair_batcher = None if self.reranker is None else Batcher(self.reranker, limits, self.metrics)
        self.reader = RequestReader(limits)
        self.run_in_model_thread, self.run_in_thread = self.batcher.run_in_model_thread, self.batcher.run_in_thread
        self.cut_off = False  # whether answers were
        self.deadline: float | None = None  # when it has to have ended, by the clock that only goes forward
        self._frame = lru_cache(maxsize=64)(self._measure_frame)
        # An index takes one change at a time, and changes that wait for each other must not keep those who only ask.
        self.readers, self.writer = WorkerThreads(_READERS, "index"), WorkerThreads(1, "index-change")
        self.pages = WorkerThreads(1, "page", most=limits.pages)
        self.playable: set[tuple[object, ...]] = set()  # files that were looked at before they are played, as they are now
        if store is not None:
            store.seconds = limits.search_seconds

    def document_builder(self) -> DocumentBuilder:
        """Return what makes the documents of one request."""
        return DocumentBuilder(self.limits)

    def encode_options(self, *, side: Side | None = None, prompt: str | None = None, prompt_name: str | None = None) -> EncodeOptions:
        """Return how documents are to be embedded; the prompts are those of sentence-transformers."""
        if prompt is not None and len(prompt) > self.limits.prompt:
            message = f"a prompt of {len(prompt):,} characters; at most {self.limits.prompt:,} are taken"
            raise ApiError(400, message, code="too_long", param="prompt")
        return EncodeOptions(prompt_of(self.engine.sentence, side=side, prompt=prompt, prompt_name=prompt_name), side)

    async def embed(self, documents: Sequence[Document], ask: EncodeOptions, *, truncate: bool = False) -> EmbedJob:
        """Take documents through the model, whole or not at all; the job has the vectors."""
        return await self._through(self.batcher, documents, ask, truncate=truncate)

    async def _through(
        self, batcher: Batcher, documents: Sequence[Document], ask: EncodeOptions, *, truncate: bool, skip: bool = False
    ) -> EmbedJob:
        if self.stopping:
            raise ApiError(503, "the server is stopping", code="stopping", wait=5)
        job = EmbedJob(ask, len(documents), skip=skip)
        await batcher.embed(job, await self.run_in_thread(lambda: self._tickets(batcher.engine, documents, job, truncate)))
        return job

    async def relevance(
        self, query: Document, candidates: Sequence[Document], *, prompt: str | None = None, skip: bool = False
    ) -> tuple[list[float | None], int]:
        """Return how well each candidate answers a query, and how many tokens were read; with `skip` one that is broken has no score."""
        reranker, batcher = self.require_reranker(), self.pair_batcher
        assert batcher is not None
        if prompt is not None and len(prompt) > self.limits.prompt:
            message = f"a prompt of {len(prompt):,} characters; at most {self.limits.prompt:,} are taken"
            raise ApiError(400, message, code="too_long", param="prompt")
        ask = EncodeOptions(prompt_of(reranker.sentence, prompt=prompt))
        job = await self._through(batcher, [CandidatePair.of(query, one) for one in candidates], ask, truncate=True, skip=skip)
        return [None if vector is None else reranker.relevance(float(vector[0])) for vector in job.vectors], sum(job.tokens)

    def require_reranker(self) -> Reranker:
        """Return the reranker, or say that there is none."""
        if self.reranker is None:
            raise ApiError(
                404, "this server has no reranker; start it with --rerank MODEL ('twoway rerank' trains one)", code="no_reranker"
            )
        return self.reranker

    async def query(self, document: Document) -> Any:
        """Return the vector of a query as the index has it, or its many."""
        job = await self.embed([document], self.encode_options(side="query"), truncate=True)
        return self.stored(job.vectors[0])

    def stored(self, vector: Any) -> Any:
        """Return a vector as long as those of the index; many are as the model makes them."""
        if self.engine.late_interaction:
            return normalized(vector)
        return cut(vector[None], self.require_index().dimension, normal=True)[0]

    def require_model(self, name: str | None) -> None:
        """Refuse to stand in for another model."""
        if name is not None and name not in (self.name, self.engine.name):
            near = did_you_mean(name, [self.name])
            raise ApiError(
                404, f"there is no model {name[:200]!r} here{near} (there is: {self.name})", code="model_not_found", param="model"
            )

    def require_index(self) -> Store:
        """Return the index, or say that there is none."""
        if self.store is None:
            raise ApiError(404, "this server has no index; start it with --index PATH ('twoway index' makes one)", code="no_index")
        return self.store

    async def run_on_index(self, work: Callable[[Store], Answer], *, change: bool = False) -> Answer:
        """Ask or change the index, in a thread beside; the answer names no folder of this machine."""
        store = self.require_index()
        try:
            return await (self.writer if change else self.readers).run(work, store)
        except ContentError:
            raise
        except TwowayError as error:
            raise type(error)(_unnamed(str(error), str(store.location))) from error

    def failure(self) -> str | None:
        """Say why nothing can be answered just now; nothing where something can."""
        if not all(one.alive for one in self._batchers):
            return "the model's thread has ended; start the server again"
        if any(one.stuck(self.limits.seconds) for one in self._batchers):
            return "the model has been at one batch for longer than a request may take"
        for threads, what in ((self.batcher.preparers, "look at requests"), (self.readers, "ask the index")):
            if threads.stuck(self.limits.stuck_seconds):
                return f"all threads that {what} have been at one piece of work each for {self.limits.stuck_seconds:g} seconds"
        return None

    @property
    def stopping(self) -> bool:
        """Say whether new work is refused."""
        return self.reader.stopping

    @stopping.setter
    def stopping(self, stopping: bool) -> None:
        self.reader.stopping = stopping

    @property
    def busy(self) -> bool:
        """Say whether a thread is at work."""
        return any(one.busy for one in self._batchers) or any(threads.busy for threads in (self.readers, self.writer, self.pages))

    def close(self) -> None:
        """End; called once no request is being answered, or the time for that is over."""
        until = time.monotonic() + _END if self.deadline is None else self.deadline
        for batcher in self._batchers:
            batcher.close(until)
        for threads in (self.readers, self.writer, self.pages):
            threads.close(until)

    @property
    def _batchers(self) -> list[Batcher]:
        return [self.batcher] if self.pair_batcher is None else [self.batcher, self.pair_batcher]

    def _tickets(self, engine: Embedder, documents: Sequence[Document], job: EmbedJob, truncate: bool) -> list[QueuedDocument]:
        """Look at documents and make them ready to wait."""
        found = []
        total = 0.0
        longest = engine.lengths.longest or float("inf")
        most = min(self.limits.queue_tokens, self.limits.vectors) if engine.late_interaction else self.limits.queue_tokens
        frame = self._frame(engine, job.options)
        for index, item in enumerate(make_items(engine, documents)):
            if isinstance(item, ContentError):
                if not job.skip:
                    raise item
                job.refuse(index, item)
                continue
            # A prompt counts like any other words, or a long one before many short texts would make a batch of any size.
            length = item.length + frame
            if length > longest and not truncate:  # what the model would cut, because the asker would not know
                message = f"{item.document.place}: it has more than the {longest:,} tokens that the model reads"
                raise ApiError(400, f'{message}; make it shorter, or send "truncate": true', code="context_length_exceeded")
            total += min(length, longest)
            if total > most:
                message = f"the request has more than {most:,} tokens, its prompts included; send less at a time"
                raise ApiError(400, message, code="too_long")
            held = decoded_pixels(item.document, self.limits)
            found.append(QueuedDocument(item.document, item.key, item.kind, min(length, longest), job=job, index=index, pixels=held))
        return found

    def _measure_frame(self, engine: Embedder, ask: EncodeOptions) -> float:
        """Return how many tokens template and prompt add to a document."""
        letter = Document((Text("a"),))
        item = make_items(engine, [CandidatePair.of(letter, letter) if engine is self.reranker else letter])[0]
        if not isinstance(item, EmbeddingItem):
            return 0.0
        mask = engine.front.prepare([item], ask.prompt, ask.kwargs).features.get("attention_mask")
        return 0.0 if mask is None else float(mask.sum()) - item.length


def _within(engine: Engine, limits: ServerLimits) -> Engine:
    """Return an engine with the server's bounds on pictures."""
    return type(engine)(engine.sentence, name=engine.name, settings=replace(engine.settings, limits=limits.reading()))


def _unnamed(said: str, location: str) -> str:
    """Take the index's place out of what an engine says, as it was given and as a whole path; words that it is a part of stay.

    Engines write whole paths without their first slash, too.
    """
    whole = str(Path(location).resolve())
    for name in (f"file://{whole}", whole, location, whole.removeprefix("/")):
        said = re.sub(rf"(?<![\w/.-]){re.escape(name)}(?![\w-])", "the index", said)
    return said


def _service(request: FastapiRequest) -> Service:
    service: Service = request.app.state.service
    return service


def _allowed(request: FastapiRequest) -> Service:
    service = _service(request)
    service.access.check(request)
    return service


CurrentService = Annotated[Service, Depends(_service)]
AuthorizedService = Annotated[Service, Depends(_allowed)]
