"""The memory of one rank: what a training keeps of a model, counted from the module that trains (with or without weights) and its batch.

Weights are float32 and arithmetic is autocast to bfloat16 unless a stage asks for float32, so a weight that trains takes 16 bytes: itself,
its gradient and AdamW's two states, and under DDP two more for the copy in bfloat16 that autocast keeps until a pass ends. FSDP cuts the 16
to a rank's share and gathers in the type of the arithmetic: a layer of the language model and the next one, and what is no such layer
(tower, embeddings, head, decoder) for a whole pass; its gradients lie whole for a moment, in that type and in float32 on their way.
Activations are counted a place and layer from the operations that keep something; with `gradient_checkpointing` a layer's input stays, and
one layer at a time is whole.

The machine's own memory holds a copy of what a checkpoint writes beside training: weights and states, each rank its share.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.initialization import no_init_weights

from twoway.models import loading
from twoway.models.loading import locate
from twoway.training.probes import WORD_LOSSES

if TYPE_CHECKING:
    from twoway.training.distributed import Ranks
    from twoway.training.module import TrainingModule

    from .config import MethodConfig
    from .model import PreparedModel

USABLE = 0.92  # of the memory; the rest is lost between pieces
CONTEXT = 1.5 * 2**30  # what the driver and the libraries hold
CHUNK = 1024  # positions that have logits at a time; more are computed again (losses.masked_lm)
_FULL, _HALF = 4, 2
_IMAGE = 0.8  # share of a batch that is pictures, where nobody has counted


@dataclass(frozen=True)
class Blocks:
    """A stack of equal layers."""

    count: int
    width: int
    heads: int  # numbers of all heads together
    keys: int  # of the keys, which may be fewer
    inner: int  # of the layer's own wide part

    def kept(self, *, half: bool) -> float:
        """Return what one place keeps of one layer: norms and what lines read, the inputs of attention, the wide part."""
        size = _HALF if half else _FULL
        norms = 2 * (2 * _FULL + _HALF * half) * self.width  # what a norm made is a line's input as it is, in float32
        return norms + size * (2 * self.heads + 2 * self.keys) + 4 * size * self.inner


@dataclass(frozen=True)
class ModuleSizes:
    """What trains, in numbers."""

    held: int  # parameters, those of adapters and of the patch decoder among them
    trained: int
    layer: int  # of one layer of the language model
    language: Blocks
    decoder: int  # layers of the patch decoder
    tower: Blocks | None
    tower_trains: bool
    patches: int  # of an image token
    pixels: int  # numbers of a patch, which its convolution keeps
    vocabulary: int
    logits: bool

    @classmethod
    def of(cls, module: TrainingModule, patches: int) -> ModuleSizes:
        """Measure a module that trains a model."""
        model: Any = module.model
        found, text = loading.parts(model), model.config.get_text_config()
        inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
        heads = int(text.num_attention_heads)
        head = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
        keys = int(getattr(text, "num_key_value_heads", None) or heads)
        wide = max(inner) if isinstance(inner, list | tuple) else int(inner)
        tower = found.tower[1] if found.tower else None
        decoder: Any = getattr(module, "decoder", None)
        return cls(
            held=sum(one.numel() for one in module.parameters()),
            trained=sum(one.numel() for one in module.parameters() if one.requires_grad),
            layer=sum(one.numel() for one in found.layers[-1].parameters()),
            language=Blocks(len(found.layers), int(text.hidden_size), head * heads, head * keys, wide),
            decoder=len(decoder.body.layers) if decoder is not None else 0,
            tower=_blocks(tower) if tower is not None else None,
            tower_trains=tower is not None and any(one.requires_grad for one in tower.parameters()),
            patches=patches,
            pixels=next((one.weight[0].numel() for one in _convolutions(tower)), 0),
            vocabulary=int(text.vocab_size),
            logits=any(name in WORD_LOSSES for name in module.loss_weights),
        )


def _convolutions(tower: nn.Module | None) -> list[nn.Conv2d | nn.Conv3d]:
    return [one for one in tower.modules() if isinstance(one, nn.Conv2d | nn.Conv3d)] if tower is not None else []


def tower_layers(tower: nn.Module) -> nn.ModuleList:
    """Find the layers of a tower: its longest list of modules."""
    return max((one for one in tower.modules() if isinstance(one, nn.ModuleList)), key=len, default=nn.ModuleList())


def _blocks(tower: nn.Module) -> Blocks:
    """Measure the layers of a tower, which are as wide as what the first line of the first one reads."""
    layers = tower_layers(tower)
    lines = [one for one in layers[:1].modules() if isinstance(one, nn.Linear)]
    width = lines[0].in_features if lines else 0
    inner = max((one.out_features for one in lines if one.in_features == width and one.out_features != 3 * width), default=width)
    return Blocks(len(layers), width, width, width, inner)


@dataclass(frozen=True)
class TrainingMemory:
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
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations + self.logits + CONTEXT

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self) | {"total": self.total}


def training_memory(
    sizes: ModuleSizes,
    config: MethodConfig,
    *,
    places: float,
    image: float,
    parallel: str,
    ranks: int,
    room: float = float("inf"),
    checkpointing: bool | None = None,
) -> TrainingMemory:
    """Count a rank's bytes for a batch of so many places, a share `image` of them of pictures; `checkpointing` stands over the config's."""
    again = config.gradient_checkpointing if checkpointing is None else checkpointing
    half, held, train, layer = config.dtype != "float32", sizes.held, sizes.trained, sizes.layer
    cut = ranks if parallel == "fsdp" else 1
    rest, size = held - sizes.language.count * layer, _HALF if half else _FULL
    gathered = 0.0 if cut == 1 else size * (rest + 2 * layer)
    travelling = 0.0 if cut == 1 else (size + _FULL) * min(max(rest, 2 * layer), train)
    adapted = bool(config.lora.r) and again
    copies = 0.0 if cut > 1 else float(_HALF * half * (held if not adapted else layer))
    each = _activations(sizes, config, image, again=again)
    logits = float(min(CHUNK, places) * sizes.vocabulary * 12 * sizes.logits)
    weights, optimizer = _FULL * held / cut + gathered, 2 * _FULL * train / cut
    gradients = _FULL * train / cut + travelling
    fixed = weights + optimizer + gradients + copies + logits + CONTEXT
    most = max((room * USABLE - fixed) / each, 0.0)
    fits = fixed + each * places <= room * USABLE
    host = 3 * _FULL * train / ranks
    return TrainingMemory(parallel, again, weights, gradients, optimizer, copies, each * places, logits, places, most, fits, host)


def _activations(sizes: ModuleSizes, config: MethodConfig, image: float, *, again: bool) -> float:
    """Return what a place keeps of all layers; an image token also what its patches keep in the tower, where that is gone back through.

    With activations computed again, of all layers the input, and of the one that is whole all, with the gradients on the way through it.
    """
    half, way = config.dtype != "float32", getattr(config, "masked_patches", "noise") if sizes.decoder else "noise"
    masked = config.mask.patches if way != "noise" else 0.0  # type: ignore[attr-defined]
    patches = image * sizes.patches * (1 - masked)
    layers = sizes.language.count * (1 - image * masked if way == "drop" else 1) + sizes.decoder
    language, tower = sizes.language.kept(half=half), 0.0 if sizes.tower is None else sizes.tower.kept(half=half)
    depth = 0 if sizes.tower is None else patches * sizes.tower.count * sizes.tower_trains
    pixels = (_HALF if half else _FULL) * sizes.pixels * patches * sizes.tower_trains
    if not again:
        return layers * language + depth * tower + pixels
    width = 0 if sizes.tower is None else sizes.tower.width
    return pixels + _FULL * (layers * sizes.language.width + depth * width) + 1.5 * max(language, patches * tower)


def count_parameters(config: Any) -> int:
    """Count the parameters of a model by its config."""
    with torch.device("meta"), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    return sum(one.numel() for one in model.parameters())


def batch_places(config: MethodConfig) -> float:
    """Return the places of a rank's largest batch."""
    rows = config.per_device_train_batch_size
    return float(config.budget if rows is None else config.max_length * rows)


