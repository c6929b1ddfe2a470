"""How a family is made at nano size: its real config, model and processor classes.

Here are the parts they share and the Qwen-VL kind: towers that take any size and rotary positions in three parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .library import LibraryForward

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import NanoConfig
    from .fast import GridForward

# The base's template puts the parts down as they come, and ends each message with a line break: no roles, for a small model has no words to
# spare for ceremony. At the break the model is to speak, so the state there says what it makes of the message, whatever that is made of.
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' or 'image' in part -%}IMAGE{%- elif 'text' in part -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{ '\\n' }}{%- endfor -%}"
)


@dataclass(frozen=True)
class Family:
    """How a family is made: model and processor from a config and a tokenizer, its special tokens, and which forward trains it."""

    build: Callable[[NanoConfig, Any], tuple[Any, Any]]
    tokens: dict[str, str]
    forward: type[GridForward] | type[LibraryForward] = LibraryForward


def text_config(config: NanoConfig, tokenizer: Any, **more: Any) -> dict[str, Any]:
    """Return the settings that language models share."""
    shared = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.mlp,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    return shared | more


def tower_config(config: NanoConfig, **more: Any) -> dict[str, Any]:
    """Return the settings that plain towers share: one size of picture, learned positions."""
    shared = {
        "hidden_size": config.tower_width,
        "num_hidden_layers": config.tower_layers,
        "num_attention_heads": config.tower_heads,
        "intermediate_size": 4 * config.tower_width,
        "image_size": config.picture,
        "patch_size": config.patch,
    }
    return shared | more


def _qwen(config: NanoConfig, tokenizer: Any, kind: str, vision: dict[str, Any], image: Any) -> tuple[Any, Any]:
    """Return a Qwen-VL of one kind: one frame a picture, so that no value is there twice."""
    import transformers

    head = config.width // config.heads
    # the shares of a head's rotary pairs for time, height and width are the family's own: 1/4, 3/8, 3/8
    section = [head // 2 - 2 * (head * 3 // 16), head * 3 // 16, head * 3 // 16]
    rotary = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": section}
    names = {
        "image_token": "image_token",
        "video_token": "video_token",
        "vision_start": "vision_bos_token",
        "vision_end": "vision_eos_token",
    }
    ids = {f"{name.removesuffix('_token')}_token_id": tokenizer.convert_tokens_to_ids(QWEN_TOKENS[key]) for name, key in names.items()}
    settings = getattr(transformers, f"{kind}Config")(
        text_config=text_config(config, tokenizer, rope_parameters=rotary),
        vision_config={
            "depth": config.tower_layers,
            "num_heads": config.tower_heads,
            "patch_size": config.patch,
            "spatial_merge_size": config.merge,
            "temporal_patch_size": 1,
        }
        | vision,
        tie_word_embeddings=True,
        **ids,
    )
    shared: dict[str, Any] = {"patch_size": config.patch, "merge_size": config.merge, "temporal_patch_size": 1}
    shared |= {"size": {"shortest_edge": config.picture**2, "longest_edge": config.largest**2}}
    shared |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = getattr(transformers, f"{kind}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=image(**shared),
        chat_template=TEMPLATE.replace("IMAGE", f"{QWEN_PICTURE}{{%- elif part['type'] == 'video' or 'video' in part -%}}{QWEN_VIDEO}"),
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(settings), processor


def qwen2_vl(config: NanoConfig, tokenizer: Any) -> tuple[Any, Any]:
    """Return the shipped family."""
    from transformers import Qwen2VLVideoProcessor

    vision = {"embed_dim": config.tower_width, "mlp_ratio": 4, "hidden_size": config.width}
    return _qwen(config, tokenizer, "Qwen2VL", vision, Qwen2VLVideoProcessor)


def qwen2_5_vl(config: NanoConfig, tokenizer: Any) -> tuple[Any, Any]:
    """Return a Qwen2.5-VL: windows of half a picture, the last tower layer over the whole."""
    from transformers import Qwen2VLVideoProcessor

    vision: dict[str, Any] = {
        "hidden_size": config.tower_width,
        "out_hidden_size": config.width,
        "intermediate_size": 4 * config.tower_width,
    }
    vision |= {"window_size": config.picture // 2, "fullatt_block_indexes": [config.tower_layers - 1]}
    return _qwen(config, tokenizer, "Qwen2_5_VL", vision, Qwen2VLVideoProcessor)


def qwen3_vl(config: NanoConfig, tokenizer: Any) -> tuple[Any, Any]:
    """Return a Qwen3-VL: learned positions over the largest grid, the first tower layer fed deep into the language model too."""
    from transformers import Qwen3VLVideoProcessor

    vision: dict[str, Any] = {
        "hidden_size": config.tower_width,
        "out_hidden_size": config.width,
        "intermediate_size": 4 * config.tower_width,
    }
    vision |= {"num_position_embeddings": (config.largest // config.patch) ** 2, "deepstack_visual_indexes": [0]}
    return _qwen(config, tokenizer, "Qwen3VL", vision, Qwen3VLVideoProcessor)


QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
QWEN_PICTURE, QWEN_VIDEO = (
    QWEN_TOKENS["vision_bos_token"] + QWEN_TOKENS[name] + QWEN_TOKENS["vision_eos_token"] for name in ("image_token", "video_token")
)
