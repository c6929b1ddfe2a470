"""What every route works with: the model, the index, the limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from .errors import ApiError

if TYPE_CHECKING:
    from ..embedding import Embedder
    from ..search.store import Store
    from .limits import Limits


@dataclass
class Service:
    """One model behind HTTP, and an index where there is one."""

    engine: Embedder
    limits: Limits
    store: Store | None = None
    stopping: bool = False

    def index(self) -> Store:
        """Return the index, or say that there is none."""
        if self.store is None:
            raise ApiError(404, "this server has no index; start it with --db PATH ('twoway index' makes one)", code="no_index")
        return self.store


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(_service)]
