"""Vector drawings to small pictures, once, in the bytes that are shipped."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from twoway.errors import TwowayError

if TYPE_CHECKING:
    from .concepts import Drawing

SIDE = 72
QUALITY = 80
CLEAR = 16
SMALLEST = 12
PER_UNIT = {"px": 1.0, "pt": 1.25, "mm": 90 / 25.4, "cm": 90 / 2.54, "in": 90.0}


def render(drawing: Drawing, side: int = SIDE) -> Image.Image:
    """Draw an SVG into a transparent square of `side` pixels, centred, with its proportions kept."""
    import resvg_py

    text = drawing.read()
    if drawing.stroke:
        text = text.replace("currentColor", drawing.stroke)
    try:
        # System fonts differ from machine to machine, and the shipped bytes must not.
        drawn = resvg_py.svg_to_bytes(svg_string=_with_view_box(text), skip_system_fonts=True, width=(4 if drawing.crop else 2) * side)
    except ValueError as error:
        raise TwowayError(f"{drawing.path}: not a drawing that can be rendered ({error})") from error
    picture = Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")
    if drawing.crop:
        picture = picture.crop(picture.getchannel("A").point(lambda alpha: 255 * (alpha > CLEAR)).getbbox() or (0, 0, 1, 1))
    if min(picture.size) < SMALLEST:
        raise TwowayError(f"{drawing.path}: nothing to see in this drawing")
    picture = ImageOps.contain(
        picture, (side, side), Image.Resampling.BOX if picture.size == (2 * side, 2 * side) else Image.Resampling.LANCZOS
    )
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _with_view_box(text: str) -> str:
    """Give a drawing without `viewBox` one of its own size: the renderer refuses sizes in millimetres or points without it.

    Editors of that time counted 90 pixels to the inch.
    """
    head = re.search(r"<svg\b[^>]*>", text)
    if head is None or "viewBox" in head[0]:
        return text
    sizes = [re.search(rf"""\s{side}\s*=\s*["']([\d.]+)\s*(mm|cm|pt|in|px)?["']""", head[0]) for side in ("width", "height")]
    if None in sizes:
        return text
    width, height = (float(size[1]) * PER_UNIT[size[2] or "px"] for size in sizes if size)
    bare = re.sub(r"""\s(width|height)\s*=\s*["'][^"']*["']""", "", head[0])
    return text.replace(head[0], f'{bare[:-1]} viewBox="0 0 {width:.3f} {height:.3f}" width="{width:.3f}" height="{height:.3f}">', 1)


def encode(picture: Image.Image) -> bytes:
    """Encode as WebP, without loss or at a quality, whichever is smaller."""
    lossless, lossy = io.BytesIO(), io.BytesIO()
    picture.save(lossless, "WEBP", lossless=True, method=4)
    picture.save(lossy, "WEBP", quality=QUALITY, method=4)
    return min(lossless.getvalue(), lossy.getvalue(), key=len)
