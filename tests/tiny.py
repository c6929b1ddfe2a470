"""Tiny random models, one for each family, each made from its own config and saved with its whole processor.

Nothing is fetched: the tokenizer is a byte-level one with no merges, the image processors are the families' own classes at small sizes,
and the weights are drawn by fan-in with a fixed seed, so that every part has an effect that can be measured in float32.
The families differ where the real ones do: reserved tokens (`gemma3`, `smolvlm`, `idefics3`), padding rows behind the vocabulary (`qwen*`),
none of both (`internvl`), sliding windows (`gemma3`), no chat template (`paligemma`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers as tf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from collections.abc import Callable

FAMILIES: tuple[str, ...] = (
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "smolvlm", "llava_onevision", "internvl", "gemma3", "paligemma",
)  # fmt: skip
# Families that hear, by their model type: the thinkers of Qwen-Omni, and Gemma 4.
LISTENERS = {"qwen2_5_omni_thinker": "qwen2_5_omni", "qwen3_omni_moe_thinker": "qwen3_omni", "gemma4": "gemma4"}
TEXT_FAMILIES: tuple[str, ...] = ("llama", "qwen2", "bert")

HIDDEN, LAYERS, IMAGE = 32, 3, 28
LANGUAGE: dict[str, Any] = {
    "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "max_position_embeddings": 1024, "tie_word_embeddings": False,
}  # fmt: skip
TOWER: dict[str, Any] = {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
MROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}

TEMPLATE = (
    "{{% for m in messages %}}{start}{{{{ m['role'] }}}}\n"
    "{{% if m['content'] is string %}}{{{{ m['content'] }}}}{{% else %}}{{% for c in m['content'] %}}"
    "{{% if c['type'] == 'image' %}}{image}{media}{{% elif 'text' in c %}}{{{{ c['text'] }}}}{{% endif %}}"
    "{{% endfor %}}{{% endif %}}{end}\n{{% endfor %}}{{% if add_generation_prompt %}}{start}assistant\n{{% endif %}}"
)


VIDEO = "{% elif c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"


def build(family: str, folder: Path) -> Path:
    """Save a tiny random model of this family with its processor below `folder` and return where."""
    out = Path(folder) / family
    with torch.random.fork_rng():
        torch.manual_seed(sum(family.encode()))
        model, processor = _BUILDERS[family]()
        randomise(model)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


SAID = "Represent the user's input."
FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
# As Qwen3-VL-Embedding is published: a system turn of its own, the assistant's header behind the content, and the state there.
CALLED = {
    "transformer_task": "feature-extraction",
    "modality_config": {
        "text": FORWARD, "image": FORWARD, "video": FORWARD, "message": {**FORWARD, "format": "structured"},
    },
    "module_output_name": "token_embeddings",
    "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
    "unpad_inputs": False,
}  # fmt: skip


def published(model: Path, out: Path, *, behind: tuple[torch.nn.Module, ...] = (), **said: Any) -> Path:
    """Save a tiny model in the layout of a published encoder."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    shutil.copytree(model, out)
    (out / "sentence_bert_config.json").write_text(json.dumps(CALLED | said.pop("called", {})))
    settings = {"prompts": {"default": SAID, "search": "Find: "}, "default_prompt_name": "default", "similarity_fn_name": "cosine"}
    (out / "config_sentence_transformers.json").write_text(json.dumps(settings | said))
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
    for number, module in enumerate(behind or (Pooling(32, "lasttoken"), Normalize()), 1):
        place = f"{number}_{type(module).__name__}"
        (out / place).mkdir()
        module.save(str(out / place))
        modules.append({"idx": number, "name": str(number), "path": place, "type": f"{type(module).__module__}.{type(module).__name__}"})
    (out / "modules.json").write_text(json.dumps(modules))
    return out


def late(model: Path, out: Path, *, dim: int = 16) -> Path:
    """Save a tiny model as one of many vectors, as `finetune` does."""
    from twoway.methods.finetune.config import FinetuneConfig
    from twoway.methods.finetune.method import prepare
    from twoway.models import checkpoint

    prepared = prepare(model, FinetuneConfig(late_interaction=True, projection_dim=dim, query_expansion=2, device="cpu"))
    settings = prepared.start.settings
    out.mkdir()
    checkpoint.save_model(prepared.start.model, prepared.processor, out, settings, has_head=prepared.start.has_head, patch_decoder={})
    checkpoint.assemble_model(out, settings)
    return out


