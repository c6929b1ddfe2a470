"""Hard negatives: what is mined, who is near whom, which candidates become negatives, and the rows that are written."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twoway.content import KINDS, ContentError, Document, Media
from twoway.data.sources.formats import SCORES
from twoway.embedding.nearest import nearest
from twoway.files import write_whole
from twoway.progress import steps

from .duplicates import is_copy, sketch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from twoway.content import Pair
    from twoway.data.dataset import RowTable
    from twoway.data.mixture import Pairs
    from twoway.data.rows import Policy

    from .config import NegativeChoice

    Floats = NDArray[np.float32]


# Which of a query's nearest candidates become its hard negatives, and why the others do not.
#
# A candidate is out when it is right: the positive, a further right answer, the same content under another name, the
# answer of another row with the same query, the query itself, when its vector is that of the positive, or when it is
# an answer saved in another form. What is left is numbered from 1, the nearest first: its rank. Of the asked ranks
# those are out that score so high against the positive that they may be right as well (the margins), or outside of
# the asked scores.

# Two vectors this near are of the same thing, such as one picture in two files.
SAME = 0.9999
# Two less near than this are not of the same thing in two forms.
POSSIBLE = 0.9


class Chosen(NamedTuple):
    """A negative, and where it comes from; a drawn one has no rank."""

    candidate: int
    score: float
    rank: int | None


def eligible(scores: NDArray[np.float32], positive: float, choice: NegativeChoice, why: Counter[str]) -> NDArray[np.bool_]:
    """Say which candidates may be negatives by their scores; `why` counts the others."""
    out = np.zeros(len(scores), bool)
    rules: dict[str, NDArray[np.bool_]] = {}
    if choice.absolute_margin is not None:
        rules["absolute_margin"] = scores > positive - choice.absolute_margin
    if choice.relative_margin is not None:
        rules["relative_margin"] = scores > positive * (1 - choice.relative_margin if positive > 0 else 1 + choice.relative_margin)
    if choice.max_score is not None:
        rules["max_score"] = scores > choice.max_score
    if choice.min_score is not None:
        rules["min_score"] = scores < choice.min_score
    for name, hit in rules.items():
        why[name] += int((hit & ~out).sum())
        out |= hit
    return ~out


def choose(near: list[Chosen], drawn: list[Chosen], choice: NegativeChoice, draw: np.random.Generator) -> list[Chosen]:
    """Choose among eligible candidates: `near` by rank, `drawn` in random order; what the drawn lack the near make up for."""
    within = [one for one in near if one.rank is not None and choice.range_min < one.rank <= choice.range_max]
    wanted = choice.num_negatives - min(choice.drawn(), len(drawn))
    if choice.sampling_strategy == "random" and len(within) > wanted:
        kept = sorted(draw.choice(len(within), wanted, replace=False))
        within = [within[number] for number in kept]
    taken = within[:wanted]
    names = {one.candidate for one in taken}
    return taken + [one for one in drawn if one.candidate not in names][: choice.num_negatives - len(taken)][: choice.drawn()]


# What is mined: the queries of the pairs, and every different thing that may be an answer.
#
# Candidates are the positives of all pairs and the rows of further corpora, the same content once. A hash tells which
# content is the same: texts without regard to case and white space, pictures by their bytes. Of near copies the first
# is embedded and stands for all. Memory holds a few numbers for each query and candidate.

_ANY = -1  # the task of a candidate that may answer any query


def key_of(document: Document) -> bytes:
    """Return a hash that near copies of a document share."""
    return bytes.fromhex(Document(tuple(part.normalized() for part in document.parts), document.place).fingerprint())[:16]


@dataclass
class Corpus:
    """Queries and candidates by number. `right` has for each query the candidates that answer it."""

    pairs: Pairs
    tables: Sequence[RowTable]
    rows: NDArray[np.int64]  # the pair of each query; bad ones are left out
    right: list[tuple[int, ...]]
    positive: NDArray[np.int64]  # the candidate that is a query's positive
    queries: list[bytes]  # their hashes
    keys: dict[bytes, int]  # of candidates
    origins: NDArray[np.int64]  # (source, row, which): a pair's positive or other answer, or a row of a table
    tasks: NDArray[np.int32]  # of candidates, -1 for any
    root: Path | None = None  # the deepest folder that all pictures on disk lie in
    same_query: dict[bytes, list[int]] = field(default_factory=lambda: defaultdict(list))

    def pair(self, query: int) -> Pair:
        """Return the pair of a query."""
        return self.pairs.read(int(self.rows[query]))[1]

    def candidate(self, number: int) -> Document:
        """Return a candidate."""
        source, row, which = (int(value) for value in self.origins[number])
        if source >= 0:
            (document,) = self.tables[source].read(row).documents
            return document
        pair = self.pairs.read(row)[1]
        return pair.positives[which]

    def answers(self, query: int) -> set[int]:
        """Return all candidates that are right for a query: its own answers, those of rows with the same query, and the query itself."""
        found = {one for other in self.same_query[self.queries[query]] for one in self.right[other]}
        itself = self.keys.get(self.queries[query])
        return found | ({itself} if itself is not None else set())


def list_corpus(pairs: Pairs, tables: Sequence[RowTable], policy: Policy) -> Corpus:
    """Go through pairs and corpora once."""
    keys: dict[bytes, int] = {}
    origins, tasks = array("q"), array("i")
    rows, queries, right = array("q"), [], []

    folders: set[str] = set()

    def note(document: Document) -> None:
        paths = (part.path(document.place) for part in document.media)
        folders.update(str(path.parent) for path in paths if path is not None)

    def candidate(document: Document, task: int, origin: tuple[int, int, int]) -> int:
        key = key_of(document)
        note(document)
        if key not in keys:
            keys[key] = len(keys)
            origins.extend(origin)
            tasks.append(task)
        elif tasks[keys[key]] != task:
            tasks[keys[key]] = _ANY  # an answer in several tasks may be a wrong one in each
        return keys[key]

    for row in steps(range(len(pairs)), "listing pairs", total=len(pairs)):
        try:
            pair = pairs.read(row)[1]
            query = key_of(pair.query)
            for one in (pair.query, *pair.negatives):
                note(one)
            task = int(pairs.task_of[row])
            answers = [candidate(one, task, (-1, row, which)) for which, one in enumerate(pair.positives)]
        except ContentError as error:
            policy.refuse(error)
            continue
        rows.append(row)
        queries.append(query)
        right.append(tuple(answers))
    for source, table in enumerate(tables):
        for row in steps(range(len(table)), f"listing {table.spec}", total=len(table)):
            try:
                (document,) = table.read(row).documents
                candidate(document, _ANY, (source, row, 0))
            except ContentError as error:
                policy.refuse(error)
    positive = np.array([one[0] for one in right], np.int64)
    found = Corpus(
        pairs, tables, np.array(rows, np.int64), right, positive, queries, keys, np.array(origins, np.int64).reshape(-1, 3),
        np.array(tasks, np.int32), Path(os.path.commonpath(folders)) if folders else None,
    )  # fmt: skip
    for number, query in enumerate(queries):
        found.same_query[query].append(number)
    return found


class CorpusSide:
    """Queries or candidates as rows to embed."""

    def __init__(self, corpus: Corpus, side: str) -> None:
        self.corpus, self.side = corpus, side

    def rows(self, skip: int) -> Iterator[Document | ContentError]:
        """Yield every document from one on."""
        for number in range(skip, self.count()):
            try:
                found = self.corpus.pair(number).query if self.side == "query" else self.corpus.candidate(number)
                yield Document(found.parts, found.place, {"id": number})
            except ContentError as error:
                yield error

    def identity(self) -> dict[str, Any]:
        """Return a hash of all content, in order."""
        digest = hashlib.sha256()
        for key in self.corpus.queries if self.side == "query" else self.corpus.keys:
            digest.update(key)
        return {"side": self.side, "content": digest.hexdigest()}

    def count(self) -> int:
        """Count the documents."""
        return len(self.corpus.queries) if self.side == "query" else len(self.corpus.keys)


# Pairs with their hard negatives as Parquet that any stage reads as pairs, each negative with where it comes from.
#
# A picture that lies in a file stays there: its path is written relative to one folder, `root`, which the data's
# entry in a recipe names. A picture in memory (out of a table, or a page) is written into the file.


def pairs_schema() -> pa.Schema:
    """Return the columns of a file of pairs; a part has a value for each content kind, all but one of them null."""
    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    side = pa.list_(pa.struct([(key, file if issubclass(kind, Media) else pa.string()) for key, kind in KINDS.items()]))
    return pa.schema(
        [
            ("query", side),
            ("positives", pa.list_(side)),
            ("negatives", pa.list_(side)),
            ("task", pa.string()),
            ("place", pa.string()),
            ("positive_score", pa.float32()),
            # For each of the negatives, in order.
            ("mined_from", pa.list_(pa.string())),  # given (it was in the data), rank, or random
            ("mined_score", pa.list_(pa.float32())),
            ("mined_rank", pa.list_(pa.int32())),
            ("mined_place", pa.list_(pa.string())),
        ]
    )


class Negative(NamedTuple):
    """A negative as it is written."""

    document: Document
    origin: str
    score: float | None
    rank: int | None


def write_pairs(path: Path, rows: Sequence[tuple[Pair, float, Sequence[Negative]]], root: Path | None, facts: Mapping[str, int]) -> None:
    """Write one file, whole or not at all; `facts` are counts kept with it."""
    written = [
        _sides(pair, [one.document for one in negatives], root)
        | {
            "positive_score": score,
            "mined_from": [one.origin for one in negatives],
            "mined_score": [one.score for one in negatives],
            "mined_rank": [one.rank for one in negatives],
            "mined_place": [None if one.document.place is None else str(one.document.place) for one in negatives],
        }
        for pair, score, negatives in rows
    ]
    _write(path, written, pairs_schema(), facts)


def write_scored(path: Path, rows: Sequence[tuple[Pair, list[float], list[float]]], root: Path | None, facts: Mapping[str, int]) -> None:
    """Write one file of pairs with a teacher's scores of their positives and of their negatives."""
    sides = [field for field in pairs_schema() if field.name in ("query", "positives", "negatives", "task", "place")]
    schema = pa.schema([*sides, *((name, pa.list_(pa.float32())) for name in SCORES)])
    written = [_sides(pair, pair.negatives, root) | dict(zip(SCORES, scores, strict=True)) for pair, *scores in rows]
    _write(path, written, schema, facts)


