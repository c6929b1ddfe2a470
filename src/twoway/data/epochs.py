"""A run's steps are numbered through its epochs: which rows step N has, for any N, without walking through the steps before it.

The plan of an epoch is made when it is first asked for. To know where an epoch begins, the number of steps of those before it is needed, so
a run that goes on in its fifth epoch makes five plans (seconds each, at ten million rows) and reads no row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .batching import WINDOW, Costs, Plan, plan
from .held import without

if TYPE_CHECKING:
    from .batching import Ints
    from .mixture import Mixture


class Epochs:
    """The plans of all epochs of a mixture; `costs` has one entry for each row of it."""

    def __init__(
        self,
        mixture: Mixture,
        costs: Costs,
        *,
        seed: int,
        shards: int = 1,
        budget: float | None = None,
        batch_rows: int | None = None,
        window: int = WINDOW,
        held: Ints | None = None,
    ) -> None:
        """Keep what plans are made from; `batch_rows`, where it is given, stands instead of the budget. Rows of `held` are in no epoch."""
        self.mixture, self.costs, self.seed, self.shards = mixture, costs, seed, shards
        self.budget, self.batch_rows, self.window = None if batch_rows is not None else budget, batch_rows, window
        self.held: Ints = np.zeros(0, np.int64) if held is None else held
        self._lengths: list[int] = []
        self._latest: tuple[int, Plan] | None = None

    def plan(self, epoch: int) -> Plan:
        """Return the plan of an epoch; the latest is kept."""
        if self._latest is None or self._latest[0] != epoch:
            rows = without(self.mixture, self.mixture.epoch(self.seed, epoch), self.held)
            bounds = {"budget": self.budget, "batch_rows": self.batch_rows}
            costs = self.costs.take(self.mixture.columns(rows))
            made = plan(rows, costs, seed=self.seed, epoch=epoch, shards=self.shards, window=self.window, **bounds)  # type: ignore[arg-type]
            self._latest = epoch, made
        return self._latest[1]

    def steps(self, epochs: int) -> int:
        """Return the number of steps of the first epochs."""
        while len(self._lengths) < epochs:
            self._lengths.append(len(self.plan(len(self._lengths))))
        return sum(self._lengths[:epochs])

    def locate(self, step: int) -> tuple[int, int]:
        """Return the epoch that a step falls into and its number there."""
        epoch = 0
        while step >= self.steps(epoch + 1):
            epoch += 1
        return epoch, step - self.steps(epoch)

    def rows(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[int, tuple[Ints, ...]]:
        """Return a step's epoch, and the rows of the batches that one rank has in it."""
        epoch, place = self.locate(step)
        return epoch, self.plan(epoch).batch(place, rank, ranks)
