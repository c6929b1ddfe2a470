"""The model of `pretrain`: a base of any kind, made two-way, with its heads; and which of its parameters train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from twoway.data.patches import PatchGeometry
from twoway.errors import TwowayError, UsageError
from twoway.model import adapters, backbone, mask_token, processor, proof
from twoway.model.attention import set_attention
from twoway.model.source import first_line
from twoway.model.start import Start, open_start
from twoway.objectives.mae import PatchDecoder

from .reconstruction import Reconstruction

if TYPE_CHECKING:
    from pathlib import Path

    from .pretrain_config import PretrainConfig


@dataclass(frozen=True)
class Prepared:
    """A base, ready to train."""

    start: Start
    processor: Any
    geometry: PatchGeometry
    token: mask_token.MaskToken
    max_length: int
    task: Reconstruction
    adapted: Any = None  # the model as peft wraps it, where adapters train


def prepare(base: str | Path, config: PretrainConfig) -> Prepared:
    """Open a base and make the task out of it; the same base and configuration give the same bits."""
    torch.manual_seed(config.seed)
    start = open_start(base, dtype="float32")
    parts = processor.load_processor(start.folder)
    processor.require_fit(start.model, parts)
    token = mask_token.ensure_mask_token(start.model, parts)
    processor.ensure_template(parts)
    longest = processor.set_max_length(start.model, parts, None)
    set_attention(start.model, "two-way")
    if config.mlm_weight and not start.has_head:
        raise TwowayError(f"{base} has no language-model head to restore masked words with; start from its base, or set mlm_weight=0")
    geometry = PatchGeometry.of(start.model.config, parts)
    decoder = _decoder(start, geometry, config) if config.mae_weight else None
    adapted = _choose(start.model, decoder, config)
    if config.gradient_checkpointing:
        for module in filter(None, (start.model, decoder and decoder.body)):
            module.activation_checkpointing_enable({"use_reentrant": False})
    task = Reconstruction(
        start.model,
        decoder,
        mlm_weight=config.mlm_weight,
        mae_weight=config.mae_weight,
        shift=config.shift,
        pad_token=_pad_token(parts),
        token_keys=geometry.token_keys,
    )
    if config.compile:
        for layer in (*task.blocks(), *(decoder.body.layers if decoder else ())):
            layer.compile(dynamic=True)
    return Prepared(start, parts, geometry, token, min(longest, config.max_length), task, adapted)


def require_two_way(prepared: Prepared) -> None:
    """Measure, before any work, that the switch works on this base."""
    verdict = proof.probe(backbone.inner(prepared.start.model), prepared.processor, paddings=("none",))
    if verdict.attention != "two-way":
        kind, why = prepared.start.model.config.model_type, f" ({verdict.reason})" if verdict.reason else ""
        raise TwowayError(f"{prepared.start.name} ({kind}) cannot be made two-way: it is measured {verdict.attention}{why}")


def _decoder(start: Start, geometry: PatchGeometry, config: PretrainConfig) -> PatchDecoder:
    """Make the patch decoder, from the one beside the base where there is one."""
    try:
        decoder = PatchDecoder(start.model.get_decoder(), values=geometry.values, depth=config.decoder_depth)
    except ValueError as error:
        raise UsageError(f"decoder_depth: {first_line(error)}") from error
    if start.heads.patch_decoder:
        try:
            decoder.load_state_dict(start.heads.patch_decoder)
        except RuntimeError as error:
            layers = {name.split(".")[2] for name in start.heads.patch_decoder if name.startswith("body.layers.")}
            raise TwowayError(
                f"the patch decoder beside {start.name} has {len(layers)} layers and "
                f"{len(start.heads.patch_decoder.get('to_values.weight', ()))} values a token; this run asks for decoder_depth "
                f"{config.decoder_depth} and {geometry.values} values"
            ) from error
    return decoder


def _choose(model: Any, decoder: PatchDecoder | None, config: PretrainConfig) -> Any:
    """Choose what trains; return the model as peft wraps it, where adapters do."""
    found = backbone.parts(model)
    if config.lora.rank:
        lora = config.lora
        if config.freeze_tower or config.train_layers:
            raise UsageError("with lora.rank only the adapters train: leave freeze_tower and train_layers out, and choose lora.parts")
        adapted, _ = adapters.add_adapters(model, lora.parts, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, dora=lora.dora)
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
    if not config.mlm_weight and found.head is not None and found.head.weight is not model.get_input_embeddings().weight:
        # No logits are asked for, so the head would only cost memory.
        found.head.requires_grad_(False)
    return None


def _pad_token(parts: Any) -> int:
    """Return the id that fills rows up; a tokenizer without one pads with its end, which the mask hides."""
    tokenizer = parts.tokenizer
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0
