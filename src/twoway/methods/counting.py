"""Operations and memory of a training, counted from a model's config: its parts, the products of a pass, and what one rank holds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from functools import cache
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers
from torch import nn
from transformers import AutoModelForImageTextToText

from twoway.errors import TwowayError
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.pretrain.config import PretrainConfig
from twoway.models import loading
from twoway.models.loading import load_config, locate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twoway.training.distributed import Ranks

    from .config import AdapterConfig, MethodConfig
    from .model import PreparedModel


# The parts of a model whose products are counted, from its config alone: a model without weights is built and its
# linear layers read.
#
# Published sizes stand here so that a plan needs no download: each is a config of transformers' own class with the
# values of the model's `config.json` (Qwen/Qwen2-VL-2B-Instruct, Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct). Any
# other model is read from its folder.
#
# Known are families whose tower sees rows of patches, merged by `spatial_merge_size` into one image token (Qwen's):
# there a linear layer of the tower works once a patch, one of a merger once an image token. Others are refused,
# because their tiles would be guessed.

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


@dataclass(frozen=True)
class LinearLayer:
    """A linear layer: what goes in and out of it."""

    name: str
    into: int
    out: int

    @property
    def size(self) -> int:
        """Numbers of its weight."""
        return self.into * self.out


@dataclass(frozen=True)
class Blocks:
    """A stack of equal layers. `first` are the lines that read the stack's input, in the first layer; `last` ends a layer."""

    lines: tuple[LinearLayer, ...]  # of all layers
    count: int
    width: int
    heads: int  # numbers of all heads together
    keys: int  # of the keys, which may be fewer
    inner: int  # of the layer's own wide part
    first: tuple[str, ...]
    last: tuple[str, ...]


@dataclass(frozen=True)
class Anatomy:
    """A model as its products see it."""

    name: str
    sizes: dict[str, int]  # parameters by part
    language: Blocks
    tower: Blocks
    patch: int  # numbers of the product that makes a patch
    projector: tuple[LinearLayer, ...]
    merged: int  # patches of an image token
    window: int  # tokens along a side of the tower's windows; 0: a picture sees itself whole
    whole: int  # layers of the tower without windows
    vocabulary: int
    values: int  # of the pixels of an image token
    area: int  # pixels that an image token covers
    layer: int  # parameters of one layer of the language model

    @property
    def total(self) -> int:
        """Count all parameters."""
        return sum(self.sizes.values())

    @property
    def head(self) -> int:
        """Numbers of the product that makes the logits of a word."""
        return self.language.width * self.vocabulary


def config_of(base: str | Path) -> Any:
    """Return the config of a model: of a folder, of a published size that stands here, or else of the hub."""
    if not Path(base).is_dir() and str(base) in _TEXT:
        return _published(str(base))
    return loading.load_config(locate(base))


