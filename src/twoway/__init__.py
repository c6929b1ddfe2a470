"""Turn a one-way vision-language model into a two-way multimodal embedding model, and prove it.

What is named here is the public Python: the verbs, their configurations, what they open, and the two errors. Everything else may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from twoway.data.dataset import open_source as open_source
    from twoway.embedding.bulk import embed as embed
    from twoway.embedding.config import EmbedConfig as EmbedConfig
    from twoway.embedding.config import OpenConfig as OpenConfig
    from twoway.embedding.config import RerankerConfig as RerankerConfig
    from twoway.embedding.embedder import Embedder as Embedder
    from twoway.embedding.opening import open_embedder as open_embedder
    from twoway.embedding.reranker import Reranker as Reranker
    from twoway.embedding.reranker import open_reranker as open_reranker
    from twoway.evaluation.compare import compare as compare
    from twoway.evaluation.config import CompareConfig as CompareConfig
    from twoway.evaluation.config import EvaluateConfig as EvaluateConfig
    from twoway.evaluation.config import MtebConfig as MtebConfig
    from twoway.evaluation.evaluate import evaluate as evaluate
    from twoway.evaluation.mteb import mteb_model as mteb_model
    from twoway.methods.bridge.config import BridgeConfig as BridgeConfig
    from twoway.methods.bridge.method import bridge as bridge
    from twoway.methods.config import ConvertConfig as ConvertConfig
    from twoway.methods.config import MergeConfig as MergeConfig
    from twoway.methods.config import MineConfig as MineConfig
    from twoway.methods.config import ScoreConfig as ScoreConfig
    from twoway.methods.convert import ConvertResult as ConvertResult
    from twoway.methods.convert import convert as convert
    from twoway.methods.finetune.config import FinetuneConfig as FinetuneConfig
    from twoway.methods.finetune.method import finetune as finetune
    from twoway.methods.info import info as info
    from twoway.methods.merge import MergeResult as MergeResult
    from twoway.methods.merge import merge as merge
    from twoway.methods.mine import mine as mine
    from twoway.methods.pretrain.config import PretrainConfig as PretrainConfig
    from twoway.methods.pretrain.method import pretrain as pretrain
    from twoway.methods.rerank.config import RerankConfig as RerankConfig
    from twoway.methods.rerank.method import rerank as rerank
    from twoway.methods.score import score as score
    from twoway.proof.bridge import check_bridge as check_bridge
    from twoway.proof.check import check as check
    from twoway.proof.config import BridgeCheckConfig as BridgeCheckConfig
    from twoway.proof.config import CheckConfig as CheckConfig
    from twoway.recipes.config import CheckDataConfig as CheckDataConfig
    from twoway.recipes.config import PlanConfig as PlanConfig
    from twoway.recipes.config import PrepareConfig as PrepareConfig
    from twoway.recipes.config import RunConfig as RunConfig
    from twoway.recipes.data_check import check_data as check_data
    from twoway.recipes.data_prepare import prepare_data as prepare_data
    from twoway.recipes.plan import plan as plan
    from twoway.recipes.run import run as run
    from twoway.search.config import IndexConfig as IndexConfig
    from twoway.search.config import SearchConfig as SearchConfig
    from twoway.search.index import index as index
    from twoway.search.query import Finder as Finder
    from twoway.search.query import find as find
    from twoway.search.query import open_store as open_store

    from .content import Document as Document
    from .errors import TwowayError as TwowayError
    from .errors import UsageError as UsageError

    __version__: str

# Heavy imports wait until a name is used, so that `twoway --help` answers at once.
_HOME: dict[str, str] = {
    "BridgeCheckConfig": "twoway.proof.config",
    "BridgeConfig": "twoway.methods.bridge.config",
    "CheckConfig": "twoway.proof.config",
    "CheckDataConfig": "twoway.recipes.config",
    "CompareConfig": "twoway.evaluation.config",
    "ConvertConfig": "twoway.methods.config",
    "ConvertResult": "twoway.methods.convert",
    "Document": "twoway.content",
    "EmbedConfig": "twoway.embedding.config",
    "Embedder": "twoway.embedding.embedder",
    "EvaluateConfig": "twoway.evaluation.config",
    "Finder": "twoway.search.query",
    "FinetuneConfig": "twoway.methods.finetune.config",
    "IndexConfig": "twoway.search.config",
    "MergeConfig": "twoway.methods.config",
    "MergeResult": "twoway.methods.merge",
    "MineConfig": "twoway.methods.config",
    "MtebConfig": "twoway.evaluation.config",
    "OpenConfig": "twoway.embedding.config",
    "PlanConfig": "twoway.recipes.config",
    "PrepareConfig": "twoway.recipes.config",
    "PretrainConfig": "twoway.methods.pretrain.config",
    "RerankConfig": "twoway.methods.rerank.config",
    "Reranker": "twoway.embedding.reranker",
    "RerankerConfig": "twoway.embedding.config",
    "RunConfig": "twoway.recipes.config",
    "ScoreConfig": "twoway.methods.config",
    "SearchConfig": "twoway.search.config",
    "TwowayError": "twoway.errors",
    "UsageError": "twoway.errors",
    "bridge": "twoway.methods.bridge.method",
    "check": "twoway.proof.check",
    "check_bridge": "twoway.proof.bridge",
    "check_data": "twoway.recipes.data_check",
    "compare": "twoway.evaluation.compare",
    "convert": "twoway.methods.convert",
    "embed": "twoway.embedding.bulk",
    "evaluate": "twoway.evaluation.evaluate",
    "find": "twoway.search.query",
    "finetune": "twoway.methods.finetune.method",
    "index": "twoway.search.index",
    "info": "twoway.methods.info",
    "merge": "twoway.methods.merge",
    "mine": "twoway.methods.mine",
    "mteb_model": "twoway.evaluation.mteb",
    "open_embedder": "twoway.embedding.opening",
    "open_reranker": "twoway.embedding.reranker",
    "open_source": "twoway.data.dataset",
    "open_store": "twoway.search.query",
    "plan": "twoway.recipes.plan",
    "prepare_data": "twoway.recipes.data_prepare",
    "pretrain": "twoway.methods.pretrain.method",
    "rerank": "twoway.methods.rerank.method",
    "run": "twoway.recipes.run",
    "score": "twoway.methods.score",
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
