"""What goes to a server of vectors and what comes back: messages with pictures, vectors of length 1, and a name for the cache."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as PILImage

from ..content import Document, Image, Text
from ..images import open_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..content import Place

    Vector = NDArray[np.float32]

_AS_IT_IS = ("JPEG", "PNG", "WEBP")  # what every server decodes
_ORIENTATION = 0x0112


def content(document: Document) -> list[dict[str, Any]]:
    """Return the parts of a document in order, as a chat message has them."""
    parts: list[dict[str, Any]] = []
    for part in document.parts:
        if isinstance(part, Text):
            parts.append({"type": "text", "text": part.text})
        else:
            parts.append({"type": "image_url", "image_url": {"url": _data_url(part, document.place)}})
    return parts


def _data_url(image: Image, place: Place | None) -> str:
    """Return a picture inside a URL; what servers may read differently (rotation, transparency, rare formats) is settled here, as PNG."""
    opened = open_image(image, place=place)  # a broken picture is met here, by its place
    if not isinstance(image.source, PILImage.Image):
        data = image.read(place)
        with PILImage.open(io.BytesIO(data)) as found:
            plain = found.size == opened.size and found.getexif().get(_ORIENTATION, 1) == 1 and not found.has_transparency_data
            if plain and found.format in _AS_IT_IS:
                return _url(data, found.format)
    written = io.BytesIO()
    opened.save(written, "PNG")
    return _url(written.getvalue(), "PNG")


def _url(data: bytes, kind: str) -> str:
    return f"data:{PILImage.MIME[kind]};base64,{base64.b64encode(data).decode()}"


def vectors_of(answer: Any, count: int) -> list[Vector]:
    """Return the vectors of an answer in the order of what was asked, at length 1."""
    rows = sorted(answer.data, key=lambda one: one.index)
    if [one.index for one in rows] != list(range(count)):
        raise ValueError(f"{count} vectors were asked for and {len(rows)} came")
    found = np.array([one.embedding for one in rows], dtype=np.float32)
    if found.ndim != 2 or not found.shape[1]:
        raise ValueError("its vectors are no rows of numbers")
    if not np.isfinite(found).all():
        raise ValueError("its vectors hold numbers that are not finite")
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return list(found / np.where(lengths > 0, lengths, 1.0))


def fingerprint(url: str, model: str, how: str, dimension: int) -> str:
    """Name a model behind a server; it may change its model and keep the name, which its vectors alone tell."""
    return "endpoint-" + hashlib.sha256(json.dumps([url, model, how, dimension]).encode()).hexdigest()
