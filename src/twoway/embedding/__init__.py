"""The engine that turns documents into vectors, for evaluation, mining, bulk embedding, search and serving; it trains nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .embedder import Embedder
    from .opening import open_embedder

__all__ = ["Embedder", "open_embedder"]
# The engine brings torch and transformers along, and who only reads a folder of vectors needs neither.
_HOME = {"Embedder": ".embedder", "open_embedder": ".opening"}


def __getattr__(name: str) -> Any:
    """Import the engine on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
