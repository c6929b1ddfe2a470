"""What is masked at once: single tokens, whole words, or spans; always the asked share of the tokens.

The number of masked tokens is the share of the row's tokens, rounded up or down at random so that its mean is exact. Tokens and spans
meet that number exactly. Whole words (as the tokenizer splits text into words) meet it in the mean: they are taken in random order, and
the word that goes over the number is taken with the probability that makes the mean right. Spans (SpanBERT, arXiv 1907.10529; drawn as T5,
arXiv 1910.10683, draws them) have the mean length `SPAN` over random cuts; one may reach across a picture, or lie half at each of the
row's ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from .spans import Bools, Ints

Unit = Literal["token", "word", "span"]
SPAN = 3


def rounded(share: float, count: int, draw: np.random.Generator) -> int:
    """Return `share * count` rounded up or down at random, so that the mean is exact."""
    # A share such as 0.1 is not exact in binary: what is meant as a whole number must not be rounded at random.
    exact = round(share * count, 9)
    return min(count, int(exact) + int(draw.random() < exact - int(exact)))


def choose(count: int, share: float, unit: Unit, words: Ints | None, draw: np.random.Generator) -> Bools:
    """Choose among `count` tokens; `words` has the number of each token's word where whole words are asked for."""
    wanted = rounded(share, count, draw)
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
