"""A request from its first byte to its answer: the body is counted while it is read, time is bounded, and an asker may leave.

A body that is too large or too slow ends the connection, since the rest of it would have to be read to no purpose. All bodies together are
bounded, too, and held until their answers are made.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from .errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator

    from starlette.requests import Request

    from .limits import Limits

Answer = TypeVar("Answer")
_LEFT = 499  # what nginx notes for an asker that went away; nobody sees it but the counters


class Receiver:
    """Reads requests for one server."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.held = 0  # bytes of all bodies in memory
        self.running = 0  # pieces of work of requests that are being answered
        self.stopping = False

    async def answer(self, request: Request, work: Callable[[bytearray], Coroutine[Any, Any, Response]]) -> Response:
        """Read a JSON body and answer with what `work` makes of it, in time, while the asker is there."""
        _require_json(request)
        try:
            if self.stopping:  # not counted: refusals without an end would keep the server from ending
                async with self._body(request):
                    raise ApiError(503, "the server is stopping", code="stopping", wait=5)
            with self._counted():
                async with self._body(request) as body:
                    return await self.in_time(_while_there(request, work(body)))
        except ClientDisconnect:
            return Response(status_code=_LEFT)

    async def in_time(self, work: Awaitable[Answer]) -> Answer:
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
            self.held -= len(body)
            with suppress(BufferError):  # a thread is reading it at this moment, and lets go of it by itself
                body.clear()

    async def _read(self, request: Request, body: bytearray) -> None:
        said = request.headers.get("content-length", "")
        self._check(int(said) if said.isdecimal() else 0)
        try:
            async with asyncio.timeout(self.limits.upload_seconds):
                async for chunk in request.stream():
                    body += chunk
                    self.held += len(chunk)
                    self._check(len(body))
                    if self.held > self.limits.bodies_bytes:
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


async def _while_there(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
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
