"""A request's words and pictures as documents. Pictures come as data URLs and nothing else: no address is fetched and no path is read.

A text is a text whatever it looks like. Sizes are held to the limits by the pictures' headers, before any pixel is decoded.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from .. import images
from ..content import Document, Image, Place
from .errors import ApiError
from .requests import ImagePart, TextPart

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .limits import Limits
    from .requests import Part

_SHOWN = 40  # characters of a wrong address that an error repeats


class Contents:
    """Makes the documents of one request, and adds up their pixels."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pictures = images.Limits(max_pixels=limits.pixels)
        self._pixels = self._characters = 0

    def text(self, text: str, where: str) -> Document:
        """Return a text as a document."""
        return self._document([{"text": text}], where)

    def simple(self, text: str | None, image: str | None, where: str) -> Document:
        """Return a picture, a text, or the picture and then the text."""
        given: list[dict[str, Any]] = [] if image is None else [{"image": _data(image, f"{where}image")}]
        return self._document([*given, *([] if text is None else [{"text": text}])], where.rstrip("."))

    def parts(self, parts: str | Sequence[Part], where: str) -> Document:
        """Return what a message says, in its order."""
        if isinstance(parts, str):
            return self.text(parts, where)
        if len(parts) > self.limits.parts:
            raise ApiError(400, f"{where} has {len(parts):,} parts; at most {self.limits.parts:,} are taken", code="too_many", param=where)
        return self._document([_part(part, f"{where}[{number}]") for number, part in enumerate(parts)], where)

    def _document(self, parts: Iterable[dict[str, Any]], where: str) -> Document:
        document = Document.from_parts(list(parts), place=Place(where or "the request"))
        for text in document.texts:
            if len(text) > self.limits.characters:
                bound = f"at most {self.limits.characters:,} are taken"
                raise ApiError(400, f"{where}: a text of {len(text):,} characters; {bound}", code="too_long", param=where)
            self._characters += len(text)
            if self._characters > self.limits.request_characters:
                bound = f"{self.limits.request_characters:,} characters"
                raise ApiError(400, f"{where}: the texts of the request have more than {bound} together", code="too_long", param=where)
        for image in document.images:
            self._count(image, document.place, where)
        return document

    def _count(self, image: Image, place: Place | None, where: str) -> None:
        width, height = images.image_size(image, place=place, limits=self.pictures)
        self._pixels += width * height
        if self._pixels > self.limits.request_pixels:
            bound = f"{self.limits.request_pixels:,} pixels"
            raise ApiError(400, f"{where}: the pictures of the request have more than {bound} together", code="too_large", param=where)


def pixels(document: Document, limits: Limits) -> int:
    """Return the pixels that lie in memory once a document is decoded."""
    sizes = [images.image_size(image, place=document.place, limits=images.Limits(max_pixels=limits.pixels)) for image in document.images]
    return sum(width * height for width, height in sizes)


def _part(part: Part, where: str) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"text": part.text}
    assert isinstance(part, ImagePart)
    return {"image": _data(part.image_url.url, f"{where}.image_url.url")}


def _data(url: str, where: str) -> bytes:
    """Return what a data URL holds."""
    head, comma, payload = url.partition(",")
    if not comma or head[:5].lower() != "data:" or not head.lower().endswith(";base64") or len(head) > 200:
        shown = ascii(url[:_SHOWN])
        raise ApiError(
            400,
            f"{where} is {shown}; a picture is sent as 'data:image/…;base64,…', and nothing is fetched",
            code="no_data_url",
            param=where,
        )
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, f"{where} is no base64 ({error})", code="invalid_base64", param=where) from error
