"""Open a picture as RGB within bounds, or say in one line why not; there is never a stand-in for a broken picture.

The rules, each with its reason:
- Only raster formats that Pillow decodes by itself are tried, so no outside program ever runs on data.
- The size in the header is checked before any pixel is decoded. A plain JPEG above the bound is decoded at 1/2, 1/4 or 1/8
  of its size where that fits; anything else above the bound is an error. Progressive JPEGs are not reduced: their decoder
  holds all coefficients at full size whatever it gives out.
- A picture with more than one frame (animation, pages) is an error, since which frame is meant is the data's business;
  `frames="first"` takes the first. The second picture inside a phone's JPEG is not a frame.
- EXIF orientation is applied; transparency is laid on white; 16-bit grey keeps its upper 8 bits; CMYK becomes RGB by
  Pillow's rule (colour profiles are not applied).
- A 1 x 1 picture is fine: every processor enlarges it. A picture more than 200 times as long as wide is refused, because
  the Qwen processors refuse it later, when nobody knows the row any more.
"""

from __future__ import annotations

import io
import warnings
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from .content import ContentError, Document, Image, Part, Place, Text, unreadable
from .limits import Limits

if TYPE_CHECKING:
    from pathlib import Path

# A damaged JPEG or TIFF makes Pillow warn about metadata; the pixels alone decide here. Said once, and not around each picture: what
# `catch_warnings` changes and puts back is shared by all threads, and they would leave each other without any warning.
warnings.filterwarnings("ignore", module=r"PIL\.")

DEFAULT = Limits()
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_TURNS = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112


def open_image(image: Image, *, root: Path | None = None, place: Place | None = None, limits: Limits = DEFAULT) -> PILImage.Image:
    """Return the picture as a decoded RGB image; a `root` given here counts where the picture has none."""
    if root is not None and image.root is None:
        image = replace(image, root=root)
    with ExitStack() as stack:
        if isinstance(image.source, PILImage.Image):
            picture = image.source
            _check_size(picture, image, place, limits)
        else:
            picture = stack.enter_context(_open_header(_file(image, place, stack), image, place, limits))
        _check_frames(picture, image, place, limits)
        try:
            picture.load()
            upright = _upright(picture)
            if image.transform is None:
                return _to_rgb(upright)
            return image.transform(upright.convert("RGBA") if upright.has_transparency_data else _to_rgb(upright))
        except ContentError as error:
            raise ContentError(f"{image} {error.reason}", place) from error
        except Exception as error:  # decoders meet hostile bytes and raise nearly anything
            raise ContentError(f"{image} is broken ({error})", place) from error


def image_size(image: Image, *, place: Place | None = None, limits: Limits = DEFAULT) -> tuple[int, int]:
    """Return width and height as `open_image` will give them, from the header alone; no pixel is decoded."""
    with ExitStack() as stack:
        if isinstance(image.source, PILImage.Image):
            picture = image.source
        else:
            picture = stack.enter_context(_open_header(_file(image, place, stack), image, place, limits))
        _check_frames(picture, image, place, limits)
        try:
            # As the base class reads it, because that of PNG decodes the picture to look behind the pixels, too.
            turned = PILImage.Image.getexif(picture).get(_EXIF_ORIENTATION, 1) >= 5
        except Exception:
            turned = False
        return (picture.size[1], picture.size[0]) if turned else picture.size


def open_document(document: Document, *, limits: Limits = DEFAULT) -> Document:
    """Return the document with every picture decoded."""
    parts: list[Part] = []
    for part in document.parts:
        opened = part if isinstance(part, Text) else Image(open_image(part, place=document.place, limits=limits))
        parts.append(opened)
    return Document(tuple(parts), document.place, document.meta)


def to_messages(document: Document, *, role: str = "user", limits: Limits = DEFAULT) -> list[dict[str, Any]]:
    """Return the document as chat messages with the pictures decoded: an input for sentence-transformers that keeps order and kind."""
    content: list[dict[str, Any]] = []
    for part in document.parts:
        if isinstance(part, Text):
            content.append({"type": "text", "text": part.text})
        else:
            content.append({"type": "image", "image": open_image(part, place=document.place, limits=limits)})
    return [{"role": role, "content": content}]


def _file(image: Image, place: Place | None, stack: ExitStack) -> BinaryIO:
    """Open the picture's bytes; a file is not read whole, so that its header can refuse it first."""
    if isinstance(image.source, bytes):
        return io.BytesIO(image.source)
    path = image.path(place)
    try:
        if path.exists() and not path.is_file():
            raise ContentError(f"{image} is not a file", place)
        return stack.enter_context(path.open("rb"))
    except (OSError, ValueError) as error:
        raise unreadable(image, error, place) from error


