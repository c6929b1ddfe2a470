"""Whether the process lives (`/healthz`), whether it takes work (`/readyz`, 503 while it stops), and what it counts (`/metrics`)."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from .errors import ApiError
from .service import Allowed, Here

router = APIRouter()


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(service: Here) -> dict[str, str]:
    """Say whether new work is taken."""
    if service.stopping:
        raise ApiError(503, "the server is stopping", code="stopping", wait=5)
    if not service.batcher.alive:
        raise ApiError(503, "the model's thread has ended; start the server again", code="broken")
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(service: Allowed) -> Response:
    """Return the counters for Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
