"""The model of a training stage: a base of any kind with its processor, made two-way, and which of its parameters train."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from twoway.data.patches import PatchGeometry
from twoway.errors import TwowayError, UsageError
from twoway.models import adapters, checkpoint, kernels, loading
from twoway.models import processor as models_processor
from twoway.models.attention import declared_attention, set_attention
from twoway.models.config import AUTO, Attention, by_part
from twoway.models.opening import Start, open_start, write_as
from twoway.proof import probe
from twoway.training.module import TrainingModule

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import nn

    from twoway.proof.verdict import Verdict

    from .config import MethodConfig

log = logging.getLogger(__name__)

T = TypeVar("T", bound=TrainingModule, covariant=True)


@dataclass(frozen=True)
class OpenedBase:
    """A base as every stage opens it: two-way, in float32, with a processor that fits."""

    start: Start
    processor: Any
    geometry: PatchGeometry
    token: models_processor.MaskToken
    max_length: int
    pad_token: int
    declared_attention: Attention  # what it declared before
    attention: Attention  # what it is to have, and is measured for


@dataclass(frozen=True)
class PreparedModel(OpenedBase, Generic[T]):
    """A base, ready to train."""

    module: T
    adapted: Any = None  # the model as peft wraps it, where adapters train
    input_module: Any = None  # what writes rows as `encode` does, where vectors are trained (`checkpoint.input_module`)


def open_base(
    base: str | Path, config: MethodConfig, *, attention: Attention = "two-way", reranker: bool = False, late_interaction: bool = False
) -> OpenedBase:
    """Open a base and give it its attention; the same base and configuration give the same bits.

    `reranker`: one is to be trained; `late_interaction`: the base may have many vectors.
    """
    kernels.keep_few()
    torch.manual_seed(config.seed)
    start = open_start(base, dtype="float32", late_interaction=late_interaction)
    if not reranker:
        start.settings.require_trainable(start.name)
    parts = models_processor.load_processor(start.folder)
    models_processor.require_fit(start.model, parts)
    models_processor.set_pixels(start.model.config, parts, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
    token = models_processor.ensure_mask_token(start.model, parts)
    models_processor.ensure_template(parts)
    start.settings.bake(parts)
    if config.template == "plain":
        write_as(parts, "plain")  # and so it is saved: what training saw is what `encode` gives
    longest = models_processor.set_max_length(start.model, parts, None)
    if config.min_pixels is not None:
        models_processor.require_image_room(parts, min(longest, config.max_length))
    was = declared_attention(start.model.config)
    if attention == "causal" and was != "causal":
        raise TwowayError(f"{start.name} is two-way already; start from a causal base, which this run would leave causal")
    if attention == "two-way" and checkpoint.attention_of_card(start.provenance) == "mixed":
        attention = "mixed"  # what can be had of this family, as its card says
    set_attention(start.model, attention)
    geometry = PatchGeometry.of(start.model.config, parts)
    return OpenedBase(start, parts, geometry, token, min(longest, config.max_length), _pad_token(parts), was, attention)


def prove_two_way(base: OpenedBase) -> None:
    """Measure, before any work, that the switch works on this base: in every layer, or in those that its card names."""
    verdict = _proved(base)
    if verdict.attention != base.attention:
        kind, why = base.start.model.config.model_type, f" ({verdict.reason})" if verdict.reason else ""
        way = "; twoway convert --attention mixed takes what can be had" if verdict.attention == "mixed" else ""
        raise TwowayError(f"{base.start.name} ({kind}) cannot be made {base.attention}: it is measured {verdict.attention}{why}{way}")


def require_causal(base: OpenedBase) -> None:
    """Measure, before any work, that the base is causal; a family may let the tokens of one picture see each other (Gemma 3)."""
    verdict = _proved(base)
    if verdict.attention not in ("causal", "mixed"):
        why = f" ({verdict.reason})" if verdict.reason else ""
        raise TwowayError(f"{base.start.name} is to stay causal and is measured {verdict.attention}{why}")


def _proved(base: OpenedBase) -> Verdict:
    """Prove a base without adapters: new ones change nothing, and DoRA's would take most of the time."""
    adapted = base.adapted if isinstance(base, PreparedModel) else None
    with nullcontext() if adapted is None else adapted.disable_adapter():
        return probe.probe(loading.inner(base.start.model), base.processor, paddings=("none",))


def choose_trainable(model: Any, config: MethodConfig) -> Any:
    """Choose what trains; return the model as peft wraps it, where adapters do."""
    found = loading.parts(model)
    if config.lora.r:
        lora = config.lora
        if config.freeze_tower or config.train_layers:
            raise UsageError("with lora.r only the adapters train: leave freeze_tower and train_layers out, and choose lora.parts")
        adapted, _ = adapters.add_adapters(
            model,
            lora.parts,
            target_modules=lora.target_modules,
            r=lora.r,
            lora_alpha=lora.lora_alpha,
            lora_dropout=lora.lora_dropout,
            use_dora=lora.use_dora,
            init_lora_weights=lora.init_lora_weights,
        )
        return adapted
    if config.freeze_tower:
        if found.tower is None:
            raise UsageError(f"freeze_tower: {type(model).__name__} shows no tower of its own")
        bridges = {id(one) for _, module in found.projectors for one in module.parameters()}
        for parameter in found.tower[1].parameters():
            parameter.requires_grad_(id(parameter) in bridges)
    if config.train_layers:
        if config.train_layers > len(found.layers):
            raise UsageError(f"train_layers is at most {len(found.layers)} in this model, not {config.train_layers}")
        for module in (found.embeddings[1], *found.layers[: -config.train_layers]):
            module.requires_grad_(False)
    return None


def freeze_head(model: Any) -> None:
    """Leave a language-model head of its own out of training: where no logits are asked for, it would only cost memory."""
    head = loading.parts(model).head
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        head.requires_grad_(False)


def choose_kernels(
    model: Any,
    config: MethodConfig,
    *,
    decoder: Any = None,
    masks: bool = False,
    products: bool = False,
    device: torch.device | None = None,
) -> None:
    """Give each part its attention kernel. A base is opened and proved on the CPU: what runs on a GPU alone waits until it is there."""
    chosen = by_part(config.attn_implementation)
    if masks:
        kernels.require_masks(chosen)
    if device is None:
        waiting = {part: name for part, name in vars(chosen).items() if "flash" in name}
        chosen = replace(chosen, **dict.fromkeys(waiting, AUTO))
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    used = kernels.use_kernels(
        model, chosen, dtype=dtype, device=device or torch.device("cpu"), decoder=decoder, masks=masks, products=products
    )
    if device is not None:
        log.info("attention: %s", ", ".join(f"{part} {name}" for part, name in used.items()))


def apply_memory_options(config: MethodConfig, models: Iterable[Any], layers: Iterable[nn.Module]) -> None:
    """Save memory and time as the configuration says: states that are computed again in `models`, compiled `layers`."""
    if config.gradient_checkpointing:
        for module in models:
            module.activation_checkpointing_enable({"use_reentrant": False})
    if config.torch_compile:
        for layer in layers:
            layer.compile(dynamic=True)


def _pad_token(parts: Any) -> int:
    """Return the id that fills rows up; a tokenizer without one pads with its end, which the mask hides."""
    tokenizer = parts.tokenizer
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0
