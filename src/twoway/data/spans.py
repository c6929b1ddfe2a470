"""Characters and tokens of one row: which characters are the document's, which are a picture's, and which tokens cover them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Row:
    """The tokens of a row with the text they stand for."""

    text: str  # what the tokenizer read, placeholders expanded
    own: tuple[tuple[int, int], ...]  # characters of the document's texts
    blocks: tuple[tuple[int, int], ...]  # characters that stand for each picture, wrappers included
    ids: Ints
    offsets: Ints  # (tokens, 2)
    units: Ints | None = None

    @classmethod
    def build(
        cls,
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        laid: str,
        spans: Sequence[tuple[int, int]],
        replaced: Sequence[dict[str, Any]],
    ) -> Row:
        """Expand the pictures' placeholders in the laid-out prompt and move the texts' characters along."""
        pieces, at, grown = [], 0, []
        for one in replaced:
            start, end = one["span"]
            pieces += [laid[at:start], one["replacement"]]
            at = end
            grown.append((end, one["new_span"][1] - end))
        ends, shifts = np.array([end for end, _ in grown], np.int64), np.array([0, *(shift for _, shift in grown)], np.int64)
        moved = [int(start + shifts[np.searchsorted(ends, start, "right")]) for start, _ in spans]
        own = tuple((start, start + end - first) for start, (first, end) in zip(moved, spans, strict=True))
        blocks = tuple((int(one["new_span"][0]), int(one["new_span"][1])) for one in replaced)
        text = "".join([*pieces, laid[at:]])
        return cls(text, own, blocks, np.array(ids, np.int64), np.array(offsets, np.int64).reshape(-1, 2))

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)

    def take(self, index: Ints) -> Row:
        """Return the row with these of its tokens."""
        return replace(self, ids=self.ids[index], offsets=self.offsets[index], units=None if self.units is None else self.units[index])

    def covering(self, span: tuple[int, int]) -> tuple[int, int]:
        """Return the range of tokens (first, behind the last) that overlap these characters; empty where there is none."""
        found = np.flatnonzero((self.offsets[:, 0] < span[1]) & (self.offsets[:, 1] > span[0]))
        return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)

    def pictures(self) -> Ints:
        """Return for each token the number of the picture it belongs to, or -1."""
        numbers = np.full(len(self), -1, np.int64)
        for number, span in enumerate(self.blocks):
            first, behind = self.covering(span)
            numbers[first:behind] = number
        return numbers

    def cut(self, length: int, *, keep_end: bool = True) -> tuple[Ints, int]:
        """Return the tokens that stay when the end of the content goes and the template's own end stays, and how many pictures fit.

        Without `keep_end` the template's end goes too, and what stays is what the tokenizer itself puts behind a row.
        """
        content = [self.covering(span) for span in (*self.own, *self.blocks)]
        last, first = max(behind for _, behind in content), min((start for start, behind in content if behind), default=0)
        if not keep_end:
            written = np.flatnonzero(self.offsets[:, 1] > self.offsets[:, 0])
            last = int(written[-1]) + 1 if len(written) else len(self)
        tail = len(self) - last
        keep = length - tail
        fitting = sum(self.covering(span)[1] <= keep for span in self.blocks)
        if keep <= first:
            return np.zeros(0, np.int64), fitting
        return np.concatenate([np.arange(keep), np.arange(last, len(self))]), fitting


def word_tokens(row: Row) -> Bools:
    """Say which tokens cover the document's text and nothing else but white space beside it."""
    own = np.zeros(len(row.text) + 1, np.int64)
    allowed = np.zeros(len(row.text) + 1, np.int64)
    for start, end in row.own:
        own[start:end] = 1
        allowed[_back(row.text, start) : _on(row.text, end)] = 1
    before_own, before_allowed = (np.concatenate([[0], np.cumsum(flags)]) for flags in (own, allowed))
    starts, ends = row.offsets[:, 0], row.offsets[:, 1]
    touches = before_own[ends] > before_own[starts]
    clean = before_allowed[ends] - before_allowed[starts] == ends - starts
    words: Bools = touches & clean
    return words


def _back(text: str, at: int) -> int:
    """Go back over white space."""
    while at > 0 and text[at - 1].isspace():
        at -= 1
    return at


def _on(text: str, at: int) -> int:
    """Go on over white space."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at
