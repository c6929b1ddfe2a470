"""Suites over the user's files: MMEB by its protocol, and pairs. The samples' suite is in `nano`, mteb's tasks in `mteb`."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from twoway.content import ContentError, Document, Place
from twoway.data.config import DOCUMENT, QUERY, PairSource
from twoway.data.mixture import open_pairs
from twoway.errors import UsageError, did_you_mean
from twoway.images import DEFAULT
from twoway.progress import steps

from .runner import ITEMS
from .tasks import Pool, RankingQuery, RankingTask, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from twoway.data.config import SourceConfig
    from twoway.data.mixture import Pairs
    from twoway.data.rows import Policy


# MMEB's protocol (VLM2Vec, arXiv 2410.05160): for every query its own list of candidates, of which the first is
# right; precision@1.
#
# A folder holds one folder a task with Parquet inside, in the columns `qry_text`, `qry_img_path`, `tgt_text`,
# `tgt_img_path`; picture paths are relative to the folder. Instructions stand in the texts, as published.
# `<|image_1|>` in a text is where the picture goes; what remains of the text stays as it is, line breaks at both ends
# included: with last-token pooling such a line break is the token that is read.
#
# There are two scores. The strict one is ours: a tie is not a hit. The official one is that of the released
# evaluation, which takes the first of the highest scores, so that a tie is a hit for the right candidate, which comes
# first. A right candidate that occurs twice is one candidate in the strict score, and its duplicate ties with it in
# the official one; such rows are counted and listed.

COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
PLACEHOLDER = re.compile(r"<\|image_(\d+)\|>")
IN, OUT_OF, APART = "in-domain", "out-of-domain", "other"

# Group -> its tasks, those of the training mixture first.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "classification": (
        ("ImageNet-1K", "N24News", "HatefulMemes", "VOC2007", "SUN397"),
        ("Place365", "ImageNet-A", "ImageNet-R", "ObjectNet", "Country211"),
    ),
    "vqa": (
        ("OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W"),
        ("ScienceQA", "VizWiz", "GQA", "TextVQA"),
    ),
    "retrieval": (
        ("VisDial", "CIRR", "VisualNews_t2i", "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t", "NIGHTS", "WebQA"),
        ("FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS"),
    ),
    "grounding": (("MSCOCO",), ("RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing")),
}
KNOWN = {name: (group, mark) for group, kinds in GROUPS.items() for names, mark in zip(kinds, (IN, OUT_OF), strict=True) for name in names}


@dataclass(frozen=True)
class MmebFolder:
    """A folder in MMEB's layout: task names and their files."""

    root: Path
    files: dict[str, tuple[Path, ...]]

    @classmethod
    def open(cls, root: str | Path) -> MmebFolder:
        """Find the tasks of a folder; known ones come in the protocol's order, others behind them."""
        root = Path(root)
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder; --data names the folder that holds one folder a task")
        found = {one.name: tuple(sorted(one.glob("*.parquet"))) for one in sorted(root.iterdir()) if one.is_dir()}
        # Results may have been written into the folder; they are no task.
        found = {name: tuple(path for path in paths if not path.name.endswith(ITEMS)) for name, paths in found.items()}
        files = {name: paths for name, paths in found.items() if paths}
        if not files:
            raise UsageError(f"{root} has no task: none of its folders holds a Parquet file")
        order = [*(name for name in KNOWN if name in files), *(name for name in files if name not in KNOWN)]
        return cls(root, {name: files[name] for name in order})

    def choose(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the tasks asked for, or all."""
        for name in names:
            if name not in self.files:
                raise UsageError(f"{self.root} has no task {name!r}{did_you_mean(name, self.files)} (it has {', '.join(self.files)})")
        return tuple(name for name in self.files if not names or name in names)

    def task(self, name: str, policy: Policy) -> RankingTask:
        """Read one task; bad rows go to the policy."""
        pool = Pool()
        candidate = lru_cache(maxsize=None)(lambda text, path: pool.add(self._document(text, path, None, "candidate")))
        items, unread = [], 0
        for place, row in parquet_rows(self.files[name], COLUMNS):
            try:
                items.append(self._item(row, place, candidate))
            except ContentError as error:
                policy.refuse(error if error.place is not None else ContentError(error.reason, place))
                unread += 1
        if not items:
            raise UsageError(f"{self.root / name} has no usable row")
        group, mark = KNOWN.get(name, (APART, APART))
        return RankingTask(name, group, tuple(pool.documents), tuple(items), marks=(mark,), unread=unread, official=True)

    def _item(self, row: dict[str, Any], place: Place, candidate: Any) -> RankingQuery:
        texts, paths = row["tgt_text"], row["tgt_img_path"]
        if not isinstance(texts, list) or not texts:
            raise ContentError("tgt_text is not a list of candidates, so the right one is absent", place)
        if not isinstance(paths, list) or len(paths) != len(texts):
            raise ContentError(f"tgt_text has {len(texts)} candidates and tgt_img_path {len(paths or ())}", place)
        query = self._document(row["qry_text"], row["qry_img_path"], place, "query")
        query.fingerprint()  # opens its picture: one that is not there is met before any work
        numbers = []
        for number, (text, path) in enumerate(zip(texts, paths, strict=True), 1):
            try:
                _require_words(text, path, "candidate", place)
                numbers.append(candidate(text, path))
            except ContentError as error:
                raise ContentError(f"candidate {number}: {error.reason}", place) from error
        return listed(query, numbers)

    def _document(self, text: Any, path: Any, place: Place | None, what: str) -> Document:
        """Return a text with its picture at the placeholder, or before the text where there is none."""
        _require_words(text, path, what, place)
        pieces: list[dict[str, Any]] = []
        shown = 0
        for number, piece in enumerate(PLACEHOLDER.split(text or "")):
            if number % 2:
                shown += 1
                pieces.append({"image": path})
            elif piece:
                pieces.append({"text": piece})
        if shown > 1:
            raise ContentError(f"the {what} has {shown} image placeholders and one picture", place)
        if shown and not path:
            raise ContentError(f"the {what} has an image placeholder and no picture", place)
        if path and not shown:
            pieces.insert(0, {"image": path})
        document = Document.from_parts(pieces, place=place, root=self.root)
        for part in document.media:
            part.size(place, DEFAULT)  # a file that is not an image is met before any work, not hours later
        return document


def _require_words(text: Any, path: Any, what: str, place: Place | None) -> None:
    if not isinstance(text, str | None) or not isinstance(path, str | None):
        raise ContentError(f"a {what} is a text and a path, not {type(text).__name__} and {type(path).__name__}", place)


def parquet_rows(paths: Sequence[Path], columns: Sequence[str] = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the rows of a task's files with their places; `columns` are those that are read, and that must be there (default: all)."""
    for path in paths:
        try:
            for number, row in enumerate(_rows_of(path, columns), 1):
                yield Place(str(path), number), row
        except (OSError, ValueError) as error:  # a footer may be whole and a page behind it torn
            raise UsageError(f"{path} is not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _rows_of(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file, a few at a time."""
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        for name in columns:
            if name not in names:
                raise UsageError(f"{path} has no column {name!r}{did_you_mean(name, names)} (it has {', '.join(names)})")
        for batch in file.iter_batches(batch_size=64, columns=list(columns) or None):
            yield from batch.to_pylist()


# One's own pairs as a suite: each query is ranked among all answers of the files, and its own are right.
#
# Candidates are the answers and the hard negatives of all rows, of every task, the same content once. Rows of one
# task whose queries are the same are one question, with all of their answers right. Neither right nor wrong, and so
# no candidate of a question, are the query itself, where it answers another one, and what answers the same query in
# another task.

GROUP = "retrieval"


def open_pair_tasks(sources: Sequence[SourceConfig | str], chosen: Iterable[str], policy: Policy, folder: Path) -> list[RankingTask]:
    """Return a task for each task of the rows, or the chosen ones; `folder` is the cache of the sources' tables."""
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
                items.append(
                    RankingQuery(queries[key], np.array(sorted(numbers)), without=tuple(sorted((answers[key] | itself) - numbers)))
                )
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
        right[pairs.tasks[pairs.task_of[row]], key].update(pool.add(one) for one in pair.positives)
        for one in pair.negatives:
            pool.add(one)
    return pool, queries, right


def _lost(pairs: Pairs) -> dict[str, int]:
    """Count unreadable rows for every task of their source, because their own task is unknown."""
    tables = pairs.mixture.tables
    return {task: sum(len(table.bad) for table in tables if task in table.names) for task in pairs.tasks}
