"""A family that nobody listed: it passes the proof, or it is refused and its one-way layers are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers as tf

import tiny
import twoway
from twoway.errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def save(config: Any, processor: Any, out: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tf.AutoModelForImageTextToText.from_config(config)
        tiny.randomise(model)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def test_an_unlisted_family_that_can_be_two_way_is_converted(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    processor = tf.AutoProcessor.from_pretrained(tiny_model("llava_onevision"))
    known = tf.AutoConfig.from_pretrained(tiny_model("llava_onevision"))
    config = tf.LlavaConfig(
        text_config=known.text_config, vision_config=known.vision_config, image_token_index=known.image_token_id,
        vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    side = {"height": tiny.IMAGE, "width": tiny.IMAGE}
    theirs = tf.LlavaProcessor(
        tf.CLIPImageProcessor(size=side, crop_size=side), processor.tokenizer, patch_size=14, vision_feature_select_strategy="full",
        chat_template=processor.chat_template,
    )  # fmt: skip
    result = twoway.convert(save(config, theirs, tmp_path / "llava"), tmp_path / "out")
    assert (result.card.family, result.card.attention["measured"]) == ("llava", "two-way")


def test_a_family_with_one_way_layers_is_refused_and_they_are_named(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Linear attention runs along the row, and no mask makes it look back."""
    known = tf.AutoConfig.from_pretrained(tiny_model("qwen3_vl"))
    linear = {f"linear_{name}": size for name, size in (
        ("num_key_heads", 2), ("num_value_heads", 2), ("key_head_dim", 8), ("value_head_dim", 8))}  # fmt: skip
    text = {
        **tiny.LANGUAGE, **linear, "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"],
        "vocab_size": known.text_config.vocab_size, "rope_parameters": {**tiny.MROPE, "partial_rotary_factor": 1.0},
    }  # fmt: skip
    own = ("model_type", "deepstack_visual_indexes", "rope_parameters")
    vision = {key: value for key, value in known.vision_config.to_dict().items() if key not in own}
    ids = {f"{name}_token_id": getattr(known, f"{name}_token_id") for name in ("image", "video", "vision_start", "vision_end")}
    config = tf.Qwen3_5Config(text_config=text, vision_config=vision, **ids)
    src = save(config, tf.AutoProcessor.from_pretrained(tiny_model("qwen3_vl")), tmp_path / "hybrid")
    with pytest.raises(TwowayError, match=r"was to be two-way and is measured mixed \(layer 0 of 2 is causal, layer 1 of 2 is two-way"):
        twoway.convert(src, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["hybrid"]
