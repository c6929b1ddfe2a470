"""Contrastive batches: all rows of a global batch belong to one task, on all ranks, so that no negative is told apart by its task alone.

(MoCa, arXiv 2506.23115, section 3.2, "task-aware batching". Its released code shuffles an index over all sets, and the sampler may mix.)

A task's rows are cut into as few batches as hold them, of equal size to within a row, in an order that is drawn anew each time the task
has been gone through, so every row comes once a turn and none is left over. How many batches a task has in an epoch follows from its size,
from its size to a power below 1, or from its weight alone; a small task is gone through at most `max_repeats` times an epoch, and what it
may not take others do.

Everything is a function of seed, epoch and step: any batch is found without walking through those before it. A global batch is made in
pieces, which ranks share: one rank takes all of them, two take half each. A `mixed` batch takes rows of all tasks (the papers' ablation).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .pair_mixture import Pairs

    Ints = NDArray[np.int64]

_log = logging.getLogger(__name__)
Sampling = Literal["size", "smooth", "weight"]
MIXED = "mixed"


@dataclass(frozen=True)
class TaskPlan:
    """One epoch: which task each step has, and which of the task's batches; `rows` has all rows that the epoch holds, once."""

    order: Ints  # task of each step
    turn: Ints  # the how-manieth batch of its task each step is, in this epoch
    rows: Ints

    def __len__(self) -> int:
        """Count the steps."""
        return len(self.order)


