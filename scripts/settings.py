"""Write docs/settings.md: every setting with its type, default and meaning, from the classes that declare them.

`python -m scripts.settings` writes the page; a test holds it equal to the classes.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from twoway.config import about, describe_type, item_type, settings_of
from twoway.data.config import PairSource, SamplesConfig, SourceConfig
from twoway.embedding.config import EmbedConfig, OpenConfig, OpenManyConfig
from twoway.evaluation.config import CompareConfig, EvaluateConfig, MtebConfig
from twoway.methods.bridge.config import BridgeConfig
from twoway.methods.config import ConvertConfig, MergeConfig, MethodConfig, MineConfig, PairsConfig, ScoreConfig
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.rerank.config import RerankConfig
from twoway.proof.config import CheckConfig
from twoway.recipes.config import CheckDataConfig, PlanConfig, PrepareConfig, RunConfig
from twoway.search.config import IndexConfig, SearchConfig
from twoway.server.config import ServeConfig
from twoway.study.config import StudyRunConfig
from twoway.training.config import TrainConfig

PAGE = Path(__file__).parents[1] / "docs/settings.md"
HEAD = """# All settings

Every setting once, made from the classes that declare them (`python -m scripts.settings`). A setting has one name everywhere: `shard_rows`
in Python and YAML is `--shard-rows` on the command line, and `lora.r` is `--lora.r`. [Configuration](configuration.md) says how files,
words and options are read.
"""
VERBS = {
    "pretrain": PretrainConfig,
    "bridge": BridgeConfig,
    "finetune": FinetuneConfig,
    "rerank": RerankConfig,
    "convert": ConvertConfig,
    "merge": MergeConfig,
    "check": CheckConfig,
    "run": RunConfig,
    "plan": PlanConfig,
    "data check": CheckDataConfig,
    "data prepare": PrepareConfig,
    "embed": EmbedConfig,
    "index": IndexConfig,
    "search": SearchConfig,
    "serve": ServeConfig,
    "mine": MineConfig,
    "score": ScoreConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "mteb": MtebConfig,
    "study": StudyRunConfig,
    "samples": SamplesConfig,
}
TRAINING, OPENING = (TrainConfig, MethodConfig, PairsConfig), (OpenConfig, OpenManyConfig)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page."""
    stages = "Of `twoway pretrain`, `bridge`, `finetune` and `rerank`; a stage may have other defaults."
    models = "Of every command that makes vectors: `embed`, `index`, `search`, `serve`, `evaluate`, `mteb`, `mine`."
    parts = [
        HEAD,
        section("Every training stage", stages, TrainConfig, MethodConfig),
        section("Every stage on pairs", "Of `finetune` and `rerank`, beside those above; a stage may have other defaults.", PairsConfig),
        section("A source of documents", "An entry of `data` of a stage.", SourceConfig),
        section(
            "A source of pairs",
            "An entry of `data` of `finetune`, `rerank`, `mine`, `score` and `evaluate`, beside the keys above.",
            PairSource,
        ),
        section("Opening a model", f"{models} `processes` is not of `index`, `search` and `serve`.", *OPENING),
    ]
    for verb, cls in VERBS.items():
        beside = ""
        if issubclass(cls, PairsConfig):
            beside = " Beside the settings of [every training stage](#every-training-stage) and [on pairs](#every-stage-on-pairs)."
        elif issubclass(cls, TrainConfig):
            beside = " Beside the settings of [every training stage](#every-training-stage)."
        elif issubclass(cls, OpenConfig):
            beside = " Beside those of [opening a model](#opening-a-model)."
        own = [base for base in cls.__mro__ if dataclasses.is_dataclass(base) and base not in (*TRAINING, *OPENING)]
        parts.append(section(f"twoway {verb}", f"{cls.__doc__}{beside}", *own, whole=cls))
    return "\n".join(parts)


def section(title: str, says: str, *classes: Any, whole: Any = None) -> str:
    """Return a section: settings that these classes declare, as the last class has them, groups behind them."""
    whole = whole or classes[-1]
    fields = {field.name: field for field in dataclasses.fields(whole)}
    declared = [name for cls in classes for name in inspect.get_annotations(cls) if name in fields]
    groups = settings_of(whole)
    rows = [row(fields[name]) for name in dict.fromkeys(declared) if name not in groups]
    for name in dict.fromkeys(declared):
        if name in groups:
            rows += [row(field, f"{name}.") for field in dataclasses.fields(groups[name][0])]
    return "\n".join([f"## {title}", "", says, "", "| setting | takes | default | what |", "|---|---|---|---|", *rows, ""])


def row(field: dataclasses.Field[Any], prefix: str = "") -> str:
    """Return a line of the table."""
    kind = item_type(field.type)
    if isinstance(kind, type) and issubclass(kind, SourceConfig):
        takes = f"[sources](#a-source-of-{'pairs' if issubclass(kind, PairSource) else 'documents'})"
    else:
        takes = describe_type(field.type, [field.metadata]).replace("|", "&#124;").replace("<", "&lt;")
    what = about(field).replace("|", "&#124;").replace("<", "&lt;")
    return f"| `{prefix}{field.name}` | {takes} | {default(field)} | {what} |"


def default(field: dataclasses.Field[Any]) -> str:
    """Return a default as YAML has it; none where it is empty."""
    value = field.default
    if value is dataclasses.MISSING or value in (None, "", ()):
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
