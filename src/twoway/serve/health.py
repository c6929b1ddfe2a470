"""Whether the process lives (`/healthz`), whether it takes work (`/readyz`, 503 while it stops), and what it counts (`/metrics`).

`/openapi.json` describes the API. Who has no key is told whether it lives and takes work, and nothing else.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
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
    if trouble := service.trouble():
        raise ApiError(503, trouble, code="broken", wait=5)
    return {"status": "ready"}


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request, _: Allowed) -> dict[str, Any]:
    """Describe the API, to whom it answers."""
    found: dict[str, Any] = request.app.openapi()
    return found


@router.get("/metrics")
async def metrics(service: Allowed) -> Response:
    """Return the counters for Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
