"""The processor of a model: whether it fits, how inputs are written, its mask token, and how large a picture may be."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image as PILImage

from twoway.content import media_kinds, placeholders
from twoway.errors import TwowayError, UsageError
from twoway.limits import check_pixels

from .loading import SKELETON, first_line, is_hub_id, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from transformers import PreTrainedModel, ProcessorMixin


# The processor beside a model: does it fit, how long may a row be, and is there a chat template; `pixels` bounds its
# pictures.

# Contents in order and nothing else; for a model that brings no template of its own.
_PLAIN = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if MEDIA %}{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def plain_template(tokens: Mapping[str, str]) -> str:
    """Return the template that writes contents one behind the other, and for what is no text a token by its modality."""
    media = "{% elif ".join(f"part['type'] == '{modality}' %}}{token}" for modality, token in tokens.items())
    return _PLAIN.replace("MEDIA %}", media)


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
        template = plain_template(_tokens(processor))
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


# How a model's inputs are written, as a chat template that is saved with it: so that what training saw is what
# `encode` gives.
#
# sentence-transformers makes a prompt a system message. The templates of chat models write that as a turn of its own,
# and some put a sentence of theirs there when there is none. VLM2Vec (arXiv 2410.05160, section 3.2) and MoCa's
# released code write an instruction into the user's text instead, behind the picture: "[image] Represent the given
# image with the following question: …". With `place="user"` the template does that itself: a system message before a
# user's moves into that user's turn, behind the pictures that it begins with.
#
# `style="plain"` replaces the template by one that writes contents in order and nothing else, as VLM2Vec and MoCa do;
# `chat` keeps the model's own; `bare` is `plain` with a picture's placeholder alone, without the marks around it,
# which is what VLM2Vec's code writes.

Place = Literal["user", "system"]
Style = Literal["chat", "plain", "bare"]

_MOVED = "{#- an instruction moves into the user's turn -#}"
# One line without white space between its tags, so that nothing is written and nothing of the template behind it is lost.
_MOVE = (
    _MOVED + "{% if messages | length > 1 and messages[0]['role'] == 'system' and messages[1]['role'] == 'user' %}"
    "{% set said = messages[0]['content'] %}{% set asked = messages[1]['content'] %}"
    "{% if said is string %}{% set said = [{'type': 'text', 'text': said}] %}{% endif %}"
    "{% if asked is string %}{% set asked = [{'type': 'text', 'text': asked}] %}{% endif %}"
    "{% set at = namespace(first=0) %}"
    "{% for part in asked %}{% if part['type'] in ['image', 'video', 'audio'] and at.first == loop.index0 %}"
    "{% set at.first = loop.index %}{% endif %}{% endfor %}"
    "{% set messages = [{'role': 'user', 'content': asked[:at.first] + said + asked[at.first:]}] + messages[2:] %}"
    "{% endif %}{{ '' }}"
)


def set_template(processor: Any, *, style: Style, place: Place | None) -> None:
    """Give the processor the template that all of training and everything after it use; without a place, prompts stay where they are."""
    template = str(processor.chat_template)
    if style != "chat":
        template = plain_template(placeholders(processor) if style == "plain" else _tokens(processor))
    if place == "user" and _MOVED not in template:
        template = _MOVE + template
    if place == "system":
        template = template.replace(_MOVE, "")
    processor.chat_template = processor.tokenizer.chat_template = template


def _tokens(processor: Any) -> dict[str, str]:
    """Return the bare token of each modality."""
    return {kind.modality: token for kind in media_kinds() if (token := kind.token(processor)) is not None}


def require_prompts(processor: Any, prompts: dict[str, str]) -> None:
    """See that the template writes every prompt, once."""
    for name, text in prompts.items():
        message = {"role": "user", "content": [{"type": "text", "text": "\ue000"}]}
        system = {"role": "system", "content": [{"type": "text", "text": text}]}
        try:
            rendered = str(processor.apply_chat_template([system, message], tokenize=False))
        except Exception as error:  # templates raise errors of their own
            raise TwowayError(f"the chat template takes no instruction as a system message ({error}); use prompt_place=user") from error
        if rendered.count(text.strip()) < 1:
            raise TwowayError(f"the chat template does not write the prompt {name!r}; use prompt_place=user")


# The mask token that masked pre-training writes over words.
#
# The embedding matrix should keep its size, since other tools compare it with the tokenizer and the hub's copy. So,
# in this order: a token that is asked for; the tokenizer's own mask token; a reserved token that nothing uses (of
# several the one whose embedding is shortest, since training lengthens a row); a new token in a padding row behind
# the vocabulary; and only then a new row. A new token starts as the mean of all embeddings, a plain word to the model
# and none in particular.

NEW = "<|mask|>"
_RESERVED = re.compile(r"reserved|unused|extra_id|extra_token|dummy|placeholder", re.IGNORECASE)
How = Literal["asked for", "own", "reserved", "padding row", "added row"]


@dataclass(frozen=True)
class MaskToken:
    """Which token it is and how it came about."""

    token: str
    id: int
    how: How

    def record(self) -> dict[str, Any]:
        """Return it for the provenance file."""
        return asdict(self)


def ensure_mask_token(model: PreTrainedModel, processor: Any, *, wanted: str | None = None) -> MaskToken:
    """Choose the mask token, set it in the tokenizer, and make its embedding where it is new."""
    tokenizer = getattr(processor, "tokenizer", processor)
    vocabulary = tokenizer.get_vocab()
    # Which reserved token is used least is read off its weights, and a model without any is told.
    wanted = SKELETON.get() if wanted is None else wanted
    if wanted is not None and not wanted.strip():
        raise UsageError("--mask-token is empty; name a token such as <|mask|>")
    if wanted is not None and wanted in vocabulary:
        return _set(tokenizer, wanted, "asked for")
    if wanted is None and tokenizer.mask_token is not None:
        return _set(tokenizer, tokenizer.mask_token, "own")
    reserved = [] if wanted else reserved_tokens(processor)
    table = model.get_input_embeddings().weight
    if reserved:
        lengths = table.detach()[[vocabulary[token] for token in reserved]].float().norm(dim=-1)
        return _set(tokenizer, reserved[int(lengths.argmin())], "reserved")
    return _add(model, tokenizer, wanted or NEW)


def reserved_tokens(processor: Any) -> list[str]:
    """Return tokens whose name says that nothing uses them, in the order of their ids."""
    tokenizer = getattr(processor, "tokenizer", processor)
    named = tokenizer.special_tokens_map | {name: value for name, value in vars(processor).items() if name.endswith("_token")}
    # A token may have a name in the map and still be nobody's, when the name itself says that it is reserved.
    used = {value for name, value in named.items() if isinstance(value, str) and not _RESERVED.search(name)}
    template = str(getattr(processor, "chat_template", None) or "")
    added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}
    free = [token for token in added if _RESERVED.search(token) and token not in used and token not in template]
    return sorted(free, key=added.__getitem__)


def _set(tokenizer: Any, token: str, how: How) -> MaskToken:
    tokenizer.mask_token = token
    return MaskToken(token, int(tokenizer.convert_tokens_to_ids(token)), how)


def _add(model: PreTrainedModel, tokenizer: Any, token: str) -> MaskToken:
    used = len(tokenizer)
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer.add_special_tokens({"mask_token": token})
    if used >= rows:
        # mean_resizing would draw around the mean; the exact mean is set below and repeats from run to run.
        model.resize_token_embeddings(rows + 1, mean_resizing=False)
    index = int(tokenizer.convert_tokens_to_ids(token))
    heads = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        for weight in {id(head.weight): head.weight for head in heads if head is not None}.values():
            weight[index] = weight[:used].float().mean(0).to(weight.dtype)
    return MaskToken(token, index, "padding row" if used < rows else "added row")


# How large a picture is when a model sees it: bounds in pixels, set on what the family's processor exposes and then
# measured on it.
#
# MoCa's authors enlarge small pictures to 200,704 pixels and shrink pages to 802,816; under Qwen2.5-VL's own settings
# a page of 1700 x 2200 pixels is 4,819 tokens, more than a row of 2,048 holds. Families call such bounds differently:
# an area (the two edges of Qwen's `size`; of GLM's too, which counts a still picture's two frames), a number of
# tiles, a list of allowed shapes, a longest edge. What a processor exposes decides which of these is set, and what it
# then makes of small and large pictures decides whether the bounds are kept; a family that keeps them without any
# setting needs none, and one that cannot is refused. An overview beside tiles is not counted.
#
# Bounds are part of the processor, so they are saved with it, and plain sentence-transformers reads pictures by them.

# Width to height of the pictures that are tried: a square, a page, and a wide one.
_SHAPES = (1.0, 1700 / 2200, 2.0)


class Seen(NamedTuple):
    """What a picture becomes."""

    pixels: int
    tokens: int


def set_pixels(config: Any, processor: Any, *, min_pixels: int | None, max_pixels: int | None) -> None:
    """Bound a picture's area in a processor, and in a model's config where that repeats it; refuse bounds that are then not kept."""
    check_pixels(min_pixels, max_pixels)
    if min_pixels is None and max_pixels is None:
        return
    if _takes_area(processor):
        _set_area(processor, min_pixels, max_pixels)
    elif max_pixels is not None and any(see(processor, size).pixels > max_pixels for size in _around(4 * max_pixels)):
        _set_largest(config, processor, max_pixels)
    _require_kept(processor, min_pixels, max_pixels)


def require_image_room(processor: Any, max_length: int) -> None:
    """Refuse bounds under which no picture fits a row."""
    least = see(processor, (8, 8))
    if least.tokens >= max_length:
        raise UsageError(
            f"no picture fits: the smallest is {least.tokens:,} image tokens ({least.pixels:,} pixels) and a row holds {max_length:,}; "
            "lower min_pixels, or raise max_length"
        )


def see(processor: Any, size: tuple[int, int]) -> Seen:
    """Run the processor over a blank picture of this width and height."""
    blank = PILImage.new("RGB", size)
    out = processor(text=[str(processor.image_token)], images=[[blank]], images_kwargs={"return_tensors": "pt"})
    pixels = out.get("pixel_values")
    shape = () if pixels is None else tuple(pixels.shape)
    if len(shape) >= 4:  # tiles (…, colours, height, width)
        tiles = math.prod(shape[:-3])
        area = max(tiles - 1, 1) * shape[-1] * shape[-2]
    elif len(shape) in (2, 3):  # rows of patches, of a still picture's frames one behind the other
        mask = out.get("pixel_attention_mask")
        rows = int(mask.sum()) if mask is not None and tuple(mask.shape) == shape[:-1] else math.prod(shape[:-1])
        frames = int(getattr(processor.image_processor, "temporal_patch_size", None) or 1)
        area = rows * shape[-1] // (3 * frames)
    else:
        raise TwowayError(f"{type(processor).__name__} gives pixels in a layout that is not known, so they cannot be bounded")
    token = processor.tokenizer.convert_tokens_to_ids(str(processor.image_token))
    return Seen(area, int((np.asarray(out["input_ids"][0]) == token).sum()))


def _takes_area(processor: Any) -> bool:
    """Say whether the two edges of a processor's `size` are areas: a bound of a few pixels leaves one image token, and an edge a few."""
    image = processor.image_processor
    before = dict(image.size or {})
    if not before.get("shortest_edge") or not before.get("longest_edge"):
        return False
    few = 4 * math.isqrt(_unit(processor))
    image.size = {"shortest_edge": few, "longest_edge": few}
    found = see(processor, (8 * few, 8 * few)).tokens
    image.size = before
    return found == 1


