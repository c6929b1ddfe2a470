"""Nearly the same: texts, pictures and documents that are copies of each other but for details."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import Text
from twoway.errors import UsageError, with_extra
from twoway.images import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from twoway.content import Document, Part


# Nearly the same: texts by the pieces they are made of, pictures by what they look like from afar (perceptual hash).
#
# Two texts are near when nine tenths of the runs of five characters in either are in both, white space and case
# aside. Two pictures are near when no more than `NEAR_BITS` of the 64 bits of their perceptual hashes differ. To find
# near ones among many, hashes are cut into more bands than bits may differ: near ones have a band in common, so only
# those that do are compared.

NEAR_BITS = 4
_RUN, _SHARE = 5, 0.9
_BANDS = NEAR_BITS + 1


def near_texts(left: str, right: str) -> bool:
    """Say whether two texts are nearly the same."""
    left, right = (Text(text).normalized().text for text in (left, right))
    if left == right or min(len(left), len(right)) < _RUN:
        return left == right
    ours, theirs = ({text[at : at + _RUN] for at in range(len(text) - _RUN + 1)} for text in (left, right))
    return len(ours & theirs) >= _SHARE * len(ours | theirs)


def perceptual_hashes(document: Document) -> list[int]:
    """Return the perceptual hash of each picture."""
    try:
        import imagehash
    except ImportError as error:
        raise UsageError(f"comparing pictures needs the package ImageHash; {with_extra('train')}") from error
    opened = (part.likeness(document.place, DEFAULT) for part in document.media)
    return [int("".join("01"[bit] for bit in imagehash.phash(one).hash.reshape(-1).astype(int)), 2) for one in opened]


def near_hashes(left: int, right: int) -> bool:
    """Say whether two pictures are nearly the same."""
    return (left ^ right).bit_count() <= NEAR_BITS


class HashIndex:
    """Perceptual hashes with a name each, among which near ones are found."""

    def __init__(self) -> None:
        self._bands: list[dict[int, list[tuple[int, str]]]] = [defaultdict(list) for _ in range(_BANDS)]
        edges = np.linspace(0, 64, _BANDS + 1).astype(int)
        self._cuts = [(int(low), (1 << int(high - low)) - 1) for low, high in pairwise(edges)]

    def add(self, look: int, name: str) -> None:
        """Remember one."""
        for band, (shift, mask) in zip(self._bands, self._cuts, strict=True):
            band[look >> shift & mask].append((look, name))

    def find(self, look: int) -> str | None:
        """Return the name of a near one."""
        for band, (shift, mask) in zip(self._bands, self._cuts, strict=True):
            for other, name in band.get(look >> shift & mask, ()):
                if near_hashes(look, other):
                    return name
        return None


class EvaluationContents:
    """The contents of an evaluation set: training rows that hold one of them have seen the answer, or the question."""

    def __init__(self, documents: Iterable[tuple[str, Document]]) -> None:
        self.parts: dict[str, str] = {}
        self.looks = HashIndex()
        for name, document in documents:
            for part in document.parts:
                self.parts.setdefault(_hash(part), name)
            for look_ in perceptual_hashes(document):
                self.looks.add(look_, name)

    def exact(self, document: Document) -> str | None:
        """Return the name of the row that holds a text or the file of a picture of this one."""
        return next((name for part in document.parts if (name := self.parts.get(_hash(part))) is not None), None)

    def near(self, document: Document) -> str | None:
        """Return the name of the row that holds a picture like one of this one's."""
        return next((name for one in perceptual_hashes(document) if (name := self.looks.find(one)) is not None), None)


def _hash(part: Part) -> str:
    label, payload = part.normalized().payload(None)
    return hashlib.sha256(label.encode() + payload).hexdigest()


# Is one document a copy of another: the same parts in order, texts nearly the same, pictures the same but for their
# file.
#
# A picture that was saved again, in another format, quality or size, differs from itself by little when both are made
# small; another drawing of the same thing differs by much more. This is meant for a few pairs; `near` finds near ones
# among many.

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
    opened = (part.likeness(document.place, DEFAULT) for part in document.media)
    pictures = tuple((one.width / one.height, np.asarray(one.convert("RGB").resize(_SMALL))) for one in opened)
    return Sketch(tuple(type(part) for part in document.parts), document.texts, pictures)


def is_copy(left: Sketch, right: Sketch) -> bool:
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
