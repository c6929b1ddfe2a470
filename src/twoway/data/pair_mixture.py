"""Several sources of pairs as one, and which task each row belongs to.

A task is what a row says of itself, or what its source is told to be, or the source's name. Rows are numbered through all sources, as
those of a `Mixture`, and a row is read as a `PairRow`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError, did_you_mean
from ..images import DEFAULT, Limits
from .held import draws
from .mixture import Mixture, SourceConfig, require_names
from .pair_finders import pair_finders
from .pair_formats import pair_form_of
from .pair_rows import PairRow, pair_of
from .policy import Policy
from .rows import ReadOptions
from .table import open_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

QUERY, DOCUMENT = "query", "document"  # the sides of a pair, as prompts are called
# No more than one row of a task in so many is held out.
_ONE_IN = 20


@dataclass(frozen=True)
class PairSource(SourceConfig):
    """One source of pairs; `template` is a ready mapping (`pair_formats`), `task` the task of all its rows.

    `query` and `document` are the instructions of its sides, where its rows are of one task.
    """

    task: str | None = None
    query: str = ""
    document: str = ""

    def said(self) -> dict[str, object]:
        """Return what of it a run is told by."""
        return super().said() | {"task": self.task, "prompts": self.prompts()}

    def prompts(self) -> dict[str, str]:
        """Return its instructions by the names that a checkpoint has them under."""
        named = ((QUERY, self.query), (DOCUMENT, self.document))
        return {f"{self.task or self.label}-{side}": text for side, text in named if text}

    def check_template(self) -> None:
        """Refuse a mapping that there is not."""
        pair_form_of(self.template)


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

    def read(self, row: int) -> tuple[str, PairRow]:
        """Return identity and pair of a row; raises a `ContentError` where the row went bad."""
        with self.reading:
            identity, document = self.mixture.read(row)
        return identity, pair_of(document)

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
        return np.sort(np.concatenate([self.drawn(own)[: min(rows, len(own) // _ONE_IN)] for own in each]))

    def drawn(self, rows: Ints) -> Ints:
        """Return rows in an order that looks random and depends on their identities alone."""
        return rows[np.argsort(draws(self.mixture)[rows], kind="stable")]

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
    tables = tuple(_open(source, folder, policy, limits, seed) for source in given)
    tasks = tuple(dict.fromkeys(name for table in tables for name in table.names))
    numbers = [np.array([tasks.index(name) for name in table.names], np.int32)[np.asarray(table.kinds)] for table in tables]
    return Pairs(Mixture(given, tables), tasks, np.concatenate(numbers))


def _open(source: SourceConfig, folder: Path | None, policy: Policy, limits: Limits, seed: int) -> Any:
    """Open one source as its configuration says."""
    form: Any = pair_form_of(source.template, seed)
    options = ReadOptions(root=source.picture_root(), limits=limits, form=form)
    task = getattr(source, "task", None)
    finders = pair_finders(task or source.label, alone=task is not None)
    return open_table(source.spec, options=options, cap=source.cap, folder=folder, policy=policy, finders=finders)
