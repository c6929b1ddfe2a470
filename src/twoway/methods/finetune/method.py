"""`finetune`: pairs teach a model which texts and pictures belong together (MoCa's second stage, CoCoA's third, and the baselines)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.modules import Normalize

from twoway.config import takes
from twoway.data.config import PairSource
from twoway.errors import TwowayError, UsageError
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
from twoway.models import checkpoint, late_interaction, loading, pooling
from twoway.models.processor import require_prompts, set_template

from .callbacks import RetrievalCallback, best_weights
from .config import FinetuneConfig
from .data import open_data
from .late_interaction import LateInteractionModule
from .step import ContrastiveModule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twoway.methods.model import OpenedBase
    from twoway.models.checkpoint import CheckpointSettings
    from twoway.models.processor import Place


# The model of `finetune`: a base with its attention, its way of writing inputs and its pooling, as they are saved at
# the end.


def prepare(base: str | Path, config: FinetuneConfig) -> PreparedModel[ContrastiveModule]:
    """Open a base and make the task out of it; the same base and configuration give the same bits."""
    opened = open_base(base, config, attention=config.attention, late_interaction=True)
    model, parts, own = opened.start.model, opened.processor, opened.start.settings
    many = own.late_interaction if config.late_interaction is None else config.late_interaction
    config.require_vectors(late_interaction=many)
    if not many and own.late_interaction:
        raise UsageError(
            f"{opened.start.name} gives a vector for each token; leave late_interaction out, or start from a model of one vector"
        )
    if not many and own.similarity not in (None, "cosine") and not any(isinstance(module, Normalize) for module in own.behind):
        raise TwowayError(f"{opened.start.name} is compared by {own.similarity} (similarity_fn_name), and the loss compares cosines")
    choose_kernels(model, config, products=True)
    set_template(parts, style=config.template, place=place_of(config, own))
    settings = _many_vectors(opened, config) if many else _one_vector(opened, config)
    prompts = {name: text for name, text in (own.prompts | config.all_prompts()).items() if text}
    require_prompts(parts, prompts)
    # What the saved model says of itself is what it was trained with.
    settings = dataclasses.replace(settings, prompts=prompts)
    modules = checkpoint.modules_around(loading.inner(model), parts, settings)
    adapted = choose_trainable(model, config)
    freeze_head(model)
    module = (LateInteractionModule if many else ContrastiveModule)(
        model,
        modules,
        config.loss,
        keep_graph_tokens=config.budget if config.keep_graph_tokens is None else config.keep_graph_tokens,
        pad_token=opened.pad_token,
        token_keys=opened.geometry.token_keys,
    )
    apply_memory_options(config, [model], module.fsdp_units())
    opened = dataclasses.replace(opened, start=dataclasses.replace(opened.start, settings=settings))
    inputs = checkpoint.input_module(modules[0])
    return PreparedModel(**vars(opened), module=module, adapted=adapted, input_module=inputs)


def _one_vector(opened: OpenedBase, config: FinetuneConfig) -> CheckpointSettings:
    """Return the settings of a model that pools the states of a row."""
    own, parts = opened.start.settings, opened.processor
    settings = own.pooled(config.pooling, config.truncate_dim)
    mode, width, dim = settings.pooling or "mean", loading.text_width(opened.start.model), settings.dim
    if dim is not None and dim > width:
        raise UsageError(f"truncate_dim {dim} is out of range: this model's vectors have 1 to {width} numbers")
    if mode == "eos" and own.pooling != "eos":
        pooling.require_lasting_eos(parts)
        pooling.append_eos(parts)
    return dataclasses.replace(settings, pooling=mode)


def _many_vectors(opened: OpenedBase, config: FinetuneConfig) -> CheckpointSettings:
    """Return the settings of a model whose tokens keep a vector each: the base's own projection, or a new one."""
    own = opened.start.settings
    if config.query_expansion:
        late_interaction.expand_queries(opened.processor, opened.token.token, config.query_expansion)
    if own.late_interaction and config.projection_dim in (None, late_interaction.projection_width(own.behind)):
        return own
    torch.manual_seed(config.seed)
    behind = late_interaction.new_modules(loading.text_width(opened.start.model), config.projection_dim or late_interaction.DIM)
    return checkpoint.CheckpointSettings(
        transformer=own.transformer,
        prompts=own.prompts,
        default_prompt=own.default_prompt,
        similarity="meanmaxsim",
        module=own.module,
        behind=tuple(behind),
        late_interaction=True,
        longest=own.longest,
    )


def place_of(config: FinetuneConfig, own: CheckpointSettings) -> Place | None:
    """Return where prompts go: where a base that has some already writes them, or else into the user's turn."""
    return config.prompt_place or (None if own.prompts else "user")


def require(prepared: PreparedModel[ContrastiveModule]) -> None:
    """Measure, before any work, that the model attends as it was asked to."""
    (require_causal if prepared.attention == "causal" else prove_two_way)(prepared)


METHOD = Method("finetune", FinetuneConfig, prepare, open_data, RetrievalCallback, require, source=PairSource, select_weights=best_weights)


@takes(FinetuneConfig)
def finetune(
    base: str | Path,
    out: str | Path,
    data: Sequence[str | PairSource] = (),
    *,
    config: FinetuneConfig | None = None,
    nproc: int = 1,
    force: bool = False,
    **options: Any,
) -> TrainResult:
    """Fine-tune `base` into `out` on `data` (specs of pairs); `options` are the fields of `FinetuneConfig`.

    The same call goes on where an earlier one stopped. `force` goes on although configuration, base or data changed.
    """
    return run_method(METHOD, base, out, configure(METHOD, config, data, options), nproc=nproc, force=force)
