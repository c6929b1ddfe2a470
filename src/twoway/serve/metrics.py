"""What Prometheus reads at `/metrics`; each application has a registry of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .waiting import Waiting

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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

    def watch(self, waiting: Waiting) -> None:
        """Show a queue."""
        self.items.set_function(lambda: len(waiting.tickets))
        self.tokens.set_function(lambda: waiting.tokens)

    def left(self, documents: int) -> None:
        """Count documents that were not waited for."""
        self.gone.inc(documents)

    def batch(self, *, rows: int, tokens: int, seconds: float) -> None:
        """Count one batch."""
        self.rows.observe(rows)
        self.worked.inc(seconds)
        self.embedded.inc(rows)
        self.embedded_tokens.inc(tokens)

    def text(self) -> bytes:
        """Return all in Prometheus' text form."""
        written: bytes = generate_latest(self.registry)
        return written


class Counted:
    """Counts what passes through an application; routes by their pattern, so that no asker makes new names."""

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