def _published(name: str) -> Any:
    text = _TEXT[name]
    section = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
    said = {**text, "rope_parameters": section}
    if "Qwen2-VL" in name:
        vision = {**_PATCHES, "embed_dim": 1280, "hidden_size": text["hidden_size"], "mlp_ratio": 4}
        return transformers.Qwen2VLConfig(text_config=said, vision_config=vision, tie_word_embeddings=text["tie_word_embeddings"])
    windows = {"window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
    vision = {**_PATCHES, **windows, "hidden_size": 1280, "out_hidden_size": text["hidden_size"], "intermediate_size": 3420}
    return transformers.Qwen2_5_VLConfig(text_config=said, vision_config=vision, tie_word_embeddings=text["tie_word_embeddings"])


@cache
def anatomy(base: str | Path) -> Anatomy:
    """Read the parts of a model from its config; weights are not read."""
    return anatomy_of(str(base), config_of(base))


def anatomy_of(name: str, config: Any) -> Anatomy:
    """Build the model of a config without weights, and read its parts."""
    vision: Any = getattr(config, "vision_config", None)
    if not hasattr(vision, "spatial_merge_size"):
        raise TwowayError(
            f"{name} ({config.model_type}): plan knows towers that merge patches into image tokens (Qwen's families), and not this one; "
            "'twoway run RECIPE OUT --dry-run' estimates it roughly"
        )
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    model.tie_weights()
    parts, text = loading.parts(model), config.get_text_config()
    assert parts.tower is not None
    joined = {id(one) for _, module in parts.projectors for one in module.modules()}
    tower_lines = [(key, one) for key, one in parts.tower[1].named_modules() if isinstance(one, nn.Linear) and id(one) not in joined]
    kernels = [one for one in parts.tower[1].modules() if isinstance(one, nn.Conv3d)]
    if len(kernels) != 1:
        raise TwowayError(f"{name} ({config.model_type}): plan knows towers that make patches by one convolution, and not this one")
    kernel, merged = kernels[0].weight, int(vision.spatial_merge_size) ** 2
    depth, width = int(vision.depth), int(kernel.shape[0])
    side = int(getattr(vision, "window_size", 0) or 0) // (int(vision.patch_size) * int(vision.spatial_merge_size))
    whole = len(vision.fullatt_block_indexes) if side else depth
    head = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    lines = [(key, one) for key, one in parts.layers.named_modules() if isinstance(one, nn.Linear)]
    heads, keys = head * int(text.num_attention_heads), head * int(text.num_key_value_heads)
    inner = max(one.out_features for _, one in tower_lines if one.in_features == width and one.out_features != 3 * width)
    return Anatomy(
        name=name,
        sizes=parts.sizes(),
        language=Blocks(
            _lines(lines), len(parts.layers), int(text.hidden_size), heads, keys, int(text.intermediate_size),
            ("0.self_attn.q_proj", "0.self_attn.k_proj", "0.self_attn.v_proj"), ("down_proj",),
        ),
        tower=Blocks(_lines(tower_lines), depth, width, width, width, inner, ("blocks.0.attn.qkv",), ("down_proj", "fc2", "linear_fc2")),
        patch=kernel.numel(),
        projector=_lines([(f"{key}.{sub}", one) for key, module in parts.projectors for sub, one in _linear(module)]),
        merged=merged,
        window=side,
        whole=whole,
        vocabulary=int(text.vocab_size),
        values=kernel[0].numel() * merged,
        area=kernel.shape[-1] * kernel.shape[-2] * merged,
        layer=sum(one.numel() for one in parts.layers[0].parameters()),
    )  # fmt: skip


def _linear(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(key, one) for key, one in module.named_modules() if isinstance(one, nn.Linear)]


def _lines(found: list[tuple[str, nn.Linear]]) -> tuple[LinearLayer, ...]:
    return tuple(LinearLayer(key, one.in_features, one.out_features) for key, one in found)


# The products of a training pass, counted part by part from a model's parts and the rows that go through it.
#
# A line costs 2 operations for each number of its weight and each place, forward; as much again for the gradient of
# what went in, where that leads to something that trains, and as much for the gradient of its weight, where that
# trains. Attention is two products of (heads x places x places), forward, and twice that backward. With activations
# computed again a layer goes forward once more, but for its last product, which nothing asks for. Adapters are
# counted as peft computes them: DoRA makes its weight norm from a whole product each pass and, with dropout, runs the
# base's product a second time. What is computed twice is kept apart (`again`), so that either share of the peak can
# be told.
#
# Rows may be means: what is linear is exact for them, and squares (attention) are those of the mean, which is a
# little less.

CHUNK = 1024  # positions that have logits at a time; more are computed again (losses.masked_lm)


@dataclass(frozen=True)
class Load:
    """Rows of one shape: words, pictures of `across` x `down` image tokens, and what has a target."""

    rows: float
    text: float
    pictures: float = 0.0
    down: float = 0.0
    across: float = 0.0
    words: float = 0.0  # places of a row with logits
    patches: float = 0.0  # image tokens of a row that are restored
    padded: float | None = None  # length that is computed; default: all of the row and no more

    @classmethod
    def square(cls, rows: float, text: float, pictures: float, tokens: float, **targets: float) -> Load:
        """Make rows whose pictures are squares of so many tokens."""
        return cls(rows, text, pictures, sqrt(tokens), sqrt(tokens), **targets)

    @property
    def image(self) -> float:
        """Image tokens of a row."""
        return self.pictures * self.down * self.across

    @property
    def length(self) -> float:
        """Places of a row that are computed."""
        return self.text + self.image if self.padded is None else self.padded


@dataclass(frozen=True)
class Training:
    """What of a model trains, and how."""

    freeze_tower: bool = False
    train_layers: int = 0
    lora: AdapterConfig | None = None
    checkpointing: bool = False
    decoder_depth: int = 0  # 0: nothing restores patches
    logits: bool = True
    half: bool = True  # arithmetic in bfloat16, which changes no product, and what is kept for the way back
    skipped: float = 0.0  # share of patches that the tower does not see
    calls: float = 1.0  # batches, which DoRA's norm is computed for
    second: float = 0.0  # share of the rows that go forward once before (gradient caching)


@dataclass
class Products:
    """Operations by part: `needed` for the gradient, and `again` what is computed more than once."""

    needed: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    again: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def total(self) -> float:
        """All that is done."""
        return float(sum(self.needed.values()) + sum(self.again.values()))


@dataclass(frozen=True)
class _Flow:
    """How a gradient goes through a stack of lines."""

    enters: bool  # what comes in leads to something that trains
    passes: bool  # and so does what is inside
    trains: bool  # the weights themselves
    adapted: bool  # adapters on them
    again: bool  # forward once more on the way back


def count(model: Anatomy, training: Training, loads: Iterable[Load]) -> Products:
    """Count the products of all rows, forward and backward."""
    done = Products()
    for load in loads:
        _tower(done, model, training, load)
        _language(done, model, training, load)
        _targets(done, model, training, load)
    if training.lora is not None and training.lora.use_dora:
        _norms(done, model, training)
    return done


def _tower(done: Products, model: Anatomy, training: Training, load: Load) -> None:
    adapted, own = _adapts(training, "tower"), _adapts(training, "projector")
    trains = training.lora is None and not training.freeze_tower
    reached = trains or adapted
    seen = 1 - training.skipped
    patches, tokens = load.rows * load.image * model.merged * seen, load.rows * load.image
    pixels = 2.0 * model.patch * patches
    _put(done, "tower", pixels, pixels * trains, training)
    flow = _Flow(trains, reached, trains, adapted, training.checkpointing and reached)
    _stack(done, "tower", model.tower, patches, flow, training)
    whole = (load.down * load.across * model.merged) ** 2
    near = _squares(load.down, model.window) * _squares(load.across, model.window) * model.merged**2 if model.window else 0.0
    squares = load.rows * load.pictures * seen**2 * (model.whole * whole + (model.tower.count - model.whole) * near)
    _attend(done, "tower", 4.0 * model.tower.heads * squares, flow, training)
    merges = _Flow(reached, reached or own or training.lora is None, training.lora is None, own, again=False)
    for number, line in enumerate(model.projector):
        # A merger's second line reads what its first one made, and that one what a norm made, which trains unless adapters do.
        inside = merges.passes if number % 2 or training.lora is None else reached
        _line(done, "projector", line, tokens, inside, merges, training)


def _language(done: Products, model: Anatomy, training: Training, load: Load) -> None:
    """Count the layers; those that do not train still pass on the gradient of pictures, and of nothing else."""
    blocks, free = model.language, training.lora is None
    from_pictures = load.pictures > 0 and (free or _adapts(training, "tower") or _adapts(training, "projector"))
    frozen = (blocks.count - training.train_layers) / blocks.count if training.train_layers else 0.0
    adapted = _adapts(training, "language")
    lower = _Flow(from_pictures, from_pictures, False, False, training.checkpointing and from_pictures)
    enters = from_pictures or (free and not frozen)
    upper = _Flow(enters, free or adapted or enters, free, adapted, training.checkpointing and (free or adapted or enters))
    for share, flow in ((frozen, lower), (1 - frozen, upper)):
        _stack(done, "language model", blocks, load.rows * load.length, flow, training, share)
        _attend(done, "language model", 4.0 * blocks.heads * blocks.count * share * load.rows * load.length**2, flow, training)


def _targets(done: Products, model: Anatomy, training: Training, load: Load) -> None:
    """Count the head at words with a target, and the decoder over rows that have a masked patch."""
    blocks = model.language
    if training.logits:
        head, chunked = 2.0 * model.head * load.rows * load.words, load.rows * load.words / max(training.calls, 1) > CHUNK
        done.needed["head"] += head * (3 if training.lora is None else 2)
        done.again["head"] += head * chunked
    if training.decoder_depth and load.patches:
        flow = _Flow(True, True, True, adapted=False, again=training.checkpointing)
        _stack(done, "decoder", blocks, load.rows * load.length, flow, training, training.decoder_depth / blocks.count)
        _attend(done, "decoder", 4.0 * blocks.heads * load.rows * load.length**2 * training.decoder_depth, flow, training)
        done.needed["decoder"] += 6.0 * blocks.width * model.values * load.rows * load.patches


def _stack(done: Products, part: str, blocks: Blocks, places: float, flow: _Flow, training: Training, share: float = 1.0) -> None:
    """Count the lines of a share of the layers. Under adapters, where nothing enters, the lowest asks for no gradient."""
    if not share:
        return
    for line in blocks.lines:
        last = line.name.rpartition(".")[2] in blocks.last
        _line(done, part, line, places * share, flow.passes, flow, training, last=last)
        if line.name in blocks.first and flow.adapted and not flow.enters:
            lora = _adapter(training, flow, line)
            done.needed[part] -= 2.0 * places * (line.size * _twice(lora) + (line.into * lora.r if lora else 0))


def _line(
    done: Products, part: str, line: LinearLayer, places: float, inside: bool, flow: _Flow, training: Training, *, last: bool = False
) -> None:
    """Count one line at so many places; `inside` says whether what it reads leads to something that trains."""
    lora = _adapter(training, flow, line)
    forward = 2.0 * line.size * places * _twice(lora)
    _put(done, part, forward, forward * (inside + flow.trains), training)
    if flow.again and not (last and lora is None):
        done.again[part] += forward
    if lora is not None:
        down, up = 2.0 * line.into * lora.r * places, 2.0 * line.out * lora.r * places
        _put(done, part, down + up, down * (inside + 1) + up * 2, training)
        done.again[part] += (down + up) * flow.again


def _attend(done: Products, part: str, forward: float, flow: _Flow, training: Training) -> None:
    _put(done, part, forward, 2 * forward * flow.passes, training)
    done.again[part] += forward * flow.again


def _put(done: Products, part: str, forward: float, backward: float, training: Training) -> None:
    """Add a product and what it costs on the way back; gradient caching runs it forward once before."""
    done.needed[part] += forward + backward
    done.again[part] += forward * training.second


def _norms(done: Products, model: Anatomy, training: Training) -> None:
    """Count what DoRA's norms cost: B A of each adapted line, made by passing the unit matrix through, once a pass."""
    lora = training.lora
    assert lora is not None
    found = {"language": ("language model", model.language.lines), "tower": ("tower", model.tower.lines)}
    for name in lora.parts:
        part, lines = found.get(name, ("projector", model.projector))
        once = training.calls * sum(2.0 * line.into * lora.r * (line.into + line.out) for line in lines if lora.covers(line.name))
        done.needed[part] += once
        done.again[part] += once * (training.second + (training.checkpointing and name in found))


def _adapter(training: Training, flow: _Flow, line: LinearLayer) -> AdapterConfig | None:
    """Return the adapter of a line, where it has one."""
    return training.lora if flow.adapted and training.lora is not None and training.lora.covers(line.name) else None


def _twice(lora: AdapterConfig | None) -> float:
    """Say how often an adapted line runs the base's product."""
    return 2.0 if lora is not None and lora.use_dora and lora.lora_dropout else 1.0


def _adapts(training: Training, part: str) -> bool:
    return training.lora is not None and part in training.lora.parts


def _squares(side: float, window: int) -> float:
    """Return the squares of the pieces that windows cut a side into, added up."""
    whole = side // window
    return float(whole * window**2 + (side - whole * window) ** 2)


# The memory of one rank: weights, gradients, the optimizer's states, copies in half precision, and what a batch keeps
# for the way back.
#
# Weights are float32 and arithmetic is autocast to bfloat16 unless a stage asks for float32 (`training`), so a weight
# that trains takes 16 bytes: itself, its gradient and AdamW's two states, and under DDP two more for the copy in
# bfloat16 that autocast keeps until a pass ends. FSDP (`training.sharding`) cuts the 16 to a rank's share and gathers
# in the type of the arithmetic: a layer of the language model and the next one, and what is no such layer (tower,
# embeddings, head, decoder) for a whole pass; its gradients lie whole for a moment, in that type and in float32 on
# their way. Activations are counted a place and layer from the operations that keep something; with
# `gradient_checkpointing` a layer's input stays, and one layer at a time is whole.
#
# The machine's own memory holds a copy of what a checkpoint writes beside training: weights and states, each rank its
# share.

USABLE = 0.92  # of the memory; the rest is lost between pieces
_CONTEXT = 1.5 * 2**30  # what the driver and the libraries hold
_FULL, _HALF = 4, 2
_IMAGE = 0.8  # share of a batch that is pictures, where nobody has counted


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
            lora.r * (one.into + one.out) + lora.use_dora * one.out for part in lora.parts for one in lines[part] if lora.covers(one.name)
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
) -> TrainingMemory:
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
    return TrainingMemory(
        parallel, training.checkpointing, weights, gradients, optimizer, copies, activations, logits, places, most, fits, host
    )


