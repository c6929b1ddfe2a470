"""Families whose tower takes pictures of one size: Idefics3, SmolVLM, LLaVA-OneVision, InternVL, Gemma 3.

Every picture is one tile of the nano size. Where a family has no way to merge patches, its patches are as large as a merged one, so that a
picture costs about the same number of tokens everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .families import TEMPLATE, text_config, tower_config

if TYPE_CHECKING:
    from .config import NanoConfig

IDEFICS_TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_tag": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}
LLAVA_TOKENS = {"image_token": "<image>", "video_token": "<video>"}
INTERN_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
GEMMA_TOKENS = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def _tokens(config: NanoConfig) -> int:
    """Return the number of tokens a picture has after merging."""
    return (config.picture // (config.patch * config.merge)) ** 2


def _idefics(config: NanoConfig, tokenizer: Any, kind: str, **video: Any) -> tuple[Any, Any]:
    """Return an Idefics3 or one of its kin: a picture is one tile, its patches shuffled together by `merge`."""
    import transformers

    settings = getattr(transformers, f"{kind}Config")(
        text_config=text_config(config, tokenizer, model_type="llama"),
        vision_config=tower_config(config),
        scale_factor=config.merge,
        image_token_id=tokenizer.convert_tokens_to_ids(IDEFICS_TOKENS["image_token"]),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    side = {"longest_edge": config.picture}
    image = getattr(transformers, f"{kind}ImageProcessor")(size=side, max_image_size=side, do_image_splitting=False, **HALF)
    template = TEMPLATE.replace("IMAGE", IDEFICS_TOKENS["image_token"])
    processor = getattr(transformers, f"{kind}Processor")(image, tokenizer, image_seq_len=_tokens(config), chat_template=template, **video)
    return getattr(transformers, f"{kind}ForConditionalGeneration")(settings), processor


def idefics3(config: NanoConfig, tokenizer: Any) -> tuple[Any, Any]:
    """Return an Idefics3."""
    return _idefics(config, tokenizer, "Idefics3")


def smolvlm(config: NanoConfig, tokenizer: Any) -> tuple[Any, Any]:
    """Return a SmolVLM, which also wants to know how videos are sampled."""
    from transformers.models.smolvlm import SmolVLMVideoProcessor

    side = {"longest_edge": config.picture}
    sampling = {"num_frames": 2, "fps": 1, "max_frames": 2, "video_size": side}
    video = SmolVLMVideoProcessor(size=side, max_image_size=side, video_sampling=sampling)
    return _idefics(config, tokenizer, "SmolVLM", video_processor=video)


def llava_onevision(config: NanoConfig, tokenizer: Any) -> tuple[Any, Any]:
    """Return a LLaVA-OneVision: a picture comes twice, as a whole and as its one tile, as the family has it."""
    import transformers

    tower = tower_config(config, model_type="siglip_vision_model", patch_size=config.patch * config.merge, vision_use_head=False)
    pinpoints = [[config.picture, config.picture]]
    settings = transformers.LlavaOnevisionConfig(
        text_config=text_config(config, tokenizer, model_type="qwen2"),
        vision_config=tower,
        image_grid_pinpoints=pinpoints,
        image_token_index=tokenizer.convert_tokens_to_ids(LLAVA_TOKENS["image_token"]),
        video_token_index=tokenizer.convert_tokens_to_ids(LLAVA_TOKENS["video_token"]),
        tie_word_embeddings=True,
    )
    size = {"height": config.picture, "width": config.picture}
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints, **HALF),
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=_tokens(config),
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE.replace("IMAGE", LLAVA_TOKENS["image_token"]),
    )
    return transformers.LlavaOnevisionForConditionalGeneration(settings), processor


def internvl(config: NanoConfig, tokenizer: Any) -> tuple[Any, Any]:
    """Return an InternVL: its pixel shuffle merges by half a side."""
    import transformers
    from transformers.models.got_ocr2 import GotOcr2ImageProcessor
    from transformers.models.internvl import InternVLVideoProcessor

    settings = transformers.InternVLConfig(
        text_config=text_config(config, tokenizer, model_type="qwen2"),
        vision_config=tower_config(config),
        image_seq_length=_tokens(config),
        downsample_ratio=1 / config.merge,
        image_token_id=tokenizer.convert_tokens_to_ids(INTERN_TOKENS["context_image_token"]),
        tie_word_embeddings=True,
    )
    size = {"height": config.picture, "width": config.picture}
    image = GotOcr2ImageProcessor(size=size, crop_to_patches=False, **HALF)
    template = TEMPLATE.replace("IMAGE", INTERN_TOKENS["context_image_token"])
    video = InternVLVideoProcessor(size=size)
    processor = transformers.InternVLProcessor(image, tokenizer, video, image_seq_length=_tokens(config), chat_template=template)
    return transformers.InternVLForConditionalGeneration(settings), processor


def gemma3(config: NanoConfig, tokenizer: Any) -> tuple[Any, Any]:
    """Return a Gemma 3: text is causal, a picture's own tokens see each other, as the family has it."""
    import transformers

    head = config.width // config.heads
    ids = {f"{name}_token_index": tokenizer.convert_tokens_to_ids(GEMMA_TOKENS[f"{name}_token"]) for name in ("boi", "eoi", "image")}
    settings = transformers.Gemma3Config(
        text_config=text_config(config, tokenizer, head_dim=head, query_pre_attn_scalar=head, sliding_window=512),
        vision_config=tower_config(config, model_type="siglip_vision_model", vision_use_head=False),
        mm_tokens_per_image=_tokens(config),
        tie_word_embeddings=True,
        **ids,
    )
    image = transformers.Gemma3ImageProcessor(size={"height": config.picture, "width": config.picture}, **HALF)
    template = TEMPLATE.replace("IMAGE", GEMMA_TOKENS["boi_token"])
    processor = transformers.Gemma3Processor(image, tokenizer, chat_template=template, image_seq_length=_tokens(config))
    return transformers.Gemma3ForConditionalGeneration(settings), processor
