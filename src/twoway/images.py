"""The image, a content kind: opened as RGB within bounds, or say in one line why not; there is never a stand-in for a broken picture.

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

import base64
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from PIL import Image as PILImage
from PIL import UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from .errors import UsageError
from .limits import Limits
from .parts import ContentError, Media, Place, Size, checked_path, describe_value, follow, unreadable

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
SUFFIXES = tuple(sorted(suffix for suffix, kind in PILImage.registered_extensions().items() if kind in FORMATS))
_LONGEST_PATH = 1024
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_SENT_AS_IT_IS = ("JPEG", "PNG", "WEBP")  # what every server decodes


@dataclass(frozen=True)
class Image(Media):
    """An image that is not opened yet: a path, the bytes of a file, or a PIL image.

    With a `root`, a path is relative to it and may not leave it, neither by `..`, nor as an absolute path, nor through a link. A
    `transform` is applied when the image is opened, before transparency is laid on white; it keeps the size.
    """

    key: ClassVar[str] = "image"
    modality: ClassVar[str] = "image"
    columns: ClassVar[tuple[str, str]] = ("image", "images")
    message_types: ClassVar[tuple[str, ...]] = ("image", "image_url")
    marks: ClassVar[re.Pattern[str]] = re.compile(
        r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<\|image_(\d+)\|>|<\|image_pad\|>|<\|image\|>|<image>"
    )
    argument: ClassVar[str] = "images"
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    source: Path | bytes | PILImage.Image
    root: Path | None = None
    transform: Callable[[PILImage.Image], PILImage.Image] | None = None

    def __str__(self) -> str:
        return f"picture {self.source}" if isinstance(self.source, Path) else "the embedded picture"

    def path(self, place: Place | None = None) -> Path | None:
        """Return the path of an image on disk, followed through links and held to `root`."""
        return follow(self.source, self.root, "picture", place) if isinstance(self.source, Path) else None

    def read(self, place: Place | None = None) -> bytes:
        """Return the bytes of an image on disk or in memory, undecoded; a PIL image has none."""
        if isinstance(self.source, bytes):
            return self.source
        path = self.path(place)
        if path is None:
            raise TypeError("a PIL image has no bytes of a file")
        try:
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise unreadable(str(self), self.root, error, place) from error

    @classmethod
    def check(cls, value: object, label: str, place: Place | None, root: Path | None) -> Image:
        """See `Part`."""
        if isinstance(value, Image):
            return value
        if isinstance(value, str | Path):
            return cls(checked_path(value, label, "picture", place), root)
        if isinstance(value, bytearray | memoryview):
            value = bytes(value)
        if isinstance(value, bytes) and not value:
            raise ContentError(f"{label} is empty", place)
        if isinstance(value, bytes | PILImage.Image):
            return cls(value)
        raise ContentError(f"{label} is {describe_value(value)}, not a path, bytes or a PIL image", place)

    @classmethod
    def found_in(cls, value: object, *, paths: bool) -> bool:
        """See `Media`; of a list the first says."""
        if isinstance(value, list | tuple):
            return bool(value) and cls.found_in(value[0], paths=paths)
        if isinstance(value, Mapping) and value and set(value) <= {"bytes", "path"}:
            return any(cls.found_in(one, paths=True) for one in value.values())
        if isinstance(value, bytes):
            return value.startswith(_BEGINNINGS) or (value.startswith(b"RIFF") and value[8:12] == b"WEBP")
        return paths and is_image_name(value) if isinstance(value, str) else isinstance(value, PILImage.Image)

    @classmethod
    def tokens_of_sizes(cls, processor: Any, sizes: Sequence[Size]) -> Sequence[float] | None:
        """See `Media`."""
        try:
            found = processor._get_num_multimodal_tokens(image_sizes=[(int(height), int(width)) for width, height, _ in sizes])
            return [float(one) for one in found["num_image_tokens"]]
        except (AttributeError, NotImplementedError, KeyError, TypeError, IndexError):
            return None

    @classmethod
    def sample(cls, size: Size) -> Image:
        """See `Media`."""
        return cls(PILImage.new("RGB", size[:2]))

    @property
    def file(self) -> Path | None:
        """See `Media`."""
        if not isinstance(self.source, Path):
            return None
        return self.source if self.root is None else self.root / self.source

    @property
    def value(self) -> PILImage.Image:
        """The decoded image."""
        if not isinstance(self.source, PILImage.Image):
            raise TypeError("this image is not opened")
        return self.source

    @property
    def memory(self) -> int:
        """See `Part`."""
        if isinstance(self.source, PILImage.Image):
            width, height = self.source.size
            return width * height * len(self.source.getbands())
        return len(self.source) if isinstance(self.source, bytes) else 0

    def payload(self, place: Place | None) -> tuple[str, bytes]:
        """See `Part`: the bytes of its file, so that a path and the same bytes agree; a PIL image has none and counts by its pixels."""
        if isinstance(self.source, PILImage.Image):
            return f"pixels {self.source.mode} {self.source.size}", self.source.tobytes()
        return "image", self.read(place)

    def opened(self, place: Place | None, limits: Limits) -> Image:
        """See `Part`."""
        return type(self)(open_image(self, place=place, limits=limits))

    def size(self, place: Place | None, limits: Limits) -> Size:
        """See `Media`."""
        return (*image_size(self, place=place, limits=limits), 1)

    def preview(self, place: Place | None, limits: Limits) -> PILImage.Image:
        """See `Media`."""
        return open_image(self, place=place, limits=limits)

    def describe(self, most: int | None = None) -> str:
        """See `Part`."""
        return "x".join(map(str, self.value.size)) + " picture"

    def stored(self, place: Place | None, root: Path | None) -> dict[str, Any]:
        """See `Part`; an image in memory is written into the table."""
        if (path := self.path(place)) is not None:
            if root is None or not path.is_relative_to(root):
                raise UsageError(f"{path} does not lie in {root}; the data has changed since it was listed")
            return {"path": str(path.relative_to(root))}
        return {"bytes": self.source if isinstance(self.source, bytes) else _png(self.value)}

    def as_request(self, place: Place | None) -> dict[str, Any]:
        """See `Part`; what servers may read differently (rotation, transparency, rare formats) is settled here, as PNG."""
        image, data = open_image(self, place=place), None  # a broken image is met here, by its place
        if not isinstance(self.source, PILImage.Image):
            data = self.read(place)
            with PILImage.open(io.BytesIO(data)) as found:
                plain = found.size == image.size and found.getexif().get(_EXIF_ORIENTATION, 1) == 1 and not found.has_transparency_data
                kind = found.format if plain and found.format in _SENT_AS_IT_IS else None
        if data is None or kind is None:
            data, kind = _png(image), "PNG"
        return {"type": "image_url", "image_url": {"url": f"data:{PILImage.MIME[kind]};base64,{base64.b64encode(data).decode()}"}}


def open_image(image: Image, *, root: Path | None = None, place: Place | None = None, limits: Limits = DEFAULT) -> PILImage.Image:
    """Return the picture as a decoded RGB image; a `root` given here counts where the picture has none."""
    if root is not None and image.root is None:
        image = replace(image, root=root)
    with ExitStack() as stack:
        if isinstance(image.source, PILImage.Image):
            picture = image.source
            _check_size(picture, image, place, limits)
        else:
            picture = stack.enter_context(_open_header(_open_bytes(image, place, stack), image, place, limits))
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
            picture = stack.enter_context(_open_header(_open_bytes(image, place, stack), image, place, limits))
        _check_frames(picture, image, place, limits)
        try:
            # As the base class reads it, because that of PNG decodes the picture to look behind the pixels, too.
            turned = PILImage.Image.getexif(picture).get(_EXIF_ORIENTATION, 1) >= 5
        except Exception:
            turned = False
        return (picture.size[1], picture.size[0]) if turned else picture.size


def is_image_name(text: str) -> bool:
    """Say whether a text could be the path of an image file, by its length and ending."""
    return len(text) <= _LONGEST_PATH and text.lower().endswith(SUFFIXES)


def _png(image: PILImage.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def _open_bytes(image: Image, place: Place | None, stack: ExitStack) -> BinaryIO:
    """Open the picture's bytes; a file is not read whole, so that its header can refuse it first."""
    if isinstance(image.source, bytes):
        return io.BytesIO(image.source)
    path = image.path(place) or Path()
    try:
        if path.exists() and not path.is_file():
            raise ContentError(f"{image} is not a file", place)
        return stack.enter_context(path.open("rb"))
    except (OSError, ValueError) as error:
        raise unreadable(str(image), image.root, error, place) from error


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
