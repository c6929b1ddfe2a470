"""Queries against candidates: who is near whom, what is right, and which negatives a query gets."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from twoway.content import ContentError
from twoway.data.copies import same, sketch
from twoway.embedding.nearest import nearest

from .mine_choose import POSSIBLE, SAME, Chosen, choose, eligible
from .mine_corpus import key_of
from .mine_rows import Negative

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from twoway.data.pair_rows import PairRow
    from twoway.data.policy import Policy

    from .mine_choose import Choice
    from .mine_corpus import Corpus

    Floats = NDArray[np.float32]


_SKETCHES = 4096  # kept of candidates that were looked at


class Vectors(NamedTuple):
    """Vectors of length 1 by number, and which of them are there."""

    array: NDArray[np.float32]
    there: NDArray[np.bool_]


class Miner:
    """Finds negatives for some queries at a time."""

    def __init__(self, corpus: Corpus, queries: Vectors, candidates: Vectors, choice: Choice, *, device: Any = "cpu") -> None:
        self.corpus, self.choice, self.device = corpus, choice, device
        self.queries, self.known = queries
        self.candidates, self.there = candidates
        self._sketch = lru_cache(_SKETCHES)(lambda number: sketch(corpus.candidate(number)))
        self.pools = {task: np.flatnonzero(self._of(task) & self.there) for task in range(len(corpus.pairs.tasks))}

    def rows(self, numbers: Sequence[int], policy: Policy) -> tuple[list[tuple[PairRow, float, list[Negative]]], Counter[str]]:
        """Return the pairs of these queries with their negatives, and what was counted on the way."""
        facts: Counter[str] = Counter(rows=0, negatives=0, short=0)
        asked = np.array([number for number in numbers if self.known[number] and self.there[self.corpus.positive[number]]], np.int64)
        if not len(asked):
            return [], facts
        right = [self.corpus.answers(int(number)) for number in asked]
        tasks = self.corpus.pairs.task_of[self.corpus.rows[asked]]

        def allowed(start: int, stop: int) -> NDArray[np.bool_]:
            theirs = self.corpus.tasks[start:stop]
            may: NDArray[np.bool_] = ((theirs[None] == tasks[:, None]) | (theirs[None] < 0)) & self.there[None, start:stop]
            return may

        k = min(self.choice.last + max(map(len, right)), len(self.candidates))
        vectors = np.asarray(self.queries[asked])
        scores, found = nearest(vectors, self.candidates, k, allowed=allowed, device=self.device)
        written: list[tuple[PairRow, float, list[Negative]]] = []
        for at, number in enumerate(asked):
            try:
                pair = self.corpus.pair(int(number))
                given = {self.corpus.keys.get(key_of(one), -1) for one in pair.negatives}
                known = right[at] | given
                score, chosen = self._without_copies(int(number), vectors[at], scores[at], found[at], known, int(tasks[at]), facts)
                mined = [self._negative(one) for one in chosen]
            except ContentError as error:
                policy.refuse(error)
                continue
            negatives = [*(Negative(one, "given", None, None) for one in pair.negatives), *mined]
            facts.update(rows=1, negatives=len(mined), short=int(len(mined) < self.choice.negatives))
            written.append((pair, score, negatives))
        return written, facts

    def _without_copies(
        self, number: int, query: Floats, scores: Floats, found: NDArray[np.int64], right: set[int], task: int, facts: Counter[str]
    ) -> tuple[float, list[Chosen]]:
        """Choose, and choose again where a right answer, saved once more in another form, was among them."""
        while True:
            counted: Counter[str] = Counter()
            score, chosen = self._choose(number, query, scores, found, right, task, counted)
            copies = {one.candidate for one in chosen if any(self._is_copy(one.candidate, answer) for answer in self.corpus.right[number])}
            if not copies:
                facts.update(counted)
                return score, chosen
            facts["out: copy of an answer"] += len(copies)
            right = right | copies

    def _is_copy(self, candidate: int, answer: int) -> bool:
        """Say whether a candidate is an answer in another form; pictures are opened where their vectors leave it possible."""
        near = float(self.candidates[candidate] @ self.candidates[answer]) >= POSSIBLE
        return near and same(self._sketch(candidate), self._sketch(answer))

    def _choose(
        self, number: int, query: Floats, scores: Floats, found: NDArray[np.int64], right: set[int], task: int, facts: Counter[str]
    ) -> tuple[float, list[Chosen]]:
        """Choose the negatives of one query; returns its positive's score, too."""
        draw = np.random.default_rng([self.choice.seed, number])
        positive = np.asarray(self.candidates[self.corpus.positive[number]])
        score = float(query @ positive)
        near = self._wrong(found[found >= 0], right, positive, facts)
        place = {candidate: at for at, candidate in enumerate(found)}
        ranked = [Chosen(int(one), float(scores[place[one]]), rank) for rank, one in enumerate(near, 1) if rank <= self.choice.last]
        why: Counter[str] = Counter()
        ranked = _fit(ranked, score, self.choice, why)
        drawn: list[Chosen] = []
        if wanted := self.choice.drawn():
            pool = self.pools[task]
            picked = pool[draw.permutation(len(pool))[: 4 * wanted + 32]]
            wrong = self._wrong(picked, right, positive, Counter())
            drawn = [Chosen(int(one), float(query @ self.candidates[one]), None) for one in wrong]
            drawn = _fit(drawn, score, self.choice, Counter())
        facts.update({f"out: {name}": count for name, count in why.items()})
        return score, choose(ranked, drawn, self.choice, draw)

    def _wrong(self, found: NDArray[np.int64], right: set[int], positive: Floats, facts: Counter[str]) -> list[int]:
        """Take out what is right, by content or by its vector."""
        if not len(found):
            return []
        same = np.asarray(self.candidates[found]) @ positive >= SAME
        pairs = [(int(one), bool(twin)) for one, twin in zip(found, same, strict=True) if int(one) not in right]
        facts["out: vector of the positive"] += sum(twin for _, twin in pairs)
        return [one for one, twin in pairs if not twin]

    def _negative(self, chosen: Chosen) -> Negative:
        origin = "random" if chosen.rank is None else "rank"
        return Negative(self.corpus.candidate(chosen.candidate), origin, chosen.score, chosen.rank)

    def _of(self, task: int) -> NDArray[np.bool_]:
        may: NDArray[np.bool_] = (self.corpus.tasks == task) | (self.corpus.tasks < 0)
        return may


def _fit(found: list[Chosen], positive: float, choice: Choice, why: Counter[str]) -> list[Chosen]:
    """Keep the candidates whose scores fit."""
    good = eligible(np.array([one.score for one in found], np.float32), positive, choice, why)
    return [one for one, fits in zip(found, good, strict=True) if fits]
