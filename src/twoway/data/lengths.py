"""How long rows are, without encoding them: characters times a rate that a few rows of each source show, and what pictures of a size get.

How many tokens a picture gets is asked of the processor, which knows it from the size alone, for each size once. Where a processor does
not say, it is read off encoded blank pictures of sizes that stand for the others. The rest of a row (its words, the template, what is
written around pictures) is fitted as a straight line in characters and pictures, for each source its own, since languages differ in rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image as PILImage

from ..content import ContentError, Document, Image
from ..errors import TwowayError
from .batching import PLAIN, Costs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .batching import CostWeights
    from .encode import Example
    from .mixture import Mixture
    from .table import RowTable

    Floats = NDArray[np.float64]

_SAMPLE, _SIZES = 32, 64


class Encodes(Protocol):
    """What turns a row into tokens, as far as their number goes; where rows are in two parts, `source` is what encodes the first."""

    processor: Any
    max_length: int

    def __call__(self, identity: str, document: Document, /) -> Example:
        """Encode one row."""


def measure(mixture: Mixture, encoder: Encodes, weights: CostWeights = PLAIN) -> Costs:
    """Estimate what every row of a mixture costs, cut at the encoder's longest row."""
    lengths, pictures, images = [], [], []
    for number, table in enumerate(mixture.tables):
        tokens = picture_tokens(table, encoder)
        lengths.append(_rest(mixture, number, tokens, encoder))
        pictures.append(tokens)
        images.append(np.asarray(table.images()))
    rest, shown = np.concatenate(lengths), np.concatenate(pictures)
    # What does not fit is cut from the end; a row keeps at least a token of text.
    rest = np.clip(rest, 1, encoder.max_length)
    return Costs.of(rest, np.minimum(shown, encoder.max_length - rest), np.concatenate(images), weights)


def picture_tokens(table: RowTable, encoder: Encodes) -> Floats:
    """Return how many tokens the pictures of each row get together."""
    if not len(table.sizes):
        return np.zeros(len(table))
    # One number for each size, because unique pairs take many times as long.
    key = (np.asarray(table.sizes[:, 0], np.int64) << 32) | np.asarray(table.sizes[:, 1], np.int64)
    kinds, which = np.unique(key, return_inverse=True)
    sizes = np.stack([kinds >> 32, kinds & 0xFFFFFFFF], axis=1)
    each = _asked(sizes, encoder.processor)
    each = _tried(sizes, encoder) if each is None else each
    sums = np.concatenate([[0.0], np.cumsum(each[which])])
    return np.asarray(sums[table.first[1:]] - sums[table.first[:-1]], np.float64)


def _asked(sizes: NDArray[np.int64], processor: Any) -> Floats | None:
    """Ask the processor for the tokens of pictures by (width, height); `None` where it does not say."""
    try:
        said = processor._get_num_multimodal_tokens(image_sizes=[(int(height), int(width)) for width, height in sizes])
        return np.array(said["num_image_tokens"], np.float64)
    except (AttributeError, NotImplementedError, KeyError, TypeError):
        return None


def _tried(sizes: NDArray[np.int64], encoder: Encodes) -> Floats:
    """Encode blank pictures of a few sizes, and give every size the tokens of the nearest one in width and height."""
    ratio = np.log(sizes.astype(np.float64))
    order = np.lexsort((ratio[:, 0] - ratio[:, 1], ratio.sum(axis=1)))
    chosen = order[np.unique(np.linspace(0, len(order) - 1, _SIZES).astype(int))]
    found = []
    encode: Encodes = getattr(encoder, "source", encoder)
    for width, height in sizes[chosen]:
        blank = Document((Image(PILImage.new("RGB", (int(width), int(height)))),))
        try:
            found.append(float(encode("blank", blank).image_tokens.sum()))
        except ContentError:
            found.append(float(encoder.max_length))
    nearest = np.empty(len(sizes), np.int64)
    for start in range(0, len(sizes), 4096):
        part = ratio[start : start + 4096, None] - ratio[chosen][None]
        nearest[start : start + 4096] = np.square(part).sum(axis=2).argmin(axis=1)
    return np.array(found)[nearest]


def _rest(mixture: Mixture, number: int, tokens: Floats, encoder: Encodes) -> Floats:
    """Fit the part of the length that is no picture on a few rows of one source."""
    table, start = mixture.tables[number], int(mixture.starts[number])
    known = np.stack([np.ones(len(table)), np.asarray(table.characters, np.float64), np.asarray(table.images(), np.float64)], axis=1)
    # Spread over the rows by length, so that the line is not drawn through one corner.
    order = np.argsort(known[:, 1], kind="stable")
    chosen = order[np.unique(np.linspace(0, len(table) - 1, _SAMPLE).astype(int))]
    rows, left, failed = [], [], []
    for row in chosen:
        try:
            example = encoder(*mixture.read(start + int(row)))
        except ContentError as error:
            failed.append(error)
            continue
        if not example.cut:
            rows.append(known[row])
            left.append(len(example.words) - tokens[row])
    if len(failed) == len(chosen):
        raise TwowayError(f"none of {len(chosen)} rows of {table.spec} that were tried can be used, the first: {failed[0]}")
    if not rows:
        return np.full(len(table), float(encoder.max_length))  # every one is cut
    line, *_ = np.linalg.lstsq(np.array(rows), np.array(left), rcond=None)
    return np.asarray(known @ line, np.float64)
