"""Which concepts belong together, and which half each belongs to.

Contrastive training sees one half of the concepts, and the main score is on the other, so nothing may stand on both sides: not a
concept in another style or language, not the same thing under a near name ("red heart", "blue heart"), not nearly the same picture
under another name. All of these are joined into clusters (union-find), and a hash of the cluster decides the half, so that it depends
on nothing else: not on order, not on a seed.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from twoway.data.sources.pages import slug

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HALVES = ("seen", "unseen")
COLOURS = r"(?:light-|hollow-)?(?:red|blue|green|orange|yellow|purple|brown|black|white|grey|pink)"
SIZES = r"(?:large|medium|small|medium-small|glass-of|sprig-of)"
# Two pictures count as nearly the same when this many of 64 bits differ at most, and their colours, and their shades at FINE pixels a
# side, by this much at most (0 to 255, mean). The hash and the colours are those of 8 x 8 pixels: there all faces of one designer are one
# disc, and a face is like a keyhole; the finer shades have the mouth.
BITS = 6
COLOUR = 14.0
FINE, SHADE = 32, 5.0


class Look(NamedTuple):
    """What a picture looks like: a perceptual hash of its shades, a thumbnail of its colours, and a larger one of its shades."""

    bits: np.ndarray
    colours: np.ndarray
    shades: np.ndarray


class Clusters:
    """Union-find over concept ids; the smallest id names the cluster."""

    def __init__(self, ids: Iterable[str]) -> None:
        """Start with every id alone."""
        self._parent = {one: one for one in ids}

    def find(self, one: str) -> str:
        """Return the name of the cluster of `one`."""
        while self._parent[one] != one:
            self._parent[one] = self._parent[self._parent[one]]
            one = self._parent[one]
        return one

    def join(self, one: str, other: str) -> None:
        """Put two ids into one cluster."""
        first, second = sorted((self.find(one), self.find(other)))
        self._parent[second] = first


def half(cluster: str) -> str:
    """Return the half of a cluster: a pure function of its name."""
    return HALVES[hashlib.sha256(f"twoway:{cluster}".encode()).digest()[0] % 2]


def core(name: str) -> str:
    """Return the slug of a name without colour, size, plural and `face`, so that variants of one thing meet."""
    short = re.sub(rf"^(?:{SIZES}-)?(?:{COLOURS}-)?(?:{SIZES}-)?", "", name)
    short = re.sub(r"-face$", "", short) or name
    return re.sub(r"(?<=[a-z]{3})(?<!s)s$", "", short)


def look(picture: Image.Image) -> Look:
    """Return the look of an RGB picture."""
    import imagehash

    colours = np.asarray(picture.resize((8, 8), Image.Resampling.BOX), dtype=np.float32)
    shades = np.asarray(picture.convert("L").resize((FINE, FINE), Image.Resampling.BOX))
    return Look(imagehash.phash(picture).hash.reshape(-1), colours.reshape(-1), shades.reshape(-1))


def near(looks: Sequence[Look]) -> list[tuple[int, int]]:
    """Return all pairs of nearly equal looks, as indices."""
    hashes = np.stack([one.bits for one in looks]).astype(np.float32) * 2 - 1
    colours = np.stack([one.colours for one in looks])
    pairs = []
    for row in range(len(looks)):
        differing = (64 - hashes[row + 1 :] @ hashes[row]) / 2
        for other in (row + 1 + np.flatnonzero(differing <= BITS)).tolist():
            shades = looks[row].shades.astype(np.int16) - looks[other].shades
            if float(np.abs(colours[row] - colours[other]).mean()) <= COLOUR and float(np.abs(shades).mean()) <= SHADE:
                pairs.append((row, other))
    return pairs


def cluster(names: Mapping[str, Iterable[str]], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return concept id -> cluster, given each concept's names and the pairs of concepts that look the same."""
    clusters = Clusters(names)
    owners: dict[str, str] = {}
    for concept, called in sorted(names.items()):
        for key in sorted({core(slug(name)) for name in called}):
            clusters.join(concept, owners.setdefault(key, concept))
    for one, other in pairs:
        clusters.join(one, other)
    return {concept: clusters.find(concept) for concept in names}
