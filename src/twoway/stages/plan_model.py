"""The parts of a model whose products are counted, from its config alone: a model without weights is built and its linear layers read.

Published sizes stand here so that a plan needs no download: each is a config of transformers' own class with the values of the model's
`config.json` (Qwen/Qwen2-VL-2B-Instruct, Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct). Any other model is read from its folder.

Known are families whose tower sees rows of patches, merged by `spatial_merge_size` into one image token (Qwen's): there a linear layer of
the tower works once a patch, one of a merger once an image token. Others are refused, because their tiles would be guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForImageTextToText

from twoway.errors import TwowayError
from twoway.model import backbone
from twoway.model.source import locate

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
class Line:
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

    lines: tuple[Line, ...]  # of all layers
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
    projector: tuple[Line, ...]
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
    return backbone.load_config(locate(base))


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
    parts, text = backbone.parts(model), config.get_text_config()
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


def _lines(found: list[tuple[str, nn.Linear]]) -> tuple[Line, ...]:
    return tuple(Line(key, one.in_features, one.out_features) for key, one in found)
