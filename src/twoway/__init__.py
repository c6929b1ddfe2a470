"""Turn a one-way vision-language model into a two-way multimodal embedding model, and prove it.

What is named here is the public Python: the verbs, their configurations, what they open, and the two errors. Everything else may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .content import Document as Document
    from .data.sources import open_source as open_source
    from .embedding.embedder import Embedder as Embedder
    from .embedding.opening import open_embedder as open_embedder
    from .errors import TwowayError as TwowayError
    from .errors import UsageError as UsageError
    from .evaluation.compare import compare as compare
    from .evaluation.mteb_open import mteb_model as mteb_model
    from .search.index import index as index
    from .search.opening import open_store as open_store
    from .search.query import Finder as Finder
    from .search.query import find as find
    from .stages.bridge import bridge as bridge
    from .stages.bridge_config import BridgeConfig as BridgeConfig
    from .stages.check import check as check
    from .stages.check_bridge import check_bridge as check_bridge
    from .stages.convert import ConvertConfig as ConvertConfig
    from .stages.convert import ConvertResult as ConvertResult
    from .stages.convert import convert as convert
    from .stages.data_check import check_data as check_data
    from .stages.data_prepare import prepare_data as prepare_data
    from .stages.embed import embed as embed
    from .stages.evaluate import evaluate as evaluate
    from .stages.evaluate_config import EvaluateConfig as EvaluateConfig
    from .stages.finetune import finetune as finetune
    from .stages.finetune_config import FinetuneConfig as FinetuneConfig
    from .stages.info import info as info
    from .stages.mine import mine as mine
    from .stages.mine_config import MineConfig as MineConfig
    from .stages.plan import plan as plan
    from .stages.pretrain import pretrain as pretrain
    from .stages.pretrain_config import PretrainConfig as PretrainConfig
    from .stages.run_recipe import run as run

    __version__: str

# Heavy imports wait until a name is used, so that `twoway --help` answers at once.
_HOME: dict[str, str] = {
    "BridgeConfig": "twoway.stages.bridge_config",
    "ConvertConfig": "twoway.stages.convert",
    "ConvertResult": "twoway.stages.convert",
    "Document": "twoway.content",
    "Embedder": "twoway.embedding.embedder",
    "EvaluateConfig": "twoway.stages.evaluate_config",
    "Finder": "twoway.search.query",
    "FinetuneConfig": "twoway.stages.finetune_config",
    "MineConfig": "twoway.stages.mine_config",
    "PretrainConfig": "twoway.stages.pretrain_config",
    "TwowayError": "twoway.errors",
    "UsageError": "twoway.errors",
    "bridge": "twoway.stages.bridge",
    "check": "twoway.stages.check",
    "check_bridge": "twoway.stages.check_bridge",
    "check_data": "twoway.stages.data_check",
    "compare": "twoway.evaluation.compare",
    "convert": "twoway.stages.convert",
    "embed": "twoway.stages.embed",
    "evaluate": "twoway.stages.evaluate",
    "find": "twoway.search.query",
    "finetune": "twoway.stages.finetune",
    "index": "twoway.search.index",
    "info": "twoway.stages.info",
    "mine": "twoway.stages.mine",
    "mteb_model": "twoway.evaluation.mteb_open",
    "open_embedder": "twoway.embedding.opening",
    "open_source": "twoway.data.sources",
    "open_store": "twoway.search.opening",
    "plan": "twoway.stages.plan",
    "prepare_data": "twoway.stages.data_prepare",
    "pretrain": "twoway.stages.pretrain",
    "run": "twoway.stages.run_recipe",
}

__all__ = ["__version__", *_HOME]

if not TYPE_CHECKING:  # a type checker takes the imports above, and knows a name that is none

    def __getattr__(name: str) -> object:
        """Import a public name from its home on first use."""
        from importlib import import_module, metadata

        if name == "__version__":
            return metadata.version("twoway")
        if name not in _HOME:
            raise AttributeError(f"module 'twoway' has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)

    def __dir__() -> list[str]:
        """List what is public."""
        return sorted(__all__)
