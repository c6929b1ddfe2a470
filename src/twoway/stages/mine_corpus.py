"""What is mined: the queries of the pairs, and every different thing that may be an answer.

Candidates are the positives of all pairs and the rows of further corpora, the same content once. A hash tells which content is the same:
texts without regard to case and white space, pictures by their bytes. Of near copies the first is embedded and
stands for all. Memory holds a few numbers for each query and candidate.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError, Document, Text
from twoway.data.pair_rows import pair_of
from twoway.data.progress import steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from twoway.data.pair_mixture import Pairs
    from twoway.data.pair_rows import PairRow
    from twoway.data.policy import Policy
    from twoway.data.table import RowTable

_ANY = -1  # the task of a candidate that may answer any query


def key_of(document: Document) -> bytes:
    """Return a hash that near copies of a document share."""
    plain = tuple(Text(" ".join(part.text.casefold().split())) if isinstance(part, Text) else part for part in document.parts)
    return bytes.fromhex(Document(plain, document.place).fingerprint())[:16]


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

    def pair(self, query: int) -> PairRow:
        """Return the pair of a query."""
        return pair_of(self.pairs.mixture.read(int(self.rows[query]))[1])

    def candidate(self, number: int) -> Document:
        """Return a candidate."""
        source, row, which = (int(value) for value in self.origins[number])
        if source >= 0:
            return self.tables[source].read(row)
        pair = pair_of(self.pairs.mixture.read(row)[1])
        return (pair.positive, *pair.others)[which]

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
        folders.update(str(image.path(document.place).parent) for image in document.images if isinstance(image.source, Path))

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
            pair = pair_of(pairs.mixture.read(row)[1])
            query = key_of(pair.query)
            for one in (pair.query, *pair.negatives):
                note(one)
            task = int(pairs.task_of[row])
            answers = [candidate(one, task, (-1, row, which)) for which, one in enumerate((pair.positive, *pair.others))]
        except ContentError as error:
            policy.refuse(error)
            continue
        rows.append(row)
        queries.append(query)
        right.append(tuple(answers))
    for source, table in enumerate(tables):
        for row in steps(range(len(table)), f"listing {table.spec}", total=len(table)):
            try:
                candidate(table.read(row), _ANY, (source, row, 0))
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


class Side:
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
