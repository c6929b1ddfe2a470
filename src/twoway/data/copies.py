"""Is one document a copy of another: the same parts in order, texts nearly the same, pictures the same but for their file.

A picture that was saved again, in another format, quality or size, differs from itself by little when both are made small; another
drawing of the same thing differs by much more. This is meant for a few pairs; `near` finds near ones among many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..images import open_image
from .near import near_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..content import Document

_SMALL = (24, 24)
_MEAN, _MOST = 3.0, 40.0  # of 255, over the small pictures: on the whole, and in any place
_SHAPE = 1.05


@dataclass(frozen=True)
class Sketch:
    """What of a document is compared: the kinds of its parts, its texts, and its pictures made small with their width over height."""

    kinds: tuple[type, ...]
    texts: tuple[str, ...]
    pictures: tuple[tuple[float, NDArray[Any]], ...]


def sketch(document: Document) -> Sketch:
    """Take what is compared; this opens the pictures."""
    opened = (open_image(image, place=document.place) for image in document.images)
    pictures = tuple((one.width / one.height, np.asarray(one.convert("RGB").resize(_SMALL))) for one in opened)
    return Sketch(tuple(type(part) for part in document.parts), document.texts, pictures)


def same(left: Sketch, right: Sketch) -> bool:
    """Say whether either could stand for the other."""
    return (
        left.kinds == right.kinds
        and all(near_texts(*both) for both in zip(left.texts, right.texts, strict=True))
        and all(_same_picture(*both) for both in zip(left.pictures, right.pictures, strict=True))
    )


def _same_picture(left: tuple[float, NDArray[Any]], right: tuple[float, NDArray[Any]]) -> bool:
    if max(left[0], right[0]) > _SHAPE * min(left[0], right[0]):
        return False
    apart = np.abs(left[1].astype(np.float32) - right[1].astype(np.float32))
    return bool(apart.mean() <= _MEAN and apart.max() <= _MOST)