def choose_parallel(prepared: PreparedModel[Any], config: MethodConfig, ranks: Ranks) -> Literal["ddp", "fsdp"]:
    """Say how ranks share the model where nobody does: by DDP, unless the plan says that a rank's memory does not hold that."""
    if config.parallel != "auto":
        return config.parallel
    if ranks.world_size == 1 or ranks.device.type != "cuda":
        return "ddp"
    return "ddp" if fits_whole(prepared, config, ranks.world_size, torch.cuda.get_device_properties(ranks.device).total_memory) else "fsdp"


def fits_whole(prepared: PreparedModel[Any], config: MethodConfig, ranks: int, room: float) -> bool:
    """Say whether a rank that holds all of the model has room for its batch, too."""
    try:
        # The config as it is stored: that of the model in memory has attention kernels of its own.
        known, training = anatomy_of(prepared.start.name, load_config(prepared.start.folder)), training_of(config)
    except TwowayError:
        # A family whose activations nobody counts: what is kept whole may take half of the memory.
        held = sum(one.numel() for one in prepared.module.parameters())
        train = sum(one.numel() for one in prepared.module.parameters() if one.requires_grad)
        return bool((_FULL + _HALF) * held + 3 * _FULL * train <= room / 2)
    places = (
        float(config.max_length * config.per_device_train_batch_size)
        if config.per_device_train_batch_size is not None
        else float(config.budget)
    )
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


def training_of(config: Any) -> Training:
    """Return what of a model trains in this stage."""
    contrastive = isinstance(config, FinetuneConfig)
    restores = isinstance(config, PretrainConfig) and config.mae_weight and config.objective != "causal"
    return Training(
        freeze_tower=config.freeze_tower,
        train_layers=config.train_layers,
        lora=config.lora if config.lora.r else None,
        checkpointing=config.gradient_checkpointing,
        decoder_depth=config.decoder_depth if restores else 0,
        logits=not contrastive and bool(getattr(config, "mlm_weight", 1.0)),
        half=config.dtype != "float32",
        skipped=config.mask.patches if restores and config.masked_patches == "skip" else 0.0,
    )
