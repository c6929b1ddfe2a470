"""Masked words and masked patches of one row (MoCa, arXiv 2506.23115, section 3.1), as a pure function of seed, epoch and identity.

The generator is Philox with a key from SHA-256, one stream for each purpose, so a mask depends neither on the worker, rank or batch that
a row falls into nor on the options of the other modality. Noise is drawn in the shape of the targets and does not look at the pixels.

Deviations: the paper says 40% of words; here the number of masked tokens is that share of the row's words, rounded up or down at random so
that the mean is exact, in short rows too. The released code has one noise vector for a batch; `noise: shared` has one for an epoch,
since a batch is no part of a row's identity.

A token of a video stands for a pair of frames, and is masked in both. `video: tube` masks its place in all frames (VideoMAE,
arXiv 2203.12602, section 3.2), so that no frame shows what another hides; `frame` masks whole pairs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from twoway.content import ContentError
from twoway.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from .config import MaskingConfig, Unit
    from .patches import Bools, Ints, PatchGeometry
    from .processing import Example

NO_TARGET = -100


@dataclass(frozen=True)
class MaskedRow:
    """One row with masks: what the model sees, and what it shall restore."""

    identity: str
    inputs: dict[str, Tensor]
    labels: Tensor
    patch_mask: Tensor
    patch_targets: Tensor
    patch_units: Ints  # where the targets lie in the geometry's table, so that a restored patch can be put back
    counts: dict[str, int]


def mask_inputs(
    example: Example,
    config: MaskingConfig,
    *,
    seed: int,
    epoch: int,
    mask_token: int,
    geometry: PatchGeometry,
    ordinary: Ints | None = None,
) -> MaskedRow:
    """Mask one row; `ordinary` are the ids that a random word is drawn from."""
    key = (seed, epoch, example.identity)
    has_words, has_patches = bool(example.words.any()), bool(example.image_tokens.any())
    masks_words, masks_patches = has_words, has_patches
    if config.masking == "alternate" and has_words and has_patches:
        masks_patches = bool(random_stream("alternate", *key).random() < 0.5)
        masks_words = not masks_patches
    if has_words and config.whole_pictures and random_stream("whole pictures", *key).random() < config.whole_pictures:
        masks_words, masks_patches = True, False
    inputs = dict(example.inputs)
    labels = torch.full_like(inputs["input_ids"], NO_TARGET)
    if masks_words:
        places = example.words.numpy().nonzero()[0]
        words = None if example.units is None else example.units.numpy()[places]
        chosen = torch.from_numpy(places[choose_tokens(len(places), config.words, config.unit, words, random_stream("words", *key))])
        labels[chosen] = inputs["input_ids"][chosen]
        written = _written(labels[chosen].numpy(), config, mask_token, ordinary, random_stream("random words", *key))
        inputs["input_ids"] = inputs["input_ids"].index_copy(0, chosen, torch.from_numpy(written))
    patch_mask = torch.zeros_like(example.image_tokens)
    targets, units = torch.zeros(0, geometry.width), np.zeros(0, np.int64)
    if masks_patches and config.patches:
        try:
            found = geometry.places(inputs, example.pictures, example.grids)
        except ContentError as error:
            raise ContentError(error.reason, example.place) from error
        cells = geometry.cells_in_time(found.cells, inputs, example.pictures, config.video)
        masked = choose_patches(found.units, cells, example.pictures.numpy(), config.patches, random_stream("patches", *key))
        units = found.units[masked]
        targets = geometry.take(inputs, units)
        inputs = geometry.put(inputs, units, noise(config, geometry, len(units), key))
        patch_mask[example.image_tokens.nonzero()[:, 0][torch.from_numpy(masked)]] = True
    counts = {
        "tokens": len(labels),
        "words": int(example.words.sum()),
        "image_tokens": int(example.image_tokens.sum()),
        "masked_words": int((labels != NO_TARGET).sum()),
        "masked_patches": len(targets),
        "cut": int(example.cut),
        "images_cut": example.images_cut,
    }
    return MaskedRow(example.identity, inputs, labels, patch_mask, targets, units, counts)


def random_stream(purpose: str, seed: int, epoch: int, identity: str) -> np.random.Generator:
    """Return the generator of one purpose for one row."""
    digest = hashlib.sha256("\0".join((purpose, str(seed), str(epoch), identity)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def noise(config: MaskingConfig, geometry: PatchGeometry, count: int, key: tuple[int, int, str]) -> Tensor:
    """Draw unit Gaussian noise for `count` tokens: each its own, or the epoch's one patch repeated."""
    if config.noise == "shared":
        one = random_stream("shared noise", key[0], key[1], "").standard_normal(geometry.values // geometry.patches, dtype=np.float32)
        return torch.from_numpy(one).repeat(geometry.patches).expand(count, -1)
    return torch.from_numpy(random_stream("noise", *key).standard_normal((count, geometry.values), dtype=np.float32))


def choose_patches(units: Ints, cells: Ints, pictures: Ints, share: float, draw: np.random.Generator) -> Bools:
    """Choose the share of each picture's cells, and all tokens that show them."""
    masked = np.zeros(len(units), bool)
    for picture in np.unique(pictures):
        here = (pictures == picture) & (units >= 0)
        own = np.unique(cells[here])
        chosen = draw.permutation(own)[: round_randomly(share, len(own), draw)]
        masked |= here & np.isin(cells, chosen)
    return masked


def _written(ids: Ints, config: MaskingConfig, mask_token: int, ordinary: Ints | None, draw: np.random.Generator) -> Ints:
    """Return what stands in the place of the masked words: mostly the mask token (BERT, arXiv 1810.04805, section 3.1)."""
    written = np.full_like(ids, mask_token)
    if config.keep or config.random:
        dice = draw.random(len(ids))
        kept, other = dice < config.keep, (dice >= config.keep) & (dice < config.keep + config.random)
        written[kept] = ids[kept]
        if other.any():
            if ordinary is None or not len(ordinary):
                raise UsageError("random words need the ordinary ids of the tokenizer")
            written[other] = draw.choice(ordinary, int(other.sum()))
    return written


# What is masked at once: single tokens, whole words, or spans; always the asked share of the tokens.
#
# The number of masked tokens is the share of the row's tokens, rounded up or down at random so that its mean is
# exact. Tokens and spans meet that number exactly. Whole words (as the tokenizer splits text into words) meet it in
# the mean: they are taken in random order, and the word that goes over the number is taken with the probability that
# makes the mean right. Spans (SpanBERT, arXiv 1907.10529; drawn as T5, arXiv 1910.10683, draws them) have the mean
# length `SPAN` over random cuts; one may reach across a picture, or lie half at each of the row's ends.

SPAN = 3


def round_randomly(share: float, count: int, draw: np.random.Generator) -> int:
    """Return `share * count` rounded up or down at random, so that the mean is exact."""
    # A share such as 0.1 is not exact in binary: what is meant as a whole number must not be rounded at random.
    exact = round(share * count, 9)
    return min(count, int(exact) + int(draw.random() < exact - int(exact)))


def choose_tokens(count: int, share: float, unit: Unit, words: Ints | None, draw: np.random.Generator) -> Bools:
    """Choose among `count` tokens; `words` has the number of each token's word where whole words are asked for."""
    wanted = round_randomly(share, count, draw)
    if unit == "span":
        return _spans(count, wanted, draw)
    if unit == "word":
        if words is None:
            raise ValueError("whole words need the words' numbers")
        return _words(words, wanted, draw)
    chosen = np.zeros(count, bool)
    chosen[draw.permutation(count)[:wanted]] = True
    return chosen


def _words(words: Ints, wanted: int, draw: np.random.Generator) -> Bools:
    """Take whole words in random order."""
    _, number, sizes = np.unique(words, return_inverse=True, return_counts=True)
    order = draw.permutation(len(sizes))
    reached = np.cumsum(sizes[order])
    taken = int(np.searchsorted(reached, wanted, "right"))
    before = int(reached[taken - 1]) if taken else 0
    if taken < len(order) and draw.random() * sizes[order[taken]] < wanted - before:
        taken += 1
    chosen: Bools = np.isin(number, order[:taken])
    return chosen


def _spans(count: int, wanted: int, draw: np.random.Generator) -> Bools:
    """Cut the masked and the free tokens into as many pieces each and lay them out in turn."""
    if not wanted:
        return np.zeros(count, bool)
    free = count - wanted
    if not free:
        return np.ones(count, bool)
    # Round the row as a ring, spans and gaps take turns; where the ring is opened is random, so every place is as likely.
    pieces = min(max(1, round(wanted / SPAN)), free)
    lengths = np.stack([_cut(wanted, pieces, draw), _cut(free, pieces, draw)], 1).reshape(-1)
    ring = np.repeat(np.arange(2 * pieces) % 2 == 0, lengths)
    return np.roll(ring, draw.integers(count))


def _cut(total: int, pieces: int, draw: np.random.Generator) -> Ints:
    """Cut `total` into this many lengths of at least one, all cuts equally likely."""
    places = np.sort(draw.choice(total - 1, pieces - 1, replace=False)) + 1 if pieces > 1 else np.zeros(0, np.int64)
    return np.diff(np.concatenate([[0], places, [total]])).astype(np.int64)
