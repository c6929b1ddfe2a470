"""Several sources as one: names, weights and caps, and which rows an epoch has, as a pure function of seed and epoch.

A weight says how often an epoch has a source's rows: 1 once, 2 twice, 0.5 every second one, and two epochs then have them all; a share of
rows is taken from a fixed shuffle of the source, turn by turn, so that no row waits longer than another. A cap takes a source's first rows.

A row of an epoch is one number: the row in all sources one behind the other, plus the size of all sources for each repetition within the
epoch. Its identity, `name#row`, is what masks are made from; a repetition has its own (`name#row#2`), and so its own masks.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import TwowayError, UsageError
from ..images import DEFAULT, Limits
from .formats import form_of
from .policy import Policy
from .rows import ReadOptions
from .table import RowTable, open_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..content import Document


# Beside the rows that mining writes: what it did, and under `root` the folder that their pictures' paths are relative to.
MINED = "mine.json"


@dataclass(frozen=True)
class SourceConfig:
    """One source of training data."""

    spec: str
    weight: float = 1.0
    cap: int | None = None
    template: str | None = None
    name: str | None = None
    root: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what no source can have."""
        if not 0 < self.weight <= 1000:
            raise UsageError(
                f"the weight of {self.spec} is a number above 0 (and at most 1000), not {self.weight:g}; leave out what is unused"
            )
        if self.cap is not None and self.cap < 1:
            raise UsageError(f"the cap of {self.spec} is a number of rows above 0, not {self.cap}")
        self.check_template()

    def check_template(self) -> None:
        """Refuse a template that there is not."""
        if self.template is not None:
            form_of(self.template)

    def picture_root(self) -> Path | None:
        """Return the folder that the pictures' paths are relative to: the one that is given, or the one that mined rows remember."""
        mined = Path(self.spec.removeprefix("parquet:")) / MINED
        if self.root is not None or self.spec.startswith("hub:") or not mined.is_file():
            return self.root
        try:
            root = json.loads(mined.read_text(encoding="utf-8"))["root"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TwowayError(f"{mined} cannot be read ({error}); name the pictures' folder (root: …)") from error
        return None if root is None else Path(root)

    def said(self) -> dict[str, object]:
        """Return what of it a run is told by; where it lies is not, and what it holds its table's digest says."""
        return {"name": self.label, "weight": self.weight, "cap": self.cap, "template": self.template}

    @property
    def label(self) -> str:
        """The name that identities begin with: by default the file's, without its folder, so that data can move."""
        return self.name or (self.spec if self.spec.partition(":")[0] in ("samples", "hub") else Path(self.spec).name)


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

    def read(self, row: int) -> tuple[str, Document]:
        """Return identity and document of a row of an epoch; raises a `ContentError` where the row went bad."""
        copy, source, index = self._find(row)
        return self._identity(copy, source, index), self.tables[source].read(index)

    def identity(self, row: int) -> str:
        """Return the identity of a row of an epoch."""
        return self._identity(*self._find(row))

    def columns(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the rows of an epoch stand among all rows: what to index an array with that has one entry a row."""
        return rows % len(self)

    def source_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the source number of each row of an epoch."""
        return np.searchsorted(self.starts, self.columns(rows), side="right") - 1

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


def open_source_table(source: SourceConfig, *, folder: Path | None, policy: Policy, limits: Limits = DEFAULT) -> RowTable:
    """Open one source as its configuration says."""
    options = ReadOptions(root=source.picture_root(), limits=limits, form=form_of(source.template) if source.template else None)
    return open_table(source.spec, options=options, cap=source.cap, folder=folder, policy=policy)


def require_names(sources: Sequence[SourceConfig]) -> None:
    """Refuse no source at all, and two of one name, whose rows would have one identity."""
    if not sources:
        raise UsageError("no data is given; name at least one source")
    twice = [name for name, count in Counter(source.label for source in sources).items() if count > 1]
    if twice:
        raise UsageError(f"two sources are called {twice[0]}; give each a name of its own (name: …)")