def randomise(model: torch.nn.Module) -> None:
    """Draw every matrix by fan-in and give biases and one-dimensional weights a little life."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.05)


def tokenizer(specials: list[str], *, reserved: int = 0, template: str | None = None, **kwargs: Any) -> tf.PreTrainedTokenizerFast:
    """Make a byte-level tokenizer with these special tokens and, where asked, reserved ones that nothing uses."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = [*specials, *(f"<|reserved_special_token_{n}|>" for n in range(reserved))]
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return tf.PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **kwargs)


def _rows(tok: tf.PreTrainedTokenizerFast, spare: int = 0) -> int:
    return len(tok) + spare


def _qwen(prefix: str, config: type, image: Any, **vision: Any) -> tuple[Any, Any]:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    template = TEMPLATE.format(start="<|im_start|>", end="<|im_end|>", image="<|vision_start|><|image_pad|><|vision_end|>", media=VIDEO)
    tok = tokenizer(specials, template=template, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    ids = {f"{name}_token_id": tok.convert_tokens_to_ids(f"<|{word}|>") for name, word in (
        ("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"), ("vision_end", "vision_end"))}  # fmt: skip
    tokens = {"pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id, "bos_token_id": tok.pad_token_id}
    text = {**LANGUAGE, **tokens, "vocab_size": _rows(tok, 9), "rope_parameters": dict(MROPE)}
    model = tf.AutoModelForImageTextToText.from_config(config(text_config=text, vision_config=vision, **ids))
    side = 2 * vision["patch_size"]
    if prefix == "Qwen3VL":  # whose bounds are of all frames together
        size = {"shortest_edge": 2 * side**2, "longest_edge": 8 * (2 * side) ** 2}
        video = tf.models.qwen3_vl.Qwen3VLVideoProcessor(patch_size=vision["patch_size"], size=size)
    else:
        size = {"shortest_edge": side**2, "longest_edge": (2 * side) ** 2}
        video = tf.models.qwen2_vl.Qwen2VLVideoProcessor(patch_size=vision["patch_size"], size=size)
    return model, getattr(tf, f"{prefix}Processor")(image, tok, video, chat_template=tok.chat_template)


def _qwen_image(patch: int) -> Any:
    side = 2 * patch
    return tf.models.qwen2_vl.Qwen2VLImageProcessor(patch_size=patch, size={"shortest_edge": side**2, "longest_edge": (2 * side) ** 2})


def _qwen2_vl() -> tuple[Any, Any]:
    vision = {"depth": 2, "embed_dim": HIDDEN, "hidden_size": HIDDEN, "mlp_ratio": 2, "num_heads": 4, "patch_size": 14}
    return _qwen("Qwen2VL", tf.Qwen2VLConfig, _qwen_image(14), **vision)


def _qwen2_5_vl() -> tuple[Any, Any]:
    vision = {"depth": 2, "hidden_size": HIDDEN, "out_hidden_size": HIDDEN, "intermediate_size": 48, "num_heads": 4, "patch_size": 14}
    return _qwen("Qwen2_5_VL", tf.Qwen2_5_VLConfig, _qwen_image(14), **vision, window_size=28, fullatt_block_indexes=[1])


def _qwen3_vl() -> tuple[Any, Any]:
    vision = {"depth": 2, "hidden_size": HIDDEN, "out_hidden_size": HIDDEN, "intermediate_size": 48, "num_heads": 4, "patch_size": 16}
    extra = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    return _qwen("Qwen3VL", tf.Qwen3VLConfig, _qwen_image(16), **vision, **extra)


def _omni() -> tuple[Any, dict[str, int], dict[str, Any]]:
    """Return what the thinkers of Qwen-Omni, which hear, have in common: tokenizer, ids of tokens, and text config."""
    named = {
        "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>", "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>",
    }  # fmt: skip
    media = "".join(
        f"{{% elif c['type'] == '{kind}' %}}<|{around}_bos|><|{kind.upper()}|><|{around}_eos|>"
        for kind, around in (("video", "vision"), ("audio", "audio"))
    )
    template = TEMPLATE.format(start="<|im_start|>", end="<|im_end|>", image="<|vision_bos|><|IMAGE|><|vision_eos|>", media=media)
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()]
    tok = tokenizer(specials, template=template, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=named)
    ids = {f"{name}_token_id": tok.convert_tokens_to_ids(named[f"{name}_token"]) for name in ("image", "video", "audio")}
    ids |= {f"{ours}_{side}_token_id": tok.convert_tokens_to_ids(named[f"{ours}_{theirs}_token"]) for ours in ("vision", "audio")
            for side, theirs in (("start", "bos"), ("end", "eos"))}  # fmt: skip
    tokens = {"pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id, "bos_token_id": tok.pad_token_id}
    text = {**LANGUAGE, **tokens, "vocab_size": _rows(tok, 9), "rope_parameters": dict(MROPE)}
    return tok, ids, text


def _qwen2_5_omni() -> tuple[Any, Any]:
    tok, ids, text = _omni()
    ids |= {f"{name}_token_index": ids.pop(f"{name}_token_id") for name in ("image", "video", "audio")}
    del text["head_dim"]
    vision = {"depth": 2, "hidden_size": HIDDEN, "out_hidden_size": HIDDEN, "intermediate_size": 48, "num_heads": 4, "patch_size": 14}
    audio = {"num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "d_model": HIDDEN,
             "max_source_positions": 100, "n_window": 10, "output_dim": HIDDEN}  # fmt: skip
    config = tf.Qwen2_5OmniThinkerConfig(
        text_config=text, vision_config={**vision, "window_size": 28, "fullatt_block_indexes": [1]}, audio_config=audio, **ids
    )
    size = {"shortest_edge": 28**2, "longest_edge": 56**2}
    processor = tf.Qwen2_5OmniProcessor(
        _qwen_image(14), tf.models.qwen2_vl.Qwen2VLVideoProcessor(patch_size=14, size=size),
        tf.WhisperFeatureExtractor(feature_size=16, chunk_length=4), tok, chat_template=tok.chat_template,
    )  # fmt: skip
    return tf.AutoModelForImageTextToText.from_config(config), processor


def _qwen3_omni() -> tuple[Any, Any]:
    """Its layers have experts, and its tower gives states of several layers."""
    tok, ids, text = _omni()
    text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    vision = {"depth": 2, "hidden_size": HIDDEN, "out_hidden_size": HIDDEN, "intermediate_size": 48, "num_heads": 4, "patch_size": 16}
    audio = {"num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "d_model": HIDDEN,
             "output_dim": HIDDEN, "downsample_hidden_size": 8}  # fmt: skip
    config = tf.Qwen3OmniMoeThinkerConfig(
        text_config=text,
        vision_config={**vision, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        audio_config=audio,
        **ids,
    )
    processor = tf.Qwen3OmniMoeProcessor(
        _qwen_image(16), tf.models.qwen2_vl.Qwen2VLVideoProcessor(patch_size=16, size={"shortest_edge": 32**2, "longest_edge": 64**2}),
        tf.WhisperFeatureExtractor(feature_size=16, chunk_length=4), tok, chat_template=tok.chat_template,
    )  # fmt: skip
    return tf.AutoModelForImageTextToText.from_config(config), processor


def _qwen3_5() -> tuple[Any, Any]:
    """Layers in turns of linear attention, which runs along the row, and of full attention."""
    known, processor = _qwen3_vl()
    linear = {f"linear_{name}": size for name, size in (
        ("num_key_heads", 2), ("num_value_heads", 2), ("key_head_dim", 8), ("value_head_dim", 8))}  # fmt: skip
    text = {
        **LANGUAGE, **linear, "num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"],
        "vocab_size": known.config.text_config.vocab_size, "rope_parameters": {**MROPE, "partial_rotary_factor": 1.0},
    }  # fmt: skip
    own = ("model_type", "deepstack_visual_indexes", "rope_parameters")
    vision = {key: value for key, value in known.config.vision_config.to_dict().items() if key not in own}
    ids = {f"{name}_token_id": getattr(known.config, f"{name}_token_id") for name in ("image", "video", "vision_start", "vision_end")}
    return tf.AutoModelForImageTextToText.from_config(tf.Qwen3_5Config(text_config=text, vision_config=vision, **ids)), processor


def _idefics(prefix: str, **video: Any) -> tuple[Any, Any]:
    grid = [f"<row_{row}_col_{col}>" for row in (1, 2) for col in (1, 2)]
    specials = ["<|begin|>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>", *grid]
    template = TEMPLATE.format(start="<|im_start|>", end="<end_of_utterance>", image="<image>", media="")
    tok = tokenizer(specials, reserved=3, bos_token="<|begin|>", eos_token="<end_of_utterance>", pad_token="<|im_start|>")
    vision = {**TOWER, "image_size": IMAGE, "patch_size": 7}
    text = {"model_type": "llama", **LANGUAGE, "vocab_size": _rows(tok), "pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id}
    config = getattr(tf, f"{prefix}Config")(
        text_config=text, vision_config=vision, scale_factor=2, image_token_id=tok.convert_tokens_to_ids("<image>")
    )
    image = getattr(tf, f"{prefix}ImageProcessor")(size={"longest_edge": 2 * IMAGE}, max_image_size={"longest_edge": IMAGE})
    processor = getattr(tf, f"{prefix}Processor")(image, tok, image_seq_len=4, chat_template=template, **video)
    return tf.AutoModelForImageTextToText.from_config(config), processor


def _smolvlm() -> tuple[Any, Any]:
    size = {"longest_edge": IMAGE}
    sampling = {"num_frames": 2, "fps": 1, "max_frames": 2, "video_size": size}
    return _idefics(
        "SmolVLM", video_processor=tf.models.smolvlm.SmolVLMVideoProcessor(size=size, max_image_size=size, video_sampling=sampling)
    )


def _llava_onevision() -> tuple[Any, Any]:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
    template = TEMPLATE.format(start="<|im_start|>", end="<|im_end|>", image="<image>", media="")
    tok = tokenizer(specials, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    pinpoints = [[IMAGE, IMAGE], [IMAGE, 2 * IMAGE], [2 * IMAGE, IMAGE], [2 * IMAGE, 2 * IMAGE]]
    vision = {"model_type": "siglip_vision_model", **TOWER, "image_size": IMAGE, "patch_size": 14, "vision_use_head": False}
    text = {
        "model_type": "qwen2",
        **LANGUAGE,
        "vocab_size": _rows(tok, 5),
        "pad_token_id": tok.pad_token_id,
        "eos_token_id": tok.eos_token_id,
    }
    ids = {f"{name}_token_index": tok.convert_tokens_to_ids(f"<{name}>") for name in ("image", "video")}
    config = tf.LlavaOnevisionConfig(text_config=text, vision_config=vision, image_grid_pinpoints=pinpoints, **ids)
    size = {"height": IMAGE, "width": IMAGE}
    processor = tf.LlavaOnevisionProcessor(
        tf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints), tok, tf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=4, vision_feature_select_strategy="full", chat_template=template,
    )  # fmt: skip
    return tf.AutoModelForImageTextToText.from_config(config), processor


def _internvl() -> tuple[Any, Any]:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"]
    template = TEMPLATE.format(start="<|im_start|>", end="<|im_end|>", image="<IMG_CONTEXT>", media="")
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    tok = tokenizer(specials, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=named)
    vision = {**TOWER, "image_size": IMAGE, "patch_size": 7}
    text = {"model_type": "qwen2", **LANGUAGE, "vocab_size": _rows(tok), "pad_token_id": tok.pad_token_id, "eos_token_id": tok.eos_token_id}
    config = tf.InternVLConfig(
        text_config=text, vision_config=vision, image_seq_length=4, image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>")
    )
    size = {"height": IMAGE, "width": IMAGE}
    image = tf.models.got_ocr2.GotOcr2ImageProcessor(size=size, max_patches=4)
    video = tf.models.internvl.InternVLVideoProcessor(size=size)
    return tf.AutoModelForImageTextToText.from_config(config), tf.InternVLProcessor(
        image, tok, video, image_seq_length=4, chat_template=template
    )


def _gemma3() -> tuple[Any, Any]:
    specials = ["<pad>", "<eos>", "<bos>", "<unused0>", "<unused1>", "<start_of_turn>", "<end_of_turn>",
                "<start_of_image>", "<end_of_image>", "<image_soft_token>"]  # fmt: skip
    template = "{{ bos_token }}" + TEMPLATE.format(start="<start_of_turn>", end="<end_of_turn>", image="<start_of_image>", media="")
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tok = tokenizer(specials, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", extra_special_tokens=named, padding_side="left")
    layers = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 16}
    text = {**LANGUAGE, **layers, "vocab_size": _rows(tok), "tie_word_embeddings": True, "query_pre_attn_scalar": 8}
    text |= {f"{name}_token_id": getattr(tok, f"{name}_token_id") for name in ("pad", "eos", "bos")}
    vision = {"model_type": "siglip_vision_model", **TOWER, "image_size": IMAGE, "patch_size": 7, "vision_use_head": False}
    ids = {f"{ours}_token_index": tok.convert_tokens_to_ids(named[f"{ours}_token"]) for ours in ("boi", "eoi", "image")}
    config = tf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, **ids)
    image = tf.Gemma3ImageProcessor(size={"height": IMAGE, "width": IMAGE})
    return tf.AutoModelForImageTextToText.from_config(config), tf.Gemma3Processor(image, tok, chat_template=template, image_seq_length=4)


def _gemma4() -> tuple[Any, Any]:
    """Its smaller models hear; each layer gets embeddings of its own, and the last ones share keys and values."""
    kinds = {name: f"<|{name}|>" for name in ("image", "audio", "video")}
    named = {f"{name}_token": kinds[name] for name in ("image", "audio")}
    named |= {"boi_token": "<|image>", "eoi_token": "<image|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    media = "".join(f"{{% elif c['type'] == '{name}' %}}{kinds[name]}" for name in ("video", "audio"))
    template = TEMPLATE.format(start="<|turn>", end="<turn|>", image=kinds["image"], media=media)
    specials = ["<pad>", "<eos>", "<bos>", "<mask>", "<|turn>", "<turn|>", *named.values(), kinds["video"]]
    tok = tokenizer(specials, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", extra_special_tokens=named, padding_side="left")
    layers = {"layer_types": ["sliding_attention", "full_attention", "full_attention"], "sliding_window": 16, "global_head_dim": 8}
    text = {**LANGUAGE, **layers, "vocab_size": _rows(tok), "tie_word_embeddings": True, "num_kv_shared_layers": 1}
    text |= {"vocab_size_per_layer_input": _rows(tok), "hidden_size_per_layer_input": 4}
    text |= {f"{name}_token_id": getattr(tok, f"{name}_token_id") for name in ("pad", "eos", "bos")}
    vision = {**TOWER, "num_key_value_heads": 4, "head_dim": 8, "patch_size": 4, "position_embedding_size": 640}
    audio = {"hidden_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 4, "subsampling_conv_channels": [16, 4],
             "output_proj_dims": HIDDEN, "attention_chunk_size": 4, "attention_context_left": 5}  # fmt: skip
    ids = {f"{name}_token_id": tok.convert_tokens_to_ids(token) for name, token in kinds.items()}
    ids |= {f"{name}_token_id": tok.convert_tokens_to_ids(named[f"{name}_token"]) for name in ("boi", "eoi", "boa")}
    ids["eoa_token_index"] = tok.convert_tokens_to_ids("<audio|>")
    config = tf.Gemma4Config(text_config=text, vision_config=vision, audio_config=audio, **ids)
    sizes = {"patch_size": 4, "max_soft_tokens": 70}
    processor = tf.Gemma4Processor(
        tf.Gemma4AudioFeatureExtractor(feature_size=16), tf.Gemma4ImageProcessor(**sizes), tok, tf.Gemma4VideoProcessor(**sizes),
        chat_template=template,
    )  # fmt: skip
    return tf.AutoModelForImageTextToText.from_config(config), processor


def _paligemma() -> tuple[Any, Any]:
    specials = ["<pad>", "<eos>", "<bos>", "<image>"]
    tok = tokenizer(specials, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", extra_special_tokens={"image_token": "<image>"})
    image = tf.SiglipImageProcessor(size={"height": IMAGE, "width": IMAGE}, image_seq_length=4)
    processor = tf.PaliGemmaProcessor(image, tok)
    text = {"model_type": "gemma", **LANGUAGE, "vocab_size": _rows(processor.tokenizer), "tie_word_embeddings": True}
    text |= {f"{name}_token_id": getattr(tok, f"{name}_token_id") for name in ("pad", "eos", "bos")}
    vision = {"model_type": "siglip_vision_model", **TOWER, "image_size": IMAGE, "patch_size": 14, "vision_use_head": False}
    config = tf.PaliGemmaConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=HIDDEN,
        hidden_size=HIDDEN,
        image_token_index=tok.convert_tokens_to_ids("<image>"),
    )
    return tf.AutoModelForImageTextToText.from_config(config), processor


def _text(config: Callable[..., Any]) -> tuple[Any, Any]:
    template = TEMPLATE.format(start="<|im_start|>", end="<|im_end|>", image="", media="")
    tok = tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], template=template, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    model = tf.AutoModelForCausalLM.from_config(config(**LANGUAGE, vocab_size=_rows(tok), pad_token_id=tok.pad_token_id))
    return model, tok


def _bert() -> tuple[Any, Any]:
    tok = tokenizer(
        ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"], pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )
    return tf.AutoModel.from_config(
        tf.BertConfig(**TOWER, vocab_size=_rows(tok), max_position_embeddings=256, pad_token_id=tok.pad_token_id)
    ), tok


_BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen2_5_omni": _qwen2_5_omni,
    "qwen3_omni": _qwen3_omni,
    "qwen3_5": _qwen3_5,
    "idefics3": lambda: _idefics("Idefics3"),
    "smolvlm": _smolvlm,
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "paligemma": _paligemma,
    "llama": lambda: _text(tf.LlamaConfig),
    "qwen2": lambda: _text(tf.Qwen2Config),
    "bert": _bert,
}