def _open_header(file: BinaryIO, image: Image, place: Place | None, limits: Limits) -> PILImage.Image:
    """Read the header alone and hold it to the limits."""
    start = file.read(512)
    file.seek(0)
    if not start:
        raise ContentError(f"{image} is empty (0 bytes)", place)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise ContentError(f"{image} is markup such as SVG or HTML, not a raster picture; render it to PNG first", place)
    try:
        if start.startswith(b"\xff\xd8"):
            # Opened by its class: `Image.open` refuses a huge JPEG before it could be decoded smaller.
            picture: PILImage.Image = JpegImageFile(file)
            _reduce(picture, file, limits)
        else:
            picture = PILImage.open(file, formats=FORMATS)
    except PILImage.DecompressionBombError as error:
        raise ContentError(f"{image} is too large to decode ({error}); make it smaller", place) from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise ContentError(f"{image} is broken or in an unknown format (known: {known})", place) from error
    except Exception as error:
        raise ContentError(f"{image} is broken ({error})", place) from error
    _check_size(picture, image, place, limits)
    return picture


def _reduce(picture: PILImage.Image, file: BinaryIO, limits: Limits) -> None:
    """Ask for a reduced decode of a JPEG above the bound, where the decoder then truly works in little memory."""
    width, height = picture.size
    if width * height <= limits.max_pixels or picture.info.get("progressive"):
        return
    # The header's reader stops behind the head of the first scan: two bytes of length, then the number of colours in it, and
    # more. A scan with fewer colours than the picture is one of several, and those are held whole like a progressive file's.
    colours = len(picture.getbands())
    length = 6 + 2 * colours
    file.seek(-length, io.SEEK_CUR)
    if file.read(3) != bytes([0, length, colours]):
        return
    for scale in (2, 4, 8):
        if (width // scale + 1) * (height // scale + 1) <= limits.max_pixels:
            # `draft` picks the strongest reduction that stays at or above the size asked for.
            picture.draft(None, (width // scale, height // scale))
            return


def _check_size(picture: PILImage.Image, image: Image, place: Place | None, limits: Limits) -> None:
    """Refuse sizes that no later step can take."""
    width, height = picture.size
    if not width or not height:
        raise ContentError(f"{image} has no pixels ({width} x {height})", place)
    if width * height > limits.max_pixels:
        bound = f"{limits.max_pixels:,} pixels"
        raise ContentError(f"{image} is too large ({width:,} x {height:,}, the bound is {bound}); make it smaller", place)
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ContentError(
            f"{image} is too narrow ({width:,} x {height:,}, the bound is 1 to {limits.max_aspect:g}); crop or pad it", place
        )


def _check_frames(picture: PILImage.Image, image: Image, place: Place | None, limits: Limits) -> None:
    """Refuse animations and pages unless the first frame is asked for."""
    if isinstance(image.source, PILImage.Image):
        return  # the caller has chosen the frame
    try:
        several = bool(getattr(picture, "is_animated", False))
    except Exception as error:
        raise ContentError(f"{image} is broken ({error})", place) from error
    if several and limits.frames == "only":
        raise ContentError(f"{image} has several frames (animation or pages); save the one you mean, or ask for the first", place)


def _upright(picture: PILImage.Image) -> PILImage.Image:
    """Apply the EXIF orientation; metadata that cannot be read says nothing about orientation."""
    try:
        turn = _TURNS.get(picture.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        turn = None
    return picture if turn is None else picture.transpose(turn)


def _to_rgb(picture: PILImage.Image) -> PILImage.Image:
    """Bring any mode to 8-bit RGB, transparency on white."""
    if picture.mode.startswith("I;16"):
        picture = picture.convert("I")
    if picture.mode == "I":
        low, high = picture.getextrema()
        if low < 0 or high > 65535:  # type: ignore[operator]
            raise ContentError("has 32-bit pixels of unknown range; save it with 8 or 16 bits")
        picture = picture.point(lambda value: value * (1 / 256)).convert("L")
    if picture.mode == "F":
        raise ContentError("has floating-point pixels of unknown range; save it with 8 or 16 bits")
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        white = PILImage.new("RGB", clear.size, "white")
        white.paste(clear, mask=clear.getchannel("A"))
        return white
    # A copy in every case: the caller's own image is never handed out, and no open file stays behind. The metadata goes, because
    # transformers applies an EXIF orientation that it finds, and here it is applied already.
    plain = picture.copy() if picture.mode == "RGB" else picture.convert("RGB")
    plain.info = {}
    return plain
