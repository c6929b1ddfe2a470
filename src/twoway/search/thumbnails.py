"""Small pictures of what is in an index, so that a page of results opens nothing else."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image as PILImage

from ..content import ContentError
from ..images import DEFAULT, Limits, open_image

if TYPE_CHECKING:
    from ..content import Image, Place

SIDE, MOST_BYTES = 320, 40_000
# A large photograph in JPEG is decoded at a fraction of its size within these bounds; what cannot be is decoded whole.
_SOON = Limits(max_pixels=(4 * SIDE) ** 2, frames="first")
_WHOLE = Limits(max_pixels=DEFAULT.max_pixels, frames="first")
_QUALITIES = (80, 60, 40, 20, 5)
_EXACT: dict[str, Any] = {"lossless": True, "method": 2}


def thumbnail(image: Image, *, place: Place | None = None, side: int = SIDE) -> bytes:
    """Return a WebP whose longest side is at most `side`, in at most `MOST_BYTES`.

    What is as small already keeps every pixel where the bytes allow it: around the lines of a small drawing, loss is what is seen first.
    """
    try:
        picture = open_image(image, place=place, limits=_SOON)
    except ContentError:
        picture = open_image(image, place=place, limits=_WHOLE)
    whole = max(picture.size) <= side
    picture.thumbnail((side, side), PILImage.Resampling.BICUBIC)
    for how in (*([_EXACT] if whole else []), *({"quality": quality, "method": 2} for quality in _QUALITIES)):
        written = io.BytesIO()
        picture.save(written, "WEBP", **how)
        if written.tell() <= MOST_BYTES:
            break
    return written.getvalue()
