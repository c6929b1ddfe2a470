"""What an index of the vectors finds of the true nearest, and how hard it has to look for a recall that is wanted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .store import unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from .store import Store

QUERIES, K = 100, 10
EFFORTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Measured:
    """Recall of the ten nearest against exact search, at one effort."""

    effort: int
    recall: float
    milliseconds: float  # of one search, one after the other, with what is shown of the items
    cpu_milliseconds: float  # of all threads of this process, which other work on the machine does not change


def find_effort(store: Store, wanted: float) -> list[Measured]:
    """Set the smallest effort that reaches a recall (or the largest there is), and return what was measured on the way."""
    queries, true = neighbours(store)
    found: list[Measured] = []
    for effort in EFFORTS if len(queries) else ():
        store.tune(effort)
        found.append(measure(store, queries, true, effort))
        if found[-1].recall >= wanted:
            break
    return found


def measure(store: Store, queries: dict[str, NDArray[np.float32]], true: dict[str, set[str]], effort: int) -> Measured:
    """Ask for the neighbours of items, which themselves do not count."""
    start, spent, shares = time.perf_counter(), time.process_time(), []
    for name, vector in queries.items():
        found = [hit.item.id for hit in store.search(vector, k=K + 1) if hit.item.id != name]
        shares.append(len(true[name].intersection(found[:K])) / max(1, len(true[name])))
    took, spent = time.perf_counter() - start, time.process_time() - spent
    return Measured(effort, float(np.mean(shares)), took / len(queries) * 1000, spent / len(queries) * 1000)


def neighbours(store: Store, *, many: int = QUERIES, seed: int = 0) -> tuple[dict[str, NDArray[np.float32]], dict[str, set[str]]]:
    """Draw items as queries, and return them with the ids of their true nearest; the vectors are gone through twice, block by block."""
    from ..embedding.nearest import nearest

    rows = store.count()
    drawn = set(np.random.default_rng(seed).choice(rows, min(many, rows), replace=False).tolist()) if rows else set()
    queries = dict(_picked(store.vectors(), drawn))
    asked = np.stack(list(queries.values())) if queries else np.zeros((0, store.dimension), np.float32)
    best: list[list[tuple[float, str]]] = [[] for _ in queries]
    for names, block in store.vectors() if queries else ():
        scores, places = nearest(asked, unit(block), min(K + 1, len(block)))
        for mine, near, found in zip(best, scores.tolist(), places.tolist(), strict=True):
            mine[:] = sorted([*mine, *((score, names[place]) for score, place in zip(near, found, strict=True))], reverse=True)[: K + 1]
    true = {name: [other for _, other in mine if other != name][:K] for name, mine in zip(queries, best, strict=True)}
    return queries, {name: set(others) for name, others in true.items()}


def _picked(blocks: Iterable[tuple[list[str], NDArray[np.float32]]], drawn: set[int]) -> Iterable[tuple[str, NDArray[np.float32]]]:
    """Yield the items with these numbers."""
    start = 0
    for names, block in blocks:
        for place in sorted(number - start for number in drawn if start <= number < start + len(names)):
            yield names[place], unit(block[place])
        start += len(names)