def _sides(pair: Pair, negatives: Sequence[Document], root: Path | None) -> dict[str, Any]:
    """Return the columns of a pair."""
    return {
        "query": _side(pair.query, root),
        "positives": [_side(one, root) for one in pair.positives],
        "negatives": [_side(one, root) for one in negatives],
        "task": pair.task,
        "place": None if pair.place is None else str(pair.place),
    }


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, facts: Mapping[str, int]) -> None:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema.with_metadata({"twoway.facts": json.dumps(dict(facts))}))
    pq.write_table(table, sink, row_group_size=100, compression="zstd")
    write_whole(path, memoryview(sink.getvalue()).tobytes())


def facts_of(path: Path) -> dict[str, int]:
    """Return the counts that are kept with a file."""
    return dict(json.loads(pq.read_schema(path).metadata[b"twoway.facts"]))


def _side(document: Document, root: Path | None) -> list[dict[str, Any]]:
    """Return a side as a list of parts."""
    return [{part.key: part.stored(document.place, root)} for part in document.parts]


# Queries against candidates: who is near whom, what is right, and which negatives a query gets.

_SKETCHES = 4096  # kept of candidates that were looked at


class UnitVectors(NamedTuple):
    """Vectors of length 1 by number, and which of them are there."""

    array: NDArray[np.float32]
    present: NDArray[np.bool_]


