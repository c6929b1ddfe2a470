"""Batches of equal cost: an epoch's rows, sorted by length within large random windows, cut where the budget ends.

A row costs its tokens in the language model, padded to the longest row of its batch, and what its pictures cost besides (the tower):
`cost` counts an image token as `image_token` text tokens and a picture as `image` more. A batch that is cut from rows of nearly one length
has little padding. Then `shards` batches of nearly equal cost make one global batch, in a random order: one rank takes all of them one
after the other, two ranks take half each, and the rows, and so the gradient, are the same.

A plan is numpy arrays and nothing else: ten million rows take seconds, and any batch is found in constant time, so a run that goes on walks
through nothing. (The released code of MoCa packs bins of a ratio of 1.3; here the padding is counted, because it is work too.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import TwowayError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float32]

WINDOW = 16384
# Batches whose costs differ by less than this share of the dearest may meet at random in a global batch.
_EQUAL = 0.05


@dataclass(frozen=True)
class CostWeights:
    """What an image token and a picture cost, in text tokens; 1 and 0 count the language model alone."""

    image_token: float = 1.0
    image: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no cost."""
        if self.image_token < 1 or self.image < 0:
            raise UsageError(f"an image token costs at least 1 text token and a picture at least 0, not {self.image_token}, {self.image}")


# The language model alone.
PLAIN = CostWeights()


def cost(text_tokens: Any, image_tokens: Any, images: Any, weights: CostWeights = PLAIN) -> Any:
    """Return the cost of rows, in text tokens."""
    return text_tokens + weights.image_token * image_tokens + weights.image * images


@dataclass(frozen=True)
class Costs:
    """What each row costs: its length in the language model, and what its pictures cost besides."""

    length: Floats
    extra: Floats

    @classmethod
    def of(cls, text_tokens: Any, image_tokens: Any, images: Any, weights: CostWeights) -> Costs:
        """Build from counts."""
        length = np.asarray(text_tokens + image_tokens, np.float32)
        # Not as a difference of two sums, which would leave crumbs where an image token costs as much as a word.
        return cls(length, np.asarray(cost(0, image_tokens, images, weights) - image_tokens, np.float32))

    def take(self, columns: Ints) -> Costs:
        """Return the costs of some rows."""
        return Costs(self.length[columns], self.extra[columns])


@dataclass(frozen=True)
class Plan:
    """The batches of one epoch."""

    rows: Ints  # in the order of the batches
    starts: Ints  # where each batch begins in `rows`, and the end
    groups: Ints  # (steps, shards): the batches of each global batch
    cost: Floats  # of each batch, padding included
    padding: float  # share of the tokens
    over: int  # rows that cost more than the budget all alone

    @property
    def steps(self) -> int:
        """The number of global batches."""
        return len(self.groups)

    def __len__(self) -> int:
        """Count the global batches."""
        return len(self.groups)

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Ints, ...]:
        """Return the rows of the batches that a rank has to do in one step, one after the other."""
        shards = self.groups.shape[1]
        if shards % ranks:
            raise UsageError(f"{shards} shards cannot be shared by {ranks} ranks; set shards to a multiple of {ranks}")
        each = shards // ranks
        chosen = self.groups[step, rank * each : (rank + 1) * each]
        return tuple(self.rows[self.starts[number] : self.starts[number + 1]] for number in chosen)

    def report(self) -> dict[str, float | int]:
        """Say how even the batches are; `imbalance` is the share of time that the average rank waits for the slowest."""
        costs = self.cost[self.groups]
        return {
            "rows": len(self.rows),
            "batches": len(self.cost),
            "steps": self.steps,
            "rows_per_batch": round(len(self.rows) / len(self.cost), 2),
            "padding_share": round(self.padding, 4),
            "imbalance": round(1 - float(costs.mean()) / float(costs.max(axis=1).mean()), 4),
            "rows_over_budget": self.over,
        }