class TaskEpochs:
    """The batches of all epochs; stands where `Epochs` stands for documents."""

    def __init__(
        self,
        pairs: Pairs,
        *,
        batch: int,
        seed: int,
        sampling: Sampling = "size",
        smoothing: float = 0.5,
        weights: Mapping[str, float] | None = None,
        max_repeats: float = 1.0,
        small_tasks: Literal["fail", "keep"] = "keep",
        mixed: bool = False,
        held: Ints | None = None,
        shards: int = 1,
    ) -> None:
        """Share the rows out; `batch` is the rows of a global batch, `weights` of tasks go over those of their sources.

        A global batch is made in `shards` pieces, which the ranks share.
        """
        if batch < 2 or max_repeats < 1 or not 0 <= smoothing <= 1:
            raise UsageError("batch is at least 2, max_repeats at least 1, and smoothing from 0 to 1")
        if mixed and sampling != "size":
            raise UsageError("mixed batches take rows as they come: sampling=size")
        pairs.require(weights or {}, "task_weights")
        self.mixture: Any = pairs
        self.seed, self.mixed, self.shards = seed, mixed, shards
        kept = np.ones(len(pairs), bool)
        if held is not None:
            kept[held] = False
        own = [np.flatnonzero(kept)] if mixed else [np.flatnonzero(kept & (pairs.task_of == number)) for number in range(len(pairs.tasks))]
        names = (MIXED,) if mixed else pairs.tasks
        self.tasks = tuple(name for name, rows in zip(names, own, strict=True) if len(rows))
        self.own = [rows for rows in own if len(rows)]
        if small := small_of({task: len(rows) for task, rows in zip(self.tasks, self.own, strict=True)}, batch):
            if small_tasks == "fail":
                raise UsageError(f"{small}; take a smaller batch, give such sources one task, or let small_tasks=keep make smaller batches")
            _log.warning("%s; their batches are smaller", small)
        sizes = np.array([len(rows) for rows in self.own])
        self.batches = -(-sizes // batch)  # in one turn of each task
        given = pairs.weights() | dict(weights or {})
        weight = np.array([given.get(name, 1.0) for name in self.tasks])
        self.counts = shares(self.batches, sizes, weight, sampling=sampling, smoothing=smoothing, max_repeats=max_repeats)
        self._latest: tuple[int, TaskPlan] | None = None
        self._orders: dict[int, tuple[int, Ints]] = {}

    def report(self) -> list[dict[str, Any]]:
        """Say of each task how many rows and batches it has, and how often an epoch goes through it."""
        found = []
        for number, task in enumerate(self.tasks):
            rows, turn, count = len(self.own[number]), int(self.batches[number]), int(self.counts[number])
            found.append({"task": task, "rows": rows, "batch": -(-rows // turn), "batches": count, "repeats": round(count / turn, 3)})
        return found

    def plan(self, epoch: int) -> TaskPlan:
        """Return the plan of an epoch; the latest is kept."""
        if self._latest is None or self._latest[0] != epoch:
            order = np.repeat(np.arange(len(self.tasks)), self.counts)
            np.random.default_rng([self.seed, epoch, 0x54]).shuffle(order)
            turn = np.zeros(len(order), np.int64)
            for task in range(len(self.tasks)):
                chosen = order == task
                turn[chosen] = np.arange(int(chosen.sum()))
            self._latest = epoch, TaskPlan(order, turn, np.concatenate(self.own))
        return self._latest[1]

    def steps(self, epochs: int) -> int:
        """Return the number of steps of the first epochs."""
        return int(self.counts.sum()) * epochs

    def locate(self, step: int) -> tuple[int, int]:
        """Return the epoch that a step falls into and its number there."""
        return divmod(step, int(self.counts.sum()))

    def whole(self, step: int) -> tuple[str, Ints]:
        """Return task and rows of a step's global batch."""
        epoch, place = self.locate(step)
        plan = self.plan(epoch)
        task = int(plan.order[place])
        round_, number = divmod(epoch * int(self.counts[task]) + int(plan.turn[place]), int(self.batches[task]))
        return self.tasks[task], np.array_split(self._order(task, round_), int(self.batches[task]))[number]

    def rows(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[int, tuple[Ints, ...]]:
        """Return a step's epoch, and the rows of the pieces that a rank has of its global batch."""
        if self.shards % ranks:
            raise UsageError(f"{self.shards} shards cannot be shared by {ranks} ranks; set shards to a multiple of {ranks}")
        each = self.shards // ranks
        pieces = np.array_split(self.whole(step)[1], self.shards)
        return self.locate(step)[0], tuple(pieces[rank * each : (rank + 1) * each])

    def _order(self, task: int, round_: int) -> Ints:
        """Return a task's rows in the order of one turn; the latest of each task is kept."""
        if self._orders.get(task, (-1,))[0] != round_:
            draw = np.random.default_rng([self.seed, task, round_, 0x55])
            self._orders[task] = round_, draw.permutation(self.own[task])
        return self._orders[task][1]


def shares(batches: Ints, sizes: Ints, weights: Any, *, sampling: Sampling, smoothing: float, max_repeats: float) -> Ints:
    """Return how many batches each task has in an epoch.

    An epoch has as many steps as going through every task once would take. What the bound on repeats takes from small tasks goes to
    the others in the same proportion; where all are at their bound, the epoch is shorter.
    """
    weights = np.asarray(weights, np.float64)
    if sampling == "size" and np.allclose(weights, weights[0]):
        return batches.astype(np.int64)
    wish = {"size": weights * sizes, "smooth": weights * sizes.astype(np.float64) ** smoothing, "weight": weights}[sampling]
    bound = np.maximum(np.floor(batches * max_repeats), 1)
    found, free, left = np.zeros(len(batches)), np.ones(len(batches), bool), float(batches.sum())
    while free.any() and left > 0:
        share = np.where(free, wish, 0) / wish[free].sum() * left
        over = free & (share >= bound)
        if not over.any():
            found[free] = share[free]
            break
        found[over] = bound[over]
        left -= float(bound[over].sum())
        free &= ~over
    whole = np.floor(found + 1e-9)
    # The largest remainders round up, and no task is left out.
    missing = round(float(found.sum() - whole.sum()))
    whole[np.argsort(-(found - whole), kind="stable")[:missing]] += 1
    return np.clip(whole, 1, bound).astype(np.int64)


def small_of(rows: Mapping[str, int], batch: int) -> str:
    """Name the tasks that do not fill a batch, of these with their rows; nothing where all do."""
    small = [f"{task} ({count:,})" for task, count in rows.items() if count < batch]
    return f"a batch has {batch:,} rows of one task, more than there are in {', '.join(small)}" if small else ""
