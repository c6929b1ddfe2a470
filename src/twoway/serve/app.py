"""The application: a model, an index where there is one, and the routes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from .access import Access
from .errors import answer_errors
from .limits import Limits
from .metrics import Counted
from .service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ..embedding import Embedder
    from ..search.store import Store

ROUTES = ("health", "embeddings_route", "search_route", "index_route", "why_route", "page_route")


def create_app(
    engine: Embedder, store: Store | None = None, limits: Limits | None = None, *, access: Access | None = None, **options: Any
) -> FastAPI:
    """Return the application that answers for a model and an index; `options` are `name` and `read_only`."""
    service = Service(engine, store, limits or Limits(), access or Access(), **options)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.stopping = True
        service.close()

    # FastAPI's own pages of documentation load scripts from elsewhere, and its description asks for no key; ours stands among the routes.
    app = FastAPI(title="twoway", docs_url=None, redoc_url=None, openapi_url=None, lifespan=running)
    app.state.service = service
    answer_errors(app)
    for name in ROUTES:
        app.include_router(import_module(f".{name}", __package__).router)
    app.add_middleware(Counted, metrics=service.metrics)
    return app