class Miner:
    """Finds negatives for some queries at a time."""

    def __init__(
        self, corpus: Corpus, queries: UnitVectors, candidates: UnitVectors, choice: NegativeChoice, *, device: Any = "cpu"
    ) -> None:
        self.corpus, self.choice, self.device = corpus, choice, device
        self.queries, self.known = queries
        self.candidates, self.there = candidates
        self._sketch = lru_cache(_SKETCHES)(lambda number: sketch(corpus.candidate(number)))
        self.pools = {task: np.flatnonzero(self._of(task) & self.there) for task in range(len(corpus.pairs.tasks))}

    def rows(self, numbers: Sequence[int], policy: Policy) -> tuple[list[tuple[Pair, float, list[Negative]]], Counter[str]]:
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

        k = min(self.choice.range_max + max(map(len, right)), len(self.candidates))
        vectors = np.asarray(self.queries[asked])
        scores, found = nearest(vectors, self.candidates, k, allowed=allowed, device=self.device)
        written: list[tuple[Pair, float, list[Negative]]] = []
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
            facts.update(rows=1, negatives=len(mined), short=int(len(mined) < self.choice.num_negatives))
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
        return near and is_copy(self._sketch(candidate), self._sketch(answer))

    def _choose(
        self, number: int, query: Floats, scores: Floats, found: NDArray[np.int64], right: set[int], task: int, facts: Counter[str]
    ) -> tuple[float, list[Chosen]]:
        """Choose the negatives of one query; returns its positive's score, too."""
        draw = np.random.default_rng([self.choice.seed, number])
        positive = np.asarray(self.candidates[self.corpus.positive[number]])
        score = float(query @ positive)
        near = self._wrong(found[found >= 0], right, positive, facts)
        place = {candidate: at for at, candidate in enumerate(found)}
        ranked = [Chosen(int(one), float(scores[place[one]]), rank) for rank, one in enumerate(near, 1) if rank <= self.choice.range_max]
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


def _fit(found: list[Chosen], positive: float, choice: NegativeChoice, why: Counter[str]) -> list[Chosen]:
    """Keep the candidates whose scores fit."""
    good = eligible(np.array([one.score for one in found], np.float32), positive, choice, why)
    return [one for one, fits in zip(found, good, strict=True) if fits]
