"""What a stage costs in operations, time and memory, estimated from the model's config and the tokens that it reads.

Parameters are counted on a model without weights, part by part. A token costs 2 operations a parameter that it passes, forward, and twice
that backward; attention costs 4 x width x row length a layer besides; patches cost the tower's parameters, and words that have a target the
head's. Time is operations over a rate: what this machine reaches in one large product, measured now, times the stated share of it that a
training step reaches. Memory is weights, gradients and optimizer, and what a batch keeps for the way back. It is an estimate: half or
twice is near.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from twoway.model import backbone
from twoway.training.progress import memory as memory_used

if TYPE_CHECKING:
    from pathlib import Path

    from twoway.data.patches import PatchGeometry

    from .amounts import Amount

# Of the rate that one large product reaches, what a whole training step does.
SHARE = 0.35
_ADAPTED = 0.02  # share of the parameters that adapters add
# Numbers of a layer that the way back needs, in units of the width, for each token; with states computed again, one.
_KEPT, _KEPT_AGAIN = 34, 2


@dataclass(frozen=True)
class Shape:
    """The parts of a model in parameters, and the sizes that costs hang on."""

    sizes: dict[str, int]
    layers: int
    width: int
    vocabulary: int
    patches: int  # of an image token
    tower: tuple[int, int] = (0, 0)  # layers and width

    @property
    def total(self) -> int:
        """Count all parameters."""
        return sum(self.sizes.values())

    @property
    def head(self) -> int:
        """Count what the logits of a word go through, tied or not."""
        return self.width * self.vocabulary


def shape_of(folder: Path, geometry: PatchGeometry) -> Shape:
    """Read a checkpoint's config and count its parameters; its weights are not read."""
    config = backbone.load_config(folder)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    parts, text = backbone.parts(model), config.get_text_config()
    tower = _stack(parts.tower[1]) if parts.tower else (0, 0)
    return Shape(parts.sizes(), len(parts.layers), int(text.hidden_size), int(text.vocab_size), geometry.patches, tower)


def operations(shape: Shape, config: Any, amount: Amount) -> float:
    """Return the floating-point operations of a training run, padding included."""
    language, tower = shape.sizes.get("language model", 0), shape.sizes.get("tower", 0) + shape.sizes.get("projector", 0)
    length = amount.padded / max(amount.rows, 1)
    words = _masked(config) * (amount.tokens - amount.image_tokens)
    forward = 2.0 * language * amount.padded + 4.0 * shape.layers * shape.width * length * amount.padded
    forward += 2.0 * tower * amount.image_tokens * shape.patches + 2.0 * shape.head * words
    forward += 2.0 * _decoder(config) * language / shape.layers * amount.padded
    # Gradients of the states, and of the weights where they train; states that are computed again cost a third pass.
    passes = 2 + (0 if config.lora.rank else 1) + bool(config.gradient_checkpointing) + amount.passes
    return forward * passes


def bytes_needed(shape: Shape, config: Any, amount: Amount, nproc: int = 1) -> int:
    """Return the memory of one rank."""
    half = config.dtype == "bfloat16"
    bytes_each = 2 if half else 4
    training = _ADAPTED * shape.total if config.lora.rank else shape.total
    # Weights in float32, their copy for arithmetic in half precision, and where they train a gradient and the optimizer's two states.
    held = (4 + 2 * half) * shape.total + 12 * training
    if config.parallel == "fsdp":
        held /= nproc
    states = amount.batch * _kept(shape.layers + _decoder(config), shape.width, config)
    if "tower" in config.lora.parts if config.lora.rank else not config.freeze_tower:
        # Patches stand in the tower as tokens do in the language model, several for each image token.
        states += amount.batch_images * shape.patches * _kept(*shape.tower, config)
    logits = min(1024, _masked(config) * amount.batch) * shape.vocabulary * 12
    beside = memory_used(torch.device("cpu")) if not torch.cuda.is_available() else 1 << 29
    return int(held + bytes_each * states + logits + beside)


def _kept(layers: int, width: int, config: Any) -> int:
    """Return the numbers that the way back needs of one token of a stack of layers."""
    return (_KEPT_AGAIN * layers + _KEPT) * width if config.gradient_checkpointing else _KEPT * layers * width


def _stack(tower: nn.Module) -> tuple[int, int]:
    """Return layers and width of a tower: its longest list of modules, and what the first line of its first layer reads."""
    lists = [one for one in tower.modules() if isinstance(one, nn.ModuleList) and len(one)]
    layers = max(lists, key=len, default=nn.ModuleList())
    width = next((line.in_features for layer in layers for line in layer.modules() if isinstance(line, nn.Linear)), 0)
    return len(layers), width


def _decoder(config: Any) -> int:
    """Return the layers of the patch decoder."""
    return int(config.decoder_depth) if getattr(config, "mae_weight", 0) and getattr(config, "objective", "") != "causal" else 0


def _masked(config: Any) -> float:
    """Return the share of words that have a target."""
    return float(getattr(getattr(config, "mask", None), "words", 0.0))
