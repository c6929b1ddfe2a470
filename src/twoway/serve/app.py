"""The application: a model, an index where there is one, and the routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from . import health, page_route
from .errors import answer_errors
from .limits import Limits
from .service import Service

if TYPE_CHECKING:
    from ..embedding import Embedder
    from ..search.store import Store


def create_app(engine: Embedder, store: Store | None = None, limits: Limits | None = None) -> FastAPI:
    """Return the application that answers for a model and an index."""
    # FastAPI's own pages of documentation load scripts from elsewhere; the description itself is there.
    app = FastAPI(title="twoway", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    app.state.service = Service(engine, limits or Limits(), store)
    answer_errors(app)
    for module in (health, page_route):
        app.include_router(module.router)
    return app
