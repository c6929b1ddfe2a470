"""One's own pairs as a suite: each query is ranked among all answers of the files, and its own are right.

Candidates are the answers and the hard negatives of all rows, of every task, the same content once. Rows of one task whose queries are the
same are one question, with all of their answers right. Neither right nor wrong, and so no candidate of a question, are the query itself,
where it answers another one, and what answers the same query in another task.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from ..content import ContentError
from ..data.pair_mixture import DOCUMENT, QUERY, PairSource, open_pairs
from ..data.progress import steps
from ..errors import UsageError
from .ranking import Item, Pool, RankingTask

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ..content import Document
    from ..data.mixture import SourceConfig
    from ..data.pair_mixture import Pairs
    from ..data.policy import Policy

GROUP = "retrieval"


def open_tasks(sources: Sequence[SourceConfig | str], chosen: Iterable[str], policy: Policy, folder: Path) -> list[RankingTask]:
    """Return a task for each task of the rows, or those asked for; `folder` keeps what is found out about the sources."""
    given = [PairSource(one) if isinstance(one, str) else one for one in sources]
    pairs = open_pairs(given, folder=folder, policy=policy)
    wanted = list(chosen)
    pairs.require(wanted, "--tasks")
    pool, queries, right = _read(pairs, policy)
    if len(pool.documents) < 2:
        raise UsageError("there is nothing to choose from: all rows have the same answer")
    answers: dict[str, set[int]] = defaultdict(set)  # of a query, whatever the task
    for (_, key), numbers in right.items():
        answers[key].update(numbers)
    prompts = {name: text for source in given if isinstance(source, PairSource) for name, text in source.prompts().items()}
    lost = _lost(pairs)
    found = []
    for task in pairs.tasks:
        items = []
        for (name, key), numbers in right.items():
            if name == task:
                itself = {place} if (place := pool.place(key)) is not None else set()
                items.append(Item(queries[key], np.array(sorted(numbers)), without=tuple(sorted((answers[key] | itself) - numbers))))
        if items and (not wanted or task in wanted):
            told = (prompts.get(f"{task}-{QUERY}"), prompts.get(f"{task}-{DOCUMENT}"))
            found.append(
                RankingTask(
                    task, GROUP, tuple(pool.documents), tuple(items), "mrr", ("query", "document"), unread=lost[task], instructions=told
                )
            )
    return found


def _read(pairs: Pairs, policy: Policy) -> tuple[Pool, dict[str, Document], dict[tuple[str, str], set[int]]]:
    """Return the candidates, the queries by their content, and the right candidates of each task and query."""
    pool = Pool()
    queries: dict[str, Document] = {}
    right: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in steps(range(len(pairs)), "reading pairs", total=len(pairs)):
        try:
            pair = pairs.read(row)[1]
            for one in pair.documents:
                one.fingerprint()  # reads its pictures: a row is taken whole or not at all
        except ContentError as error:
            policy.refuse(error)
            continue
        key = pair.query.fingerprint()
        queries.setdefault(key, pair.query)
        right[pairs.tasks[pairs.task_of[row]], key].update(pool.add(one) for one in (pair.positive, *pair.others))
        for one in pair.negatives:
            pool.add(one)
    return pool, queries, right


def _lost(pairs: Pairs) -> dict[str, int]:
    """Count the rows that cannot be read for every task of their source: nobody knows which of them they are of."""
    tables = pairs.mixture.tables
    return {task: sum(len(table.bad) for table in tables if task in table.names) for task in pairs.tasks}
