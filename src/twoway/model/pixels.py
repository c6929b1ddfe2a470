"""How large a picture is when a model sees it: bounds in pixels, set on what the family's processor exposes and then measured on it.

MoCa's authors enlarge small pictures to 200,704 pixels and shrink pages to 802,816; under Qwen2.5-VL's own settings a page of 1700 x 2200
pixels is 4,819 tokens, more than a row of 2,048 holds. Families call such bounds differently: an area (the two edges of Qwen's `size`;
of GLM's too, which counts a still picture's two frames), a number of tiles, a list of allowed shapes, a longest edge. What a
processor exposes decides which of these is set, and what it then makes of small and large pictures decides whether the bounds are kept;
a family that keeps them without any setting needs none, and one that cannot is refused. An overview beside tiles is not counted.

Bounds are part of the processor, so they are saved with it, and plain sentence-transformers reads pictures by them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image as PILImage

from twoway.errors import TwowayError, UsageError
from twoway.images import check_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def require_room(processor: Any, max_length: int) -> None:
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
