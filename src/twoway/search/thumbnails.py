"""Small pictures of what is in an index, so that a page of results opens nothing else."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

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


def thumbnail(image: Image, *, place: Place | None = None, side: int = SIDE) -> bytes:
    """Return a WebP whose longest side is at most `side`, in at most `MOST_BYTES`."""
    try:
        picture = open_image(image, place=place, limits=_SOON)
    except ContentError:
        picture = open_image(image, place=place, limits=_WHOLE)
    picture.thumbnail((side, side), PILImage.Resampling.BICUBIC)
    for quality in _QUALITIES:
        written = io.BytesIO()
        picture.save(written, "WEBP", quality=quality, method=2)
        if written.tell() <= MOST_BYTES:
            break
    return written.getvalue()