def _set_area(processor: Any, least: int | None, most: int | None) -> None:
    """Bound processors that keep a picture's shape and take its area as a limit."""
    image = processor.image_processor
    unit = _unit(processor)
    if most is not None and most < unit:
        raise UsageError(f"max_pixels {most:,} is below the {unit:,} pixels of one image token of {type(image).__name__}")
    before = dict(image.size)
    # Some families count the frames that a still picture is repeated in: then a bound is that many times the area.
    tried = 1024 * unit
    image.size = {"shortest_edge": tried, "longest_edge": tried}
    frames = max(round(tried / see(processor, (math.isqrt(tried),) * 2).pixels), 1)
    low = least * frames if least is not None else before["shortest_edge"]
    high = most * frames if most is not None else before["longest_edge"]
    # The bound that is not given makes way; too near, a small picture could not be brought above one and stay below the other.
    if least is None:
        low = min(low, high // 4)
    if most is None:
        high = max(high, low * 4)
    image.size = {"shortest_edge": low, "longest_edge": high}


def _set_largest(config: Any, processor: Any, most: int) -> None:
    """Bound processors that cut a picture into tiles, or bring its longer side to a length."""
    image = processor.image_processor
    name, exposed, size = type(image).__name__, _exposed(image), dict(image.size or {})
    if "image_grid_pinpoints" in exposed:
        kept = [list(shape) for shape in image.image_grid_pinpoints if shape[0] * shape[1] <= most]
        _require_tile(bool(kept), name, most, min(height * width for height, width in image.image_grid_pinpoints))
        # The model cuts its features along the same grid.
        image.image_grid_pinpoints = config.image_grid_pinpoints = kept
    elif "max_patches" in exposed and size.get("height") and size.get("width"):
        tile = size["height"] * size["width"]
        _require_tile(most >= tile, name, most, tile)
        image.max_patches = most // tile
    elif "max_image_size" in exposed:
        edge = image.max_image_size["longest_edge"]
        _require_tile(most >= edge**2, name, most, edge**2)
        image.size = {"longest_edge": math.isqrt(most) // edge * edge}
    elif size.get("longest_edge"):
        side = math.isqrt(_unit(processor))
        _require_tile(most >= side**2, name, most, side**2)
        edge = math.isqrt(most) // side * side
        image.size = (
            size | {"longest_edge": edge} | ({"shortest_edge": min(edge, size["shortest_edge"])} if size.get("shortest_edge") else {})
        )
    else:
        area = see(processor, (64, 64)).pixels
        raise UsageError(
            f"{name} brings every picture to one size ({area:,} pixels) and has no limit to set; leave max_pixels out, or at least at that"
        )


def _require_kept(processor: Any, least: int | None, most: int | None) -> None:
    """Measure on pictures below and above the bounds that these are kept."""
    name = type(processor.image_processor).__name__
    if most is not None:
        for size in _around(4 * most):
            found = see(processor, size).pixels
            if found > most:
                raise UsageError(f"{name} cannot keep max_pixels {most:,}: a picture of {_said(size)} becomes {found:,} pixels")
    if least is None:
        return
    for size in _around(max(least // 4, 1)):
        found = see(processor, size).pixels
        if found < least:
            raise UsageError(f"{name} has no least size to set: a picture of {_said(size)} becomes {found:,} pixels; leave min_pixels out")
        if most is not None and found > most:
            raise UsageError(
                f"min_pixels {least:,} and max_pixels {most:,} are too near each other for {name}: a picture of {_said(size)} becomes "
                f"{found:,} pixels"
            )


def _around(area: int) -> Iterator[tuple[int, int]]:
    """Yield sizes of about this area."""
    for shape in _SHAPES:
        yield max(round(math.sqrt(area * shape)), 1), max(round(math.sqrt(area / shape)), 1)


def _unit(processor: Any) -> int:
    """Return the pixels of one image token."""
    seen = see(processor, (64, 64))
    return seen.pixels // max(seen.tokens, 1)


def _require_tile(fits: bool, name: str, most: int, smallest: int) -> None:
    if not fits:
        raise UsageError(f"max_pixels {most:,} is below the {smallest:,} pixels of one tile of {name}")


def _said(size: tuple[int, int]) -> str:
    return f"{size[0]:,} x {size[1]:,}"


def _exposed(image: Any) -> set[str]:
    """Return the settings that an image processor takes."""
    return set(getattr(getattr(image, "valid_kwargs", None), "__annotations__", {}))
