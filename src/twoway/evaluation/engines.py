"""What `evaluate` takes for a model: everything that the embedding engine opens, and a server of vectors by its address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..embedding.embedder import Embedder
    from ..embedding.endpoint import Endpoint


def open_engine(model: Any, **opening: Any) -> Embedder | Endpoint:
    """Open a model; a server has its settings already, so none may be asked of it."""
    from ..embedding.endpoint import Endpoint, is_endpoint

    if is_endpoint(model):
        for name, value in opening.items():
            if value is not None and (name, value) != ("device", "auto"):
                raise UsageError(f"--{name.replace('_', '-')} is not for a model behind a server, which has its own settings; leave it out")
        return Endpoint(str(model))
    from ..embedding.many import open_embedders

    return open_embedders(model, **opening)
