"""Connections: how many there are, how long each may take to say what it wants, and how they end.

uvicorn waits for ever for the head of a request, and takes as many connections as the system gives it. So a head has a time, and where
there are as many connections as may be, those that have asked nothing give way, the oldest first. A connection that the system has taken
before the address is given back is answered like any other; it is not the asker's fault that it came in the last moment.
"""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    import uvicorn

HEAD_SECONDS = 10.0  # for the head of a request, from the connection or its first byte on
MOST = 1000  # connections, if the system has as many files to give
_MOMENT = 0.5  # seconds after which a connection that has asked nothing will not, when the server stops
_SPARE = 200  # files that are not for connections
_SAID = b'{"error": {"message": "as many connections as may be are open", "type": "server_error", "param": null, "code": "busy"}}'
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 2\r\nconnection: close\r\n\r\n" + _SAID


class Connection(H11Protocol):
    """One connection."""

    head_seconds, most = HEAD_SECONDS, MOST

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.since = time.monotonic()
        self._head: asyncio.TimerHandle | None = None

    @property
    def answering(self) -> bool:
        """Say whether a request is being answered."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    @property
    def asks(self) -> bool:
        """Say whether something may come that wants an answer: a request is running, has begun, or has had no time yet to come."""
        return self.answering or bool(self.conn.trailing_data[0]) or (self._fresh and time.monotonic() - self.since < _MOMENT)

    @property
    def _fresh(self) -> bool:
        cycle: Any = self.cycle
        return cycle is None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, in the place of one that asks nothing where there are too many."""
        super().connection_made(transport)
        self.since = time.monotonic()
        # One that is being closed is still among them.
        there = [one for one in self.connections if isinstance(one, Connection) and not one.transport.is_closing()]
        if len(there) > self.most:
            silent = [one for one in there if one is not self and not one.answering]
            if not silent:
                transport.write(_BUSY)
                transport.close()
                return
            min(silent, key=lambda one: one.since).transport.abort()
        self._time_head()

    def data_received(self, data: bytes) -> None:
        """Read on, and see to it that a head that has begun comes to its end."""
        super().data_received(data)
        self._time_head()

    def on_response_complete(self) -> None:
        """Go on to what has come in the meantime."""
        super().on_response_complete()
        self._time_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of it."""
        if self._head is not None:
            self._head.cancel()
        super().connection_lost(exc)

    def _time_head(self) -> None:
        """Start the clock of a head that is not whole, or stop it."""
        head = self.conn.their_state is h11.IDLE and (self._fresh or bool(self.conn.trailing_data[0]))
        open_ = head or (self.conn.their_state is h11.SEND_BODY and not self.answering)  # or of a body that nobody reads any more
        if open_ and self._head is None:
            self._head = self.loop.call_later(self.head_seconds, self.transport.abort)
        elif not open_ and self._head is not None:
            self._head.cancel()
            self._head = None


def make_room() -> None:
    """Let this process have as many files as the system allows, and no more connections than that."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except ImportError:  # a system without such limits
        return
    if soft != resource.RLIM_INFINITY:
        Connection.most = max(16, min(MOST, soft - _SPARE))


def accept_rest(taken: Iterable[socket.socket]) -> list[socket.socket]:
    """Take the connections that the system has made and nobody has taken yet."""
    found = []
    for one in taken:
        with suppress(OSError):  # none is left
            while True:
                found.append(one.accept()[0])
    return found


async def adopt(server: uvicorn.Server, rest: Iterable[socket.socket]) -> None:
    """Have a server answer them."""
    loop = asyncio.get_running_loop()

    def protocol() -> Connection:
        return Connection(config=server.config, server_state=server.server_state, app_state=server.lifespan.state, _loop=loop)

    for one in rest:
        with suppress(OSError):  # gone already
            await loop.connect_accepted_socket(protocol, one)
