"""The processor beside a model: does it fit, how large may a picture be, how long a row, and is there a chat template.

Limits are set on what the processor itself exposes, by what it can do and not by what it is called, so that the saved processor obeys
them everywhere. A processor that resizes every picture to one size has no limit to set, and says so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import transformers

from twoway.errors import TwowayError, UsageError

from .source import first_line, is_hub_id, read_json

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, ProcessorMixin

# Contents in order and nothing else; for a model that brings no template of its own.
_PLAIN = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}PICTURE{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def plain_template(picture: str) -> str:
    """Return the template that writes contents one behind the other, `picture` where there is one."""
    return _PLAIN.replace("PICTURE", picture)


def load_processor(folder: Path) -> ProcessorMixin:
    """Load a whole processor (tokenizer, image processor, chat template) or say what is missing."""
    if not any((folder / name).exists() for name in ("processor_config.json", "preprocessor_config.json")):
        config = folder / "config.json"
        base = read_json(config).get("_name_or_path") if config.exists() else None
        name = f"that of its base is --processor {base}" if base and is_hub_id(str(base)) else "name a folder or hub id with --processor"
        raise TwowayError(f"{folder} has no processor (no processor_config.json or preprocessor_config.json); {name}")
    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except ImportError as error:
        raise TwowayError(f"the processor in {folder} needs a package that is not here: {first_line(error)}") from error
    except Exception as error:
        raise TwowayError(f"the processor in {folder} cannot be loaded: {first_line(error)}") from error
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise TwowayError(f"{folder} has a {type(processor).__name__} and no processor for text and images; name one with --processor")
    return processor


def require_fit(model: PreTrainedModel, processor: Any) -> None:
    """Refuse a tokenizer that knows more tokens than the model, and image tokens that are not the model's."""
    tokenizer, rows = processor.tokenizer, model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= rows:
        raise TwowayError(
            f"the vocabulary does not fit: the tokenizer goes up to id {highest} and the model has {rows} embeddings; "
            "name the model's own processor with --processor"
        )
    wanted = getattr(model.config, "image_token_id", None)
    named = {getattr(holder, "image_token_id", None) for holder in (processor, tokenizer)}
    if wanted is not None and wanted not in named:
        raise TwowayError(
            f"the processor does not fit: the model's image token has id {wanted} ({tokenizer.convert_ids_to_tokens(wanted)!r} here), "
            f"the processor's {sorted(filter(None, named))}; name the model's own processor with --processor"
        )


def ensure_template(processor: Any) -> bool:
    """Give a processor without a chat template a plain one; return whether it was needed."""
    template = processor.chat_template or processor.tokenizer.chat_template
    needed = not template
    if needed:
        template = plain_template(str(processor.image_token))
    processor.chat_template = processor.tokenizer.chat_template = template
    return needed


def set_max_length(model: PreTrainedModel, processor: Any, length: int | None) -> int:
    """Cap rows at `length` tokens, or at what the model has positions for."""
    tokenizer = processor.tokenizer
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length
    if length is not None and not 0 < length <= positions:
        raise UsageError(f"--max-length {length} is out of range: this model has positions for 1 to {positions} tokens")
    tokenizer.model_max_length = int(length or min(tokenizer.model_max_length, positions))
    return int(tokenizer.model_max_length)


def set_pixels(model: PreTrainedModel, processor: Any, *, least: int | None, most: int | None) -> None:
    """Bound a picture's area in pixels, through what the image processor exposes."""
    if least is None and most is None:
        return
    if (least or 1) < 1 or (most or 1) < 1 or (least and most and least > most):
        raise UsageError(f"image limits must be positive and in order, not {least} to {most} pixels")
    image = processor.image_processor
    if "max_pixels" in _knobs(image):
        _by_area(image, least, most)
    elif least is not None:
        raise UsageError(f"{type(image).__name__} knows no least size of a picture; leave --min-pixels out")
    elif most is not None:
        _largest(model, image, most)


def _largest(model: PreTrainedModel, image: Any, most: int) -> None:
    """Bound processors that cut a picture into tiles: fewer tiles, or a smaller whole."""
    knobs = _knobs(image)
    if "image_grid_pinpoints" in knobs:
        kept = [list(size) for size in image.image_grid_pinpoints if size[0] * size[1] <= most]
        _require(bool(kept), image, most, min(height * width for height, width in image.image_grid_pinpoints))
        # The model cuts its features along the same grid.
        image.image_grid_pinpoints = model.config.image_grid_pinpoints = kept
    elif "max_patches" in knobs:
        tile = image.size["height"] * image.size["width"]
        _require(most >= tile, image, most, tile)
        image.max_patches = most // tile
    elif "max_image_size" in knobs:
        tile = image.max_image_size["longest_edge"]
        _require(most >= tile * tile, image, most, tile * tile)
        image.size = {"longest_edge": math.isqrt(most) // tile * tile}
    else:
        size = dict(image.size)
        raise UsageError(
            f"{type(image).__name__} brings every picture to one size ({size}) and has no limit to set; leave --max-pixels out"
        )


def _by_area(image: Any, least: int | None, most: int | None) -> None:
    """Bound processors that keep a picture's shape and take its area as a limit."""
    low, high = least or image.size["shortest_edge"], most or image.size["longest_edge"]
    unit = (image.patch_size * image.merge_size) ** 2
    _require(high >= unit, image, high, unit)
    image.size = {"shortest_edge": min(low, high), "longest_edge": max(low, high) if most is None else high}


def _require(fits: bool, image: Any, most: int, smallest: int) -> None:
    if not fits:
        raise UsageError(f"--max-pixels {most} is below the {smallest} pixels of one tile of {type(image).__name__}")


def _knobs(image: Any) -> set[str]:
    return set(getattr(getattr(image, "valid_kwargs", None), "__annotations__", {}))
