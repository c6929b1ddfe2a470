"""A server's life: an address that is free, a model that works, requests, and an end at which what is running is finished.

At SIGTERM or Ctrl-C `/readyz` turns 503 and new work is refused, while the requests that are running get their answers, for so long; then
the process ends. A second signal ends it at once. TLS is left to a proxy in front.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import time
from typing import TYPE_CHECKING, Any

import uvicorn

from ..content import Document, Text
from ..errors import TwowayError, UsageError
from .connections import Connection, accept_rest, adopt, make_room

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..embedding import Embedder
    from .service import Service

_log = logging.getLogger(__name__)
_HINTS = {
    errno.EADDRINUSE: "another program has the port; stop it, or choose another with --port (0 takes any that is free)",
    errno.EACCES: "ports below 1024 are the system's; choose another with --port",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another with --host",
}
_UNREAD = 60  # seconds that an answer waits for an asker that reads nothing of it
_LAST = 5  # seconds for connections to close once their answers are made


def bind(host: str, port: int) -> socket.socket:
    """Take an address, or say why not; the port 0 takes any that is free."""
    where = f"{host}:{port}"
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is out of range: ports go from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host {host!r} --port {port} is no address here ({error})") from error
    taken = socket.socket(family, kind, protocol)
    try:
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # an asker that takes nothing of its answer does not keep it here for ever
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD * 1000)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        # Listening at once holds the port against another server that starts at the same time; who connects waits for the model.
        taken.listen(1024)
    except OSError as error:
        taken.close()
        hint = _HINTS.get(error.errno or 0, "choose another with --host and --port")
        raise TwowayError(f"{where} cannot be taken ({error.strerror}); {hint}") from error
    return taken


def is_local(taken: socket.socket) -> bool:
    """Say whether an address is reached from this machine alone."""
    return ipaddress.ip_address(str(taken.getsockname()[0]).partition("%")[0]).is_loopback


def address(taken: socket.socket) -> str:
    """Return what is typed into a browser."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def warm(engine: Embedder) -> None:
    """Embed a word: a model that cannot is met before it is asked, and the first asker does not wait for first times."""
    engine.array([Document((Text("warm"),))])


def run(app: FastAPI, taken: socket.socket, *, grace: float) -> None:
    """Answer requests until a signal says to stop."""
    make_room()
    Server(configured(app), app.state.service, grace).run(sockets=[taken])


def configured(app: FastAPI) -> uvicorn.Config:
    """Return how uvicorn serves an application of ours."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=_log.isEnabledFor(logging.INFO),
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_LAST,
        ws="none",
        http=Connection,  # of h11, which bounds the head of a request; httptools, where it is installed, reads any length
    )


class Server(uvicorn.Server):
    """Uvicorn, with an end in two steps: first no new work, then no more answers."""

    def __init__(self, config: uvicorn.Config, service: Service, grace: float) -> None:
        super().__init__(config)
        self.service, self.grace = service, grace
        self._told: float | None = None

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to stop; at a second signal, stop."""
        if self._told is not None:
            self.should_exit = self.force_exit = True
            return
        self._told = time.monotonic()
        self.service.stopping = True
        self.service.until = self._told + self.grace
        self.config.encoded_headers.append((b"connection", b"close"))  # who is told so asks no more on this connection
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]

    async def on_tick(self, counter: int) -> bool:
        """Stop once nothing is running, or the time for it is over."""
        if self._told is not None and (not self.service.receiver.running or time.monotonic() - self._told > self.grace):
            self.should_exit = True
            self.service.cut_off = bool(self.service.receiver.running)
        over: bool = await super().on_tick(counter)
        return over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give the address back, answer who has come before that, and end within the time that is left."""
        rest = accept_rest(sockets or [])
        for server in self.servers:
            server.close()
        await adopt(self, rest)
        end = time.monotonic() + _LAST if self._told is None else min(time.monotonic() + _LAST, self._told + self.grace)
        while not self.force_exit and time.monotonic() < end and any(getattr(one, "asks", False) for one in self.server_state.connections):
            await asyncio.sleep(0.02)
        self.config.timeout_graceful_shutdown = max(0, end - time.monotonic())  # type: ignore[assignment]
        await super().shutdown(sockets)
