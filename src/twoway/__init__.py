"""Turn a one-way vision-language model into a two-way multimodal embedding model, and prove it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Heavy imports wait until a name is used, so that `twoway --help` answers at once.
_HOME: dict[str, str] = {
    "ConvertResult": "twoway.stages.convert",
    "Document": "twoway.content",
    "Embedder": "twoway.embedding",
    "Finder": "twoway.search.query",
    "bridge": "twoway.stages.bridge",
    "check": "twoway.stages.check",
    "check_bridge": "twoway.stages.check_bridge",
    "convert": "twoway.stages.convert",
    "embed": "twoway.stages.embed",
    "find": "twoway.search.query",
    "finetune": "twoway.stages.finetune",
    "index": "twoway.search.index",
    "info": "twoway.stages.info",
    "mine": "twoway.stages.mine",
    "mteb_model": "twoway.evaluation.mteb_open",
    "open_embedder": "twoway.embedding",
    "open_source": "twoway.data.sources",
    "open_store": "twoway.search.opening",
    "plan": "twoway.stages.plan",
    "pretrain": "twoway.stages.pretrain",
    "run": "twoway.stages.run_recipe",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("twoway")
    if name not in _HOME:
        raise AttributeError(f"module 'twoway' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
