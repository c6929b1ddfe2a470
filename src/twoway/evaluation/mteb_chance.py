"""What luck scores in a search of mteb's: candidates may be more or less right, and there may be many of either.

Only the top of a random ranking counts, so only that is drawn: at each place a right candidate comes with the chance that one is left for
it, and which one is drawn without putting back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .scores import DRAWS, Chance

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Asked = Sequence[tuple[int, Sequence[int]]]  # of each query: number of candidates, how right the right ones are


def search_chance(metric: str, groups: Iterable[Asked], *, draws: int = DRAWS) -> Chance | None:
    """Rank at random: the mean over groups of the mean over their queries; nothing for a metric that is not drawn here."""
    name, _, cut = metric.partition("@")
    score = {"ndcg": _ndcg, "recall": _recall, "precision": _precision, "mrr": _mrr, "hit_rate": _hit}.get(name)
    if score is None or not cut.isdigit():
        return None
    random = np.random.default_rng(0)
    means = []
    for asked in groups:
        total = np.zeros(draws)
        for size, gains in asked:
            if not gains:
                continue  # mteb counts a query without a right candidate as not found, and so does luck
            ordered = np.array(sorted(gains, reverse=True), dtype=np.float64)
            total += score(_top(ordered, size, min(int(cut), size), random, draws), ordered, int(cut))
        means.append(total / max(len(asked), 1))
    drawn = np.mean(means, axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Chance(float(drawn.mean()), float(low), float(high))


def _top(gains: Floats, size: int, cut: int, random: np.random.Generator, draws: int) -> Floats:
    """Draw the first places of random rankings: draws x places, how right the candidate there is."""
    order = random.permuted(np.tile(gains, (draws, 1)), axis=1)
    met = np.zeros(draws, dtype=np.int64)
    found = np.zeros((draws, cut))
    every = np.arange(draws)
    for place in range(cut):
        right = random.random(draws) * (size - place) < len(gains) - met
        found[right, place] = order[every[right], met[right]]
        met += right
    return found


def _discount(count: int) -> Floats:
    return 1.0 / np.log2(np.arange(2, count + 2))


def _ndcg(top: Floats, gains: Floats, cut: int) -> Floats:
    ideal = float(gains[:cut] @ _discount(len(gains[:cut])))
    return np.asarray(top @ _discount(top.shape[1]) / ideal)


def _recall(top: Floats, gains: Floats, cut: int) -> Floats:
    del cut
    return np.asarray((top > 0).sum(axis=1) / len(gains))


def _precision(top: Floats, gains: Floats, cut: int) -> Floats:
    del gains
    return np.asarray((top > 0).sum(axis=1) / cut)


def _hit(top: Floats, gains: Floats, cut: int) -> Floats:
    del gains, cut
    return np.asarray((top > 0).any(axis=1).astype(np.float64))


def _mrr(top: Floats, gains: Floats, cut: int) -> Floats:
    del gains, cut
    hits = top > 0
    return np.where(hits.any(axis=1), 1.0 / (1 + hits.argmax(axis=1)), 0.0)
