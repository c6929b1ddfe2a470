"""The memory of one rank: weights, gradients, the optimizer's states, copies in half precision, and what a batch keeps for the way back.

Weights are float32 and arithmetic is autocast to bfloat16 unless a stage asks for float32 (`training`), so a weight that trains takes 16
bytes: itself, its gradient and AdamW's two states, and under DDP two more for the copy in bfloat16 that autocast keeps until a pass
ends. FSDP (`training.sharding`) cuts the 16 to a rank's share and gathers in the type of the arithmetic: a layer of the language model
and the next one, and what is no such layer (tower, embeddings, head, decoder) for a whole pass; its gradients lie whole for a moment, in
that type and in float32 on their way. Activations are counted a place and layer from the operations that keep something; with
`gradient_checkpointing` a layer's input stays, and one layer at a time is whole.

The machine's own memory holds a copy of what a checkpoint writes beside training: weights and states, each rank its share.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from twoway.errors import TwowayError
from twoway.model.backbone import load_config

from .plan_count import CHUNK
from .plan_model import anatomy_of
from .plan_stage import training_of

if TYPE_CHECKING:
    from twoway.training.ranks import Ranks

    from .plan_count import Training
    from .plan_model import Anatomy, Blocks
    from .stage_config import StageConfig
    from .stage_model import Prepared

USABLE = 0.92  # of the memory; the rest is lost between pieces
_CONTEXT = 1.5 * 2**30  # what the driver and the libraries hold
_FULL, _HALF = 4, 2
_IMAGE = 0.8  # share of a batch that is pictures, where nobody has counted


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank, and the image tokens that it may have at a time."""

    parallel: str
    checkpointing: bool
    weights: float
    gradients: float
    optimizer: float
    copies: float
    activations: float
    logits: float
    places: float  # a batch's, for which this is
    most: float  # places that fit
    fits: bool
    host: float  # of the machine's memory: the copy of this rank's part of a checkpoint, while that is written

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations + self.logits + _CONTEXT

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self) | {"total": self.total}


def kept(blocks: Blocks, training: Training) -> float:
    """Return what one place keeps of one layer: norms and what lines read, the inputs of attention, the wide part."""
    size = _HALF if training.half else _FULL
    norms = 2 * (2 * _FULL + _HALF * training.half) * blocks.width  # what a norm made is a line's input as it is, in float32
    attention = size * (2 * blocks.heads + 2 * blocks.keys)
    return norms + attention + 4 * size * blocks.inner


def trained(model: Anatomy, training: Training) -> float:
    """Count the parameters that train, the decoder's included."""
    if training.lora is not None:
        lora, lines = training.lora, {"language": model.language.lines, "tower": model.tower.lines, "projector": model.projector}
        size = sum(
            lora.rank * (one.into + one.out) + lora.dora * one.out for part in lora.parts for one in lines[part] if lora.covers(one.name)
        )
    elif training.train_layers:
        size = model.layer * training.train_layers + model.sizes["projector"]
        size += 0 if training.freeze_tower else model.sizes["tower"]
    else:
        size = model.total - (model.sizes["tower"] if training.freeze_tower else 0) - (0 if training.logits else model.sizes["head"])
    return float(size + decoder(model, training))


def decoder(model: Anatomy, training: Training) -> int:
    """Count the parameters of the patch decoder."""
    if not training.decoder_depth:
        return 0
    return training.decoder_depth * model.layer + (model.language.width + 1) * model.values


def memory(
    model: Anatomy,
    training: Training,
    *,
    places: float,
    image: float,
    parallel: str,
    ranks: int,
    room: float,
) -> Memory:
    """Count a rank's bytes for a batch of so many places, a share `image` of them of pictures."""
    train = trained(model, training)
    held = model.total + decoder(model, training) + (train if training.lora is not None else 0)
    cut = ranks if parallel == "fsdp" else 1
    rest, layer = held - model.language.count * model.layer, model.layer
    size = _HALF if training.half else _FULL
    gathered = 0.0 if cut == 1 else size * (rest + 2 * layer)
    travelling = 0.0 if cut == 1 else (size + _FULL) * min(max(rest, 2 * layer), train)
    adapted = training.lora is not None and training.checkpointing
    copies = 0.0 if cut > 1 else float(_HALF * training.half * (held if not adapted else model.layer))
    each = _states(model, training, image)
    once = _once(model, training, image) if training.checkpointing else 0.0
    logits = float(CHUNK * model.vocabulary * 12 * training.logits)
    weights, optimizer = _FULL * held / cut + gathered, 2 * _FULL * train / cut
    gradients = _FULL * train / cut + travelling
    fixed = weights + optimizer + gradients + copies + logits + _CONTEXT
    most = max((room * USABLE - fixed) / (each + once), 0.0)
    activations = (each + once) * places
    fits = fixed + activations <= room * USABLE
    host = 3 * _FULL * train / ranks
    return Memory(parallel, training.checkpointing, weights, gradients, optimizer, copies, activations, logits, places, most, fits, host)


def choose_parallel(prepared: Prepared[Any], config: StageConfig, ranks: Ranks) -> Literal["ddp", "fsdp"]:
    """Say how ranks share the model where nobody does: by DDP, unless the plan says that a rank's memory does not hold that."""
    if config.parallel != "auto":
        return config.parallel
    if ranks.count == 1 or ranks.device.type != "cuda":
        return "ddp"
    return "ddp" if fits_whole(prepared, config, ranks.count, torch.cuda.get_device_properties(ranks.device).total_memory) else "fsdp"


def fits_whole(prepared: Prepared[Any], config: StageConfig, ranks: int, room: float) -> bool:
    """Say whether a rank that holds all of the model has room for its batch, too."""
    try:
        # The config as it is stored: that of the model in memory has attention kernels of its own.
        known, training = anatomy_of(prepared.start.name, load_config(prepared.start.folder)), training_of(config)
    except TwowayError:
        # A family whose activations nobody counts: what is kept whole may take half of the memory.
        held = sum(one.numel() for one in prepared.task.parameters())
        train = sum(one.numel() for one in prepared.task.parameters() if one.requires_grad)
        return bool((_FULL + _HALF) * held + 3 * _FULL * train <= room / 2)
    places = float(config.max_length * config.batch_rows) if config.batch_rows is not None else float(config.budget)
    return memory(known, training, places=places, image=_IMAGE, parallel="ddp", ranks=ranks, room=room).fits


def _states(model: Anatomy, training: Training, image: float) -> float:
    """Return what a place keeps of all layers; an image token also what its patches keep in the tower, where that is gone back through."""
    layers = model.language.count + training.decoder_depth
    patches = image * model.merged * (1 - training.skipped)
    reached = not training.freeze_tower if training.lora is None else "tower" in training.lora.parts
    tower = patches * model.tower.count * reached
    if training.checkpointing:
        return _FULL * (layers * model.language.width + tower * model.tower.width)
    return layers * kept(model.language, training) + tower * kept(model.tower, training)


def _once(model: Anatomy, training: Training, image: float) -> float:
    """Return what a place keeps of the one layer that is whole, with the gradients on the way through it."""
    patches = image * model.merged * (1 - training.skipped)
    return 1.5 * max(kept(model.language, training), patches * kept(model.tower, training))
