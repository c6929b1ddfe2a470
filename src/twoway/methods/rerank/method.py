"""`rerank`: a vision-language model learns to score a query with a candidate, both in one row; a plain `CrossEncoder` comes out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from twoway.config import takes
from twoway.data.config import QUERY, PairSource
from twoway.errors import TwowayError, UsageError
from twoway.methods.finetune.callbacks import best_weights
from twoway.methods.model import (
    PreparedModel,
    apply_memory_options,
    choose_kernels,
    choose_trainable,
    freeze_head,
    open_base,
    prove_two_way,
    require_causal,
)
from twoway.methods.run import Method, TrainResult, configure, run_method
from twoway.models import checkpoint, loading, reranker
from twoway.models.processor import set_template

from .callbacks import RerankCallback
from .config import RerankConfig
from .data import open_data
from .step import RerankModule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twoway.methods.model import OpenedBase
    from twoway.models.checkpoint import CheckpointSettings


def prepare(base: str | Path, config: RerankConfig) -> PreparedModel[RerankModule]:
    """Open a base and make the task out of it; the same base and configuration give the same bits."""
    opened = open_base(base, config, attention=config.attention, reranker=True)
    model, parts, own = opened.start.model, opened.processor, opened.start.settings
    choose_kernels(model, config, products=True)
    if not (own.reranks and reranker.takes_pairs(parts)):
        set_template(parts, style=config.template, place="system")
        reranker.set_pair_template(parts)
    # A score is read behind the row; sentence-transformers asks for it there.
    parts.tokenizer.padding_side = "left"
    settings = _settings(opened, config)
    modules = checkpoint.modules_around(model if settings.reads_head else loading.inner(model), parts, settings)
    adapted = choose_trainable(model, config)
    freeze_head(model)
    module = RerankModule(
        model,
        modules,
        config.loss,
        keep_graph_tokens=config.budget if config.keep_graph_tokens is None else config.keep_graph_tokens,
        pad_token=opened.pad_token,
        token_keys=opened.geometry.token_keys,
    )
    apply_memory_options(config, [model], module.fsdp_units())
    opened = dataclasses.replace(opened, start=dataclasses.replace(opened.start, settings=settings))
    return PreparedModel(**vars(opened), module=module, adapted=adapted, input_module=checkpoint.input_module(modules[0]))


def _settings(opened: OpenedBase, config: RerankConfig) -> CheckpointSettings:
    """Return what the result says besides its model: how its score is read, and its prompts."""
    start, own = opened.start, opened.start.settings
    prompts = {name: text for name, text in ((own.prompts if own.reranks else {}) | config.all_prompts()).items() if text}
    default = own.default_prompt if own.default_prompt in prompts else QUERY if QUERY in prompts else None
    had = None if not own.reranks else "yes-no" if own.reads_head else "linear"
    head = config.head or had or "yes-no"
    if head != "linear" and config.pooling is not None:
        raise UsageError("pooling is of a new linear layer; say head=linear too, or leave it out")
    if own.reranks and had == head and config.pooling is None:
        return dataclasses.replace(own, prompts=prompts, default_prompt=default)
    if head == "yes-no" and not start.has_head:
        raise TwowayError(f"{start.name} has no language-model head whose answer could be read; take head=linear")
    if head == "yes-no":
        behind: list[torch.nn.Module] = [reranker.yes_no(opened.processor.tokenizer, start.name)]
    else:
        torch.manual_seed(config.seed)
        pooling = config.pooling or ("last" if opened.attention == "causal" else "mean")
        behind = reranker.linear(loading.text_width(start.model), pooling)
    return checkpoint.CheckpointSettings(behind=tuple(behind), reranks=True, prompts=prompts, default_prompt=default, longest=own.longest)


def require(prepared: PreparedModel[RerankModule]) -> None:
    """Measure, before any work, that the model attends as it was asked to."""
    (require_causal if prepared.attention == "causal" else prove_two_way)(prepared)


METHOD = Method("rerank", RerankConfig, prepare, open_data, RerankCallback, require, source=PairSource, select_weights=best_weights)


@takes(RerankConfig)
def rerank(
    base: str | Path,
    out: str | Path,
    data: Sequence[str | PairSource] = (),
    *,
    config: RerankConfig | None = None,
    nproc: int = 1,
    force: bool = False,
    **options: Any,
) -> TrainResult:
    """Train `base` into a reranker in `out` on `data` (specs of pairs with negatives); `options` are the fields of `RerankConfig`.

    The same call goes on where an earlier one stopped. `force` goes on although configuration, base or data changed.
    """
    return run_method(METHOD, base, out, configure(METHOD, config, data, options), nproc=nproc, force=force)