def choose_parallel(prepared: PreparedModel[Any], config: MethodConfig, ranks: Ranks) -> Literal["ddp", "fsdp"]:
    """Say how ranks share the model where nobody does: by DDP, unless the plan says that a rank's memory does not hold that."""
    if config.parallel != "auto":
        return config.parallel
    if ranks.world_size == 1 or ranks.device.type != "cuda":
        return "ddp"
    return "ddp" if fits_whole(prepared, config, ranks.world_size, torch.cuda.get_device_properties(ranks.device).total_memory) else "fsdp"


def fits_whole(prepared: PreparedModel[Any], config: MethodConfig, ranks: int, room: float) -> bool:
    """Say whether a rank that holds all of the model has room for its batch, too."""
    sizes = ModuleSizes.of(prepared.module, prepared.geometry.patches)
    return training_memory(sizes, config, places=batch_places(config), image=_IMAGE, parallel="ddp", ranks=ranks, room=room).fits


# Published sizes stand here so that a plan needs no download: each is a config of transformers' own class with the
# values of the model's `config.json` (Qwen/Qwen2-VL-2B-Instruct, Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct). Any
# other model is read from its folder.

_TEXT: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2-VL-2B-Instruct": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
        "vocab_size": 151_936, "tie_word_embeddings": True, "max_position_embeddings": 32_768,
    },
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "hidden_size": 2048, "intermediate_size": 11_008, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
        "vocab_size": 151_936, "tie_word_embeddings": True, "max_position_embeddings": 128_000,
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "vocab_size": 152_064, "tie_word_embeddings": False, "max_position_embeddings": 128_000,
    },
}  # fmt: skip
PUBLISHED = tuple(_TEXT)
_PATCHES = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}


def config_of(base: str | Path) -> Any:
    """Return the config of a model: of a folder, of a published size that stands here, or else of the hub."""
    if not Path(base).is_dir() and str(base) in _TEXT:
        return _published(str(base))
    return loading.load_config(locate(base))


def _published(name: str) -> Any:
    text = _TEXT[name]
    section = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
    own = {**text, "rope_parameters": section}
    if "Qwen2-VL" in name:
        vision = {**_PATCHES, "embed_dim": 1280, "hidden_size": text["hidden_size"], "mlp_ratio": 4}
        return transformers.Qwen2VLConfig(text_config=own, vision_config=vision, tie_word_embeddings=text["tie_word_embeddings"])
    windows = {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
    vision = {**_PATCHES, **windows, "hidden_size": 1280, "out_hidden_size": text["hidden_size"], "intermediate_size": 3420}
    return transformers.Qwen2_5_VLConfig(text_config=own, vision_config=vision, tie_word_embeddings=text["tie_word_embeddings"])
