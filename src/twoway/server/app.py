"""The application: a model, an index where there is one, and the routes; and the server that it runs in, uvicorn.

Uvicorn bounds the bytes of a head, and the seconds between requests. What it leaves open is set here: the seconds that a head may take, how
many connections there are (its `limit_concurrency` refuses whoever comes, so that a thousand idle ones close the door), and an end that
refuses new work before it stops answering.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from twoway.content import Document, Text
from twoway.errors import TwowayError, UsageError

from . import routes
from .batching import MetricsMiddleware
from .schemas import ServerLimits, answer_errors
from .service import Access, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from twoway.embedding import Embedder
    from twoway.embedding.reranker import Reranker
    from twoway.search.store import Store

_log = logging.getLogger(__name__)

ROUTERS = (
    routes.health_router,
    routes.embeddings_router,
    routes.rerank_router,
    routes.search_router,
    routes.index_router,
    routes.why_router,
    routes.page_router,
)


def create_app(
    engine: Embedder, store: Store | None = None, limits: ServerLimits | None = None, *, access: Access | None = None, **options: Any
) -> FastAPI:
    """Return the application that answers for a model and an index; `options` are `name`, `read_only` and `reranker`."""
    service = Service(engine, store, limits or ServerLimits(), access or Access(), **options)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.stopping = True
        service.close()

    # FastAPI's own pages of documentation load scripts from elsewhere, and its description asks for no key; ours stands among the routes.
    app = FastAPI(title="twoway", docs_url=None, redoc_url=None, openapi_url=None, lifespan=running)
    app.state.service = service
    answer_errors(app)
    for router in ROUTERS:
        app.include_router(router)
    app.add_middleware(MetricsMiddleware, metrics=service.metrics)
    return app


# A server's life: an address that is free, a model that works, requests, and an end at which what is running is
# finished.
#
# At SIGTERM or Ctrl-C `/readyz` turns 503 and new work is refused, while the requests that are running get their
# answers, for so long; then the process ends. A second signal ends it at once. TLS is left to a proxy in front.

_HINTS = {
    errno.EADDRINUSE: "another program has the port; stop it, or choose another with --port (0 takes any that is free)",
    errno.EACCES: "ports below 1024 are the system's; choose another with --port",
    errno.EADDRNOTAVAIL: "this machine has no such address; choose another with --host",
}
_UNREAD = 60  # seconds that an answer waits for an asker that reads nothing of it
_LAST = 5  # seconds for connections to close once their answers are made


def bind_socket(host: str, port: int) -> socket.socket:
    """Take an address, or say why not; the port 0 takes any that is free."""
    where = f"{host}:{port}"
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is out of range: ports go from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host {host!r} --port {port} is not an address here ({error})") from error
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


def warm_up(engine: Embedder, reranker: Reranker | None = None) -> None:
    """Embed a word: a model that cannot is met before it is asked, and the first asker does not wait for first times."""
    list(engine.embed([Document((Text("warm"),))]))
    if reranker is not None:
        reranker.rank("warm", ["warm"])


def answer_requests(app: FastAPI, taken: socket.socket, *, grace: float) -> None:
    """Answer requests until a signal says to stop."""
    raise_file_limit()
    Server(uvicorn_config(app), app.state.service, grace).run(sockets=[taken])


def uvicorn_config(app: FastAPI) -> uvicorn.Config:
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
        self.service.deadline = self._told + self.grace
        self.config.encoded_headers.append((b"connection", b"close"))  # who is told so asks no more on this connection
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]

    async def on_tick(self, counter: int) -> bool:
        """Stop once nothing is running, or the time for it is over."""
        if self._told is not None and (not self.service.reader.running or time.monotonic() - self._told > self.grace):
            self.should_exit = True
            self.service.cut_off = bool(self.service.reader.running)
        over: bool = await super().on_tick(counter)
        return over

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give the address back, answer who has come before that, and end within the time that is left."""
        rest = accept_pending(sockets or [])
        for server in self.servers:
            server.close()
        await serve_accepted(self, rest)
        end = time.monotonic() + _LAST if self._told is None else min(time.monotonic() + _LAST, self._told + self.grace)
        while (
            not self.force_exit
            and time.monotonic() < end
            and any(getattr(one, "expects_answer", False) for one in self.server_state.connections)
        ):
            await asyncio.sleep(0.02)
        self.config.timeout_graceful_shutdown = max(0, end - time.monotonic())  # type: ignore[assignment]
        await super().shutdown(sockets)


# Connections: how many there are, how long each may take to say what it wants, and how they end.
#
# uvicorn waits for ever for the head of a request, and takes as many connections as the system gives it. So a head
# has a time, and where there are as many connections as may be, those that have asked nothing give way, the oldest
# first. A connection that the system has taken before the address is given back is answered like any other; it is not
# the asker's fault that it came in the last moment.

HEAD_TIMEOUT = 10.0  # for the head of a request, from the connection or its first byte on
MAX_CONNECTIONS = 1000  # connections, if the system has as many files to give
_MOMENT = 0.5  # seconds after which a connection that has asked nothing will not, when the server stops
_SPARE = 200  # files that are not for connections
_SAID = b'{"error": {"message": "as many connections as may be are open", "type": "server_error", "param": null, "code": "busy"}}'
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 2\r\nconnection: close\r\n\r\n" + _SAID


class Connection(H11Protocol):
    """One connection."""

    head_seconds, most = HEAD_TIMEOUT, MAX_CONNECTIONS

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.opened_at = time.monotonic()
        self._head: asyncio.TimerHandle | None = None

    @property
    def answering(self) -> bool:
        """Say whether a request is being answered."""
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    @property
    def expects_answer(self) -> bool:
        """Say whether something may come that wants an answer: a request is running, has begun, or has had no time yet to come."""
        return self.answering or bool(self.conn.trailing_data[0]) or (self._fresh and time.monotonic() - self.opened_at < _MOMENT)

    @property
    def _fresh(self) -> bool:
        cycle: Any = self.cycle
        return cycle is None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, in the place of one that asks nothing where there are too many."""
        super().connection_made(transport)
        self.opened_at = time.monotonic()
        # One that is being closed is still among them.
        there = [one for one in self.connections if isinstance(one, Connection) and not one.transport.is_closing()]
        if len(there) > self.most:
            silent = [one for one in there if one is not self and not one.answering]
            if not silent:
                transport.write(_BUSY)
                transport.close()
                return
            min(silent, key=lambda one: one.opened_at).transport.abort()
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


def raise_file_limit() -> None:
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
        Connection.most = max(16, min(MAX_CONNECTIONS, soft - _SPARE))


def accept_pending(taken: Iterable[socket.socket]) -> list[socket.socket]:
    """Take the connections that the system has made and nobody has taken yet."""
    found = []
    for one in taken:
        with suppress(OSError):  # none is left
            while True:
                found.append(one.accept()[0])
    return found


async def serve_accepted(server: uvicorn.Server, rest: Iterable[socket.socket]) -> None:
    """Have a server answer them."""
    loop = asyncio.get_running_loop()

    def protocol() -> Connection:
        return Connection(config=server.config, server_state=server.server_state, app_state=server.lifespan.state, _loop=loop)

    for one in rest:
        with suppress(OSError):  # gone already
            await loop.connect_accepted_socket(protocol, one)
