"""A nano model and its processor, built from the family's own config class: the real transformers model, only small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import UsageError, did_you_mean
from .init import initialise

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import NanoConfig

# The base's template puts the parts down as they come: no roles, one line a message. A small model has no words to spare for ceremony.
TEMPLATE = (
    "{%- for message in messages -%}{%- if not loop.first -%}{{ '\\n' }}{%- endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' or 'image' in part -%}IMAGE{%- elif 'text' in part -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{%- endfor -%}"
)
QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
QWEN_PICTURE = QWEN_TOKENS["vision_bos_token"] + QWEN_TOKENS["image_token"] + QWEN_TOKENS["vision_eos_token"]


def qwen2_vl(config: NanoConfig, tokenizer: Any) -> tuple[Any, Any]:
    """Return a nano Qwen2-VL and its processor: one frame a picture, so that no value is there twice."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    head = config.width // config.heads
    # the shares of a head's rotary pairs for time, height and width are the family's own: 1/4, 3/8, 3/8
    section = [head // 2 - 2 * (head * 3 // 16), head * 3 // 16, head * 3 // 16]
    settings = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "intermediate_size": config.mlp,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": section},
            "tie_word_embeddings": True,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
            "pad_token_id": None,
        },
        vision_config={
            "depth": config.tower_layers,
            "embed_dim": config.tower_width,
            "num_heads": config.tower_heads,
            "mlp_ratio": 4,
            "hidden_size": config.width,
            "patch_size": config.patch,
            "spatial_merge_size": config.merge,
            "temporal_patch_size": 1,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(QWEN_TOKENS["image_token"]),
        video_token_id=tokenizer.convert_tokens_to_ids(QWEN_TOKENS["video_token"]),
        vision_start_token_id=tokenizer.convert_tokens_to_ids(QWEN_TOKENS["vision_bos_token"]),
        vision_end_token_id=tokenizer.convert_tokens_to_ids(QWEN_TOKENS["vision_eos_token"]),
        tie_word_embeddings=True,
    )
    sizes = {"shortest_edge": config.picture**2, "longest_edge": config.largest**2}
    shared: dict[str, Any] = {"patch_size": config.patch, "merge_size": config.merge, "temporal_patch_size": 1, "size": sizes}
    shared |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shared),
        chat_template=TEMPLATE.replace("IMAGE", QWEN_PICTURE),
    )
    return Qwen2VLForConditionalGeneration(settings), processor


# family -> (builder, special tokens)
FAMILIES: dict[str, tuple[Callable[[NanoConfig, Any], tuple[Any, Any]], dict[str, str]]] = {"qwen2_vl": (qwen2_vl, QWEN_TOKENS)}


def family_of(name: str) -> tuple[Callable[[NanoConfig, Any], tuple[Any, Any]], dict[str, str]]:
    """Return the builder and the special tokens of a family, or say which there are."""
    if name not in FAMILIES:
        raise UsageError(f"--family {name}: the nano base can be made as {', '.join(FAMILIES)}{did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]


def build(config: NanoConfig, tokenizer: Any) -> tuple[Any, Any]:
    """Return model (initialised from the seed) and processor."""
    model, processor = family_of(config.family)[0](config, tokenizer)
    initialise(model, model.get_decoder(), config.seed)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor
