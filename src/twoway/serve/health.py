"""Whether the process lives (`/healthz`), and whether it takes work (`/readyz`): the second turns 503 when the server is stopping."""

from __future__ import annotations

from fastapi import APIRouter

from .errors import ApiError
from .service import Here

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
    return {"status": "ready"}