def plan(
    rows: Ints,
    costs: Costs,
    *,
    seed: int,
    epoch: int,
    shards: int = 1,
    budget: float | None = None,
    batch_rows: int | None = None,
    window: int = WINDOW,
) -> Plan:
    """Cut an epoch's rows (in random order, with their costs in the same order) into batches of one budget, or of a number of rows.

    Both bounds are of one batch of one rank; a row that is dearer than the budget is a batch of its own. A `window` of 1 sorts nothing.
    """
    if (budget is None) == (batch_rows is None):
        raise UsageError("set either a budget or batch_rows, the one bound of a batch")
    if (budget is not None and not budget > 0) or (batch_rows is not None and batch_rows < 1) or shards < 1 or window < 1:
        raise UsageError("budget, batch_rows, shards and window are above 0")
    if len(rows) < shards:
        raise TwowayError(f"{len(rows)} rows cannot fill the {shards} batches of one step; take fewer shards or more data")
    if window > 1:
        order = _windows(costs.length, window)
        rows, costs = rows[order], costs.take(order)
    sums = np.concatenate([[0.0], np.cumsum(costs.extra, dtype=np.float64)])
    starts = np.arange(0, len(rows), batch_rows) if batch_rows is not None else _cut(costs.length, sums, float(budget or 0), window)
    starts = _fill(np.append(starts, len(rows)), shards)
    filled = np.diff(starts) > 0
    tokens = np.zeros(len(filled))
    tokens[filled] = np.maximum.reduceat(costs.length, starts[:-1][filled]) * np.diff(starts)[filled].astype(np.float64)
    price = (tokens + sums[starts[1:]] - sums[starts[:-1]]).astype(np.float32)
    over = int((costs.length + costs.extra > budget).sum()) if budget is not None else 0
    padding = 1 - float(costs.length.sum(dtype=np.float64)) / float(tokens.sum()) if tokens.any() else 0.0
    return Plan(rows, starts, _group(price, shards, np.random.default_rng([seed, epoch, 0x53])), price, padding, over)


def _windows(length: Floats, window: int) -> Ints:
    """Return the order that sorts each window by length, the longest row first; every other window the other way round.

    So the length goes down and up like a wave, and a batch in a valley, across the border of two windows, holds rows of one length too.
    """
    number = np.arange(len(length)) // window
    key = np.where(number % 2, length, -length)
    return np.lexsort((key, number))


def _cut(length: Floats, sums: NDArray[np.float64], budget: float, window: int) -> Ints:
    """Return where batches begin when each takes as many rows as fit."""
    total, starts, at = len(length), [], 0
    guess = 1
    while at < total:
        starts.append(at)
        # No batch goes across a peak of the wave: behind it the longest row would be neither the first nor the last.
        end = min((at // (2 * window) + 1) * 2 * window, total) if window > 1 else total
        low, high = at + 1, min(at + 2 * guess, end)
        while _price(length, sums, at, high, window) <= budget and high < end:
            low, high = high, min(at + 2 * (high - at), end)
        # The first `low` rows fit (one always does), `high` may not.
        while low < high:
            middle = (low + high + 1) // 2
            if _price(length, sums, at, middle, window) <= budget:
                low = middle
            else:
                high = middle - 1
        guess, at = low - at, low
    return np.array(starts, np.int64)


def _price(length: Floats, sums: NDArray[np.float64], start: int, end: int, window: int) -> float:
    """Return the cost of the rows from `start` to `end`, padded."""
    longest = max(length[start], length[end - 1]) if window > 1 else length[start:end].max()
    return float((end - start) * longest + sums[end] - sums[start])


def _fill(starts: Ints, shards: int) -> Ints:
    """Cut the largest batches in two until their number is a multiple of `shards`; where all hold one row, empty ones are added."""
    while missing := -(len(starts) - 1) % shards:
        sizes = np.diff(starts)
        largest = np.argsort(-sizes, kind="stable")[:missing]
        largest = largest[sizes[largest] > 1]
        if not len(largest):
            return np.concatenate([starts, np.full(missing, starts[-1])])
        starts = np.sort(np.concatenate([starts, starts[largest] + sizes[largest] // 2]))
    return starts


def _group(price: Floats, shards: int, draw: np.random.Generator) -> Ints:
    """Put batches of nearly equal cost together at random, and the groups in a random order."""
    level = np.floor(price / (price.max() * _EQUAL or 1))
    order = np.lexsort((draw.random(len(price)), level))
    groups = order.reshape(-1, shards)
    return draw.permuted(groups, axis=1)[draw.permutation(len(groups))]
