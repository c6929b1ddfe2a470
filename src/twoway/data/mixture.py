"""Mixtures: several sources of documents or of pairs as one, with weights, caps and rows held out."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError, Pair
from twoway.errors import UsageError, did_you_mean
from twoway.images import DEFAULT

from .config import PairSource, SourceConfig
from .dataset import open_table
from .rows import Policy, ReadOptions
from .sources.formats import ToDocument, ToPair, document_format, pair_format

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from twoway.content import DocumentOrPair
    from twoway.limits import Limits

    from .dataset import RowTable
    from .sources.formats import Converter

    Ints = NDArray[np.int64]


# Several sources as one: names, weights and caps, and which rows an epoch has, as a pure function of seed and epoch.
#
# A weight says how often an epoch has a source's rows: 1 once, 2 twice, 0.5 every second one, and two epochs then
# have them all; a share of rows is taken from a fixed shuffle of the source, turn by turn, so that no row waits
# longer than another. A cap takes a source's first rows.
#
# A row of an epoch is one number: the row in all sources one behind the other, plus the size of all sources for each
# repetition within the epoch. Its identity, `name#row`, is what masks are made from; a repetition has its own
# (`name#row#2`), and so its own masks.


@dataclass(frozen=True)
class Mixture:
    """Sources with their tables; rows are numbered through all of them."""

    sources: tuple[SourceConfig, ...]
    tables: tuple[RowTable, ...]

    def __len__(self) -> int:
        """Count the rows of all sources, each once."""
        return sum(map(len, self.tables))

    @property
    def starts(self) -> NDArray[np.int64]:
        """The number of each source's first row, and the number of all rows at the end."""
        return np.cumsum([0, *map(len, self.tables)])

    def epoch(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Return the rows of an epoch in a random order."""
        chosen: list[NDArray[np.int64]] = []
        for number, (source, table) in enumerate(zip(self.sources, self.tables, strict=True)):
            whole, share = divmod(source.weight, 1)
            start, rows = int(self.starts[number]), len(table)
            repeats = [start + copy * len(self) + np.arange(rows) for copy in range(int(whole))]
            # Where the rows do not divide, the turn ends inside the next round of the shuffle.
            begin, end = round(epoch * share * rows), round((epoch + 1) * share * rows)
            if end > begin:
                shuffled = np.random.default_rng([seed, number, 0x51]).permutation(rows)
                repeats.append(start + int(whole) * len(self) + shuffled[np.arange(begin, end) % rows])
            chosen += repeats
        found = np.concatenate(chosen)
        np.random.default_rng([seed, epoch, 0x52]).shuffle(found)
        return found

    def read(self, row: int) -> tuple[str, DocumentOrPair]:
        """Return the identity of a row of an epoch, and its document or pair; raises a `ContentError` where the row went bad."""
        copy, source, index = self._find(row)
        return self._identity(copy, source, index), self.tables[source].read(index)

    def identity(self, row: int) -> str:
        """Return the identity of a row of an epoch."""
        return self._identity(*self._find(row))

    def table_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the rows of an epoch stand among all rows: what to index an array with that has one entry a row."""
        return rows % len(self)

    def source_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the source number of each row of an epoch."""
        return np.searchsorted(self.starts, self.table_rows(rows), side="right") - 1

    def digest(self) -> list[dict[str, object]]:
        """Say what the data is, for a run that goes on: equal as long as rows, weights and names are."""
        return [
            {"name": source.label, "weight": source.weight, "rows": len(table), "digest": table.digest()}
            for source, table in zip(self.sources, self.tables, strict=True)
        ]

    def _find(self, row: int) -> tuple[int, int, int]:
        """Return repetition, source and row within the source."""
        copy, place = divmod(int(row), len(self))
        source = int(np.searchsorted(self.starts, place, side="right")) - 1
        return copy, source, place - int(self.starts[source])

    def _identity(self, copy: int, source: int, index: int) -> str:
        """Say which row it is."""
        number = int(self.tables[source].numbers[index])
        return f"{self.sources[source].label}#{number}" + (f"#{copy + 1}" if copy else "")


def open_mixture(
    sources: Sequence[SourceConfig | str], *, folder: Path | None = None, policy: Policy | None = None, limits: Limits = DEFAULT
) -> Mixture:
    """Open every source; a `folder` keeps the tables, and one policy serves all sources."""
    given = tuple(SourceConfig(source) if isinstance(source, str) else source for source in sources)
    require_names(given)
    policy = policy or Policy()
    return Mixture(given, tuple(open_source_table(source, folder=folder, policy=policy, limits=limits) for source in given))


def open_source_table(
    source: SourceConfig,
    *,
    folder: Path | None,
    policy: Policy,
    limits: Limits = DEFAULT,
    convert: Converter[Any] | None = None,
) -> RowTable:
    """Open one source as its configuration says, with rows as `convert` makes them (default: documents)."""
    options = ReadOptions(root=source.picture_root(), limits=limits)
    convert = convert or ToDocument(document_format(source.row_template) if source.row_template else None)
    return open_table(source.spec, options=options, convert=convert, cap=source.cap, folder=folder, policy=policy)


def require_names(sources: Sequence[SourceConfig]) -> None:
    """Refuse no source at all, and two of one name, whose rows would have one identity."""
    if not sources:
        raise UsageError("no data is given; name at least one source")
    twice = [name for name, count in Counter(source.label for source in sources).items() if count > 1]
    if twice:
        raise UsageError(f"two sources are called {twice[0]}; give each a name of its own (name: …)")


# Rows that are kept out of training: a function of their identities, so they stay out whatever else is in the
# mixture's epochs.
#
# Each row gets a number out of its source's name and its own number (splitmix64 under a SHA-256 key, millions a
# second); the lowest are held out, with all their repetitions. Rows are told apart by identity: a picture that stands
# in two rows may be held out in one and trained on in the other.

# No more than one row in so many, so that little data is not lost to looking at it.
_ONE_IN = 20


def held_out(mixture: Mixture, rows: int) -> NDArray[np.int64]:
    """Return the numbers of up to `rows` rows of a mixture, in order."""
    count = min(rows, len(mixture) // _ONE_IN)
    if count < 1:
        return np.zeros(0, np.int64)
    return np.sort(np.argpartition(row_draws(mixture), count - 1)[:count]).astype(np.int64)


def row_draws(mixture: Mixture) -> NDArray[np.uint64]:
    """Return a number for each row of a mixture that looks random and depends on its identity alone."""
    sources = zip(mixture.sources, mixture.tables, strict=True)
    return np.concatenate([_draw(np.asarray(table.numbers), source.label) for source, table in sources])


def drop_rows(mixture: Mixture, rows: NDArray[np.int64], held: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of an epoch that are not held out, in their order."""
    return rows if not len(held) else rows[~np.isin(mixture.table_rows(rows), held)]


def _draw(numbers: NDArray[np.int64], name: str) -> NDArray[np.uint64]:
    """Return a number for each row that looks random and depends on nothing but the row's name."""
    key = np.uint64(int.from_bytes(hashlib.sha256(f"held out\0{name}".encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        mixed = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


# Several sources of pairs as one, and which task each row belongs to.
#
# A task is what a row says of itself, or what its source is told to be, or the source's name. Rows are numbered
# through all sources, as those of a `Mixture`, and a row is read as a `Pair`.

QUERY, DOCUMENT = "query", "document"  # the sides of a pair, as prompts are called


@dataclass(frozen=True)
class Pairs:
    """Sources of pairs with their tables. `tasks` has the names, `task_of` for each row of all sources the number of its task.

    Threads read the rows of the next step while others are measured on, and a reader has one place in an open file: so one reads at a time.
    """

    mixture: Mixture
    tasks: tuple[str, ...]
    task_of: NDArray[np.int32]
    reading: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.mixture)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind: another process has its own files open."""
        return {name: value for name, value in vars(self).items() if name != "reading"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a lock of its own."""
        vars(self).update(state, reading=threading.Lock())

    def read(self, row: int) -> tuple[str, Pair]:
        """Return identity and pair of a row; raises a `ContentError` where the row went bad."""
        with self.reading:
            identity, pair = self.mixture.read(row)
        if not isinstance(pair, Pair):
            raise ContentError("the row is a document and no pair of query and positive", pair.place)
        return identity, pair

    def rows(self, task: str) -> Ints:
        """Return the rows of a task."""
        return np.flatnonzero(self.task_of == self.tasks.index(task))

    def weights(self) -> dict[str, float]:
        """Return each task's weight: the mean of its sources', by their rows in it."""
        mixture, found = self.mixture, {}
        each = np.array([source.weight for source in mixture.sources])
        for task in self.tasks:
            found[task] = float(each[mixture.source_of(self.rows(task))].mean())
        return found

    def held_out(self, rows: int) -> Ints:
        """Return up to `rows` rows of each task, no more than a twentieth of it, to keep out of training: a function of identities."""
        if not rows:
            return np.zeros(0, np.int64)
        each = (self.rows(task) for task in self.tasks)
        return np.sort(np.concatenate([self.shuffled(own)[: min(rows, len(own) // _ONE_IN)] for own in each]))

    def shuffled(self, rows: Ints) -> Ints:
        """Return rows in an order that looks random and depends on their identities alone."""
        return rows[np.argsort(row_draws(self.mixture)[rows], kind="stable")]

    def digest(self) -> Any:
        """Say what the data is, for a run that goes on."""
        return self.mixture.digest()

    def require(self, names: Iterable[str], what: str) -> None:
        """Refuse names of tasks that there are not."""
        for name in names:
            if name not in self.tasks:
                raise UsageError(f"{what}: there is no task {name!r}{did_you_mean(name, self.tasks)} (there are: {', '.join(self.tasks)})")


def open_pairs(
    sources: Sequence[SourceConfig | str],
    *,
    folder: Path | None = None,
    policy: Policy | None = None,
    limits: Limits = DEFAULT,
    seed: int = 0,
) -> Pairs:
    """Open every source; a `folder` keeps the tables, one policy serves all sources, and what a mapping draws is a function of the seed."""
    given = tuple(PairSource(source) if isinstance(source, str) else source for source in sources)
    require_names(given)
    policy = policy or Policy()
    tables = []
    for source in given:
        task = getattr(source, "task", None)
        convert = ToPair(pair_format(source.row_template, seed), task or source.label, one_task=task is not None)
        tables.append(open_source_table(source, folder=folder, policy=policy, limits=limits, convert=convert))
    tasks = tuple(dict.fromkeys(name for table in tables for name in table.names))
    numbers = [np.array([tasks.index(name) for name in table.names], np.int32)[np.asarray(table.kinds)] for table in tables]
    return Pairs(Mixture(given, tuple(tables)), tasks, np.concatenate(numbers))
