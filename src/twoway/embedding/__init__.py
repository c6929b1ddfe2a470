"""The engine that turns documents into vectors, for evaluation, mining, bulk embedding, search and serving; it trains nothing."""

from .embedder import Embedder
from .opening import open_embedder

__all__ = ["Embedder", "open_embedder"]
