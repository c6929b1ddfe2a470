"""Samplers: which rows share a batch, for each step of a run, as a pure function of seed and epoch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from twoway.errors import TwowayError, UsageError

from .config import CostWeights
from .mixture import drop_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .mixture import Mixture, Pairs

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float32]

_log = logging.getLogger(__name__)


# Batches of equal cost: an epoch's rows, sorted by length within large random windows, cut where the budget ends.
#
# A row costs its tokens in the language model, padded to the longest row of its batch, and what its pictures cost
# besides (the tower): `cost` counts an image token as `image_token` text tokens and a picture as `image` more. A
# batch that is cut from rows of nearly one length has little padding. Then `shards` batches of nearly equal cost make
# one global batch, in a random order: one rank takes all of them one after the other, two ranks take half each, and
# the rows, and so the gradient, are the same.
#
# A plan is numpy arrays and nothing else: ten million rows take seconds, and any batch is found in constant time, so
# a run that goes on walks through nothing. (The released code of MoCa packs bins of a ratio of 1.3; here the padding
# is counted, because it is work too.)

WINDOW = 16384
# Batches whose costs differ by less than this share of the dearest may meet at random in a global batch.
_EQUAL = 0.05


# The language model alone.
NO_EXTRA_COST = CostWeights()


def row_cost(text_tokens: Any, image_tokens: Any, images: Any, weights: CostWeights = NO_EXTRA_COST) -> Any:
    """Return the cost of rows, in text tokens."""
    return text_tokens + weights.image_token * image_tokens + weights.image * images


def extra_cost(image_tokens: Any, images: Any, weights: CostWeights) -> Any:
    """Return what pictures cost beside the place that their tokens take in a row."""
    return row_cost(0, image_tokens, images, weights) - image_tokens


@dataclass(frozen=True)
class RowCosts:
    """What each row costs: its length in the language model, and what its pictures cost besides."""

    length: Floats
    extra: Floats

    @classmethod
    def of(cls, text_tokens: Any, image_tokens: Any, images: Any, weights: CostWeights) -> RowCosts:
        """Build from counts."""
        length = np.asarray(text_tokens + image_tokens, np.float32)
        # Not as a difference of two sums, which would leave crumbs where an image token costs as much as a word.
        return cls(length, np.asarray(extra_cost(image_tokens, images, weights), np.float32))

    def take(self, columns: Ints) -> RowCosts:
        """Return the costs of some rows."""
        return RowCosts(self.length[columns], self.extra[columns])


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch."""

    rows: Ints  # in the order of the batches
    starts: Ints  # where each batch begins in `rows`, and the end
    groups: Ints  # (steps, shards): the batches of each global batch
    cost: Floats  # of each batch, padding included
    padding: float  # share of the tokens
    over_budget: int  # rows that cost more than the budget all alone

    @property
    def steps(self) -> int:
        """The number of global batches."""
        return len(self.groups)

    def __len__(self) -> int:
        """Count the global batches."""
        return len(self.groups)

    def batch(self, step: int, rank: int = 0, ranks: int = 1) -> tuple[Ints, ...]:
        """Return the rows of the batches that a rank has to do in one step, one after the other."""
        shards = self.groups.shape[1]
        if shards % ranks:
            raise UsageError(f"{shards} shards cannot be shared by {ranks} ranks; set shards to a multiple of {ranks}")
        each = shards // ranks
        chosen = self.groups[step, rank * each : (rank + 1) * each]
        return tuple(self.rows[self.starts[number] : self.starts[number + 1]] for number in chosen)

    def report(self) -> dict[str, float | int]:
        """Say how even the batches are; `imbalance` is the share of time that the average rank waits for the slowest."""
        costs = self.cost[self.groups]
        return {
            "rows": len(self.rows),
            "batches": len(self.cost),
            "steps": self.steps,
            "rows_per_batch": round(len(self.rows) / len(self.cost), 2),
            "padding_share": round(self.padding, 4),
            "imbalance": round(1 - float(costs.mean()) / float(costs.max(axis=1).mean()), 4),
            "rows_over_budget": self.over_budget,
        }


def plan_batches(
    rows: Ints,
    costs: RowCosts,
    *,
    seed: int,
    epoch: int,
    shards: int = 1,
    budget: float | None = None,
    batch_rows: int | None = None,
    window: int = WINDOW,
) -> EpochPlan:
    """Cut an epoch's rows (in random order, with their costs in the same order) into batches of one budget, or of a number of rows.

    Both bounds are of one batch of one rank; a row that is dearer than the budget is a batch of its own. A `window` of 1 sorts nothing.
    """
    if (budget is None) == (batch_rows is None):
        raise UsageError("set either a budget or batch_rows, the one bound of a batch")
    if (budget is not None and not budget > 0) or (batch_rows is not None and batch_rows < 1) or shards < 1 or window < 1:
        raise UsageError("budget, batch_rows, shards and window are above 0")
    if len(rows) < shards:
        raise TwowayError(f"{len(rows)} rows cannot fill the {shards} batches of one step; take fewer shards or more data")
    if window > 1:
        order = _windows(costs.length, window)
        rows, costs = rows[order], costs.take(order)
    sums = np.concatenate([[0.0], np.cumsum(costs.extra, dtype=np.float64)])
    starts = np.arange(0, len(rows), batch_rows) if batch_rows is not None else _cut(costs.length, sums, float(budget or 0), window)
    starts = _fill(np.append(starts, len(rows)), shards)
    filled = np.diff(starts) > 0
    tokens = np.zeros(len(filled))
    tokens[filled] = np.maximum.reduceat(costs.length, starts[:-1][filled]) * np.diff(starts)[filled].astype(np.float64)
    price = (tokens + sums[starts[1:]] - sums[starts[:-1]]).astype(np.float32)
    over = int((costs.length + costs.extra > budget).sum()) if budget is not None else 0
    padding = 1 - float(costs.length.sum(dtype=np.float64)) / float(tokens.sum()) if tokens.any() else 0.0
    return EpochPlan(rows, starts, _group(price, shards, np.random.default_rng([seed, epoch, 0x53])), price, padding, over)


def _windows(length: Floats, window: int) -> Ints:
    """Return the order that sorts each window by length, the longest row first; every other window the other way round.

    So the length goes down and up like a wave, and a batch in a valley, across the border of two windows, holds rows of one length too.
    """
    number = np.arange(len(length)) // window
    key = np.where(number % 2, length, -length)
    return np.lexsort((key, number))


def _cut(length: Floats, sums: NDArray[np.float64], budget: float, window: int) -> Ints:
    """Return where batches begin when each takes as many rows as fit."""
    total, starts, at = len(length), [], 0
    guess = 1
    while at < total:
        starts.append(at)
        # No batch goes across a peak of the wave: behind it the longest row would be neither the first nor the last.
        end = min((at // (2 * window) + 1) * 2 * window, total) if window > 1 else total
        low, high = at + 1, min(at + 2 * guess, end)
        while _price(length, sums, at, high, window) <= budget and high < end:
            low, high = high, min(at + 2 * (high - at), end)
        # The first `low` rows fit (one always does), `high` may not.
        while low < high:
            middle = (low + high + 1) // 2
            if _price(length, sums, at, middle, window) <= budget:
                low = middle
            else:
                high = middle - 1
        guess, at = low - at, low
    return np.array(starts, np.int64)


def _price(length: Floats, sums: NDArray[np.float64], start: int, end: int, window: int) -> float:
    """Return the cost of the rows from `start` to `end`, padded."""
    longest = max(length[start], length[end - 1]) if window > 1 else length[start:end].max()
    return float((end - start) * longest + sums[end] - sums[start])


def _fill(starts: Ints, shards: int) -> Ints:
    """Cut the largest batches in two until their number is a multiple of `shards`; where all hold one row, empty ones are added."""
    while missing := -(len(starts) - 1) % shards:
        sizes = np.diff(starts)
        largest = np.argsort(-sizes, kind="stable")[:missing]
        largest = largest[sizes[largest] > 1]
        if not len(largest):
            return np.concatenate([starts, np.full(missing, starts[-1])])
        starts = np.sort(np.concatenate([starts, starts[largest] + sizes[largest] // 2]))
    return starts


def _group(price: Floats, shards: int, draw: np.random.Generator) -> Ints:
    """Put batches of nearly equal cost together at random, and the groups in a random order."""
    level = np.floor(price / (price.max() * _EQUAL or 1))
    order = np.lexsort((draw.random(len(price)), level))
    groups = order.reshape(-1, shards)
    return draw.permuted(groups, axis=1)[draw.permutation(len(groups))]


# A run's steps are numbered through its epochs: which rows step N has, for any N, without walking through the steps
# before it.
#
# The plan of an epoch is made when it is first asked for. To know where an epoch begins, the number of steps of those
# before it is needed, so a run that goes on in its fifth epoch makes five plans (seconds each, at ten million rows)
# and reads no row.


class CostBatchSampler:
    """The plans of all epochs of a mixture; `costs` has one entry for each row of it."""

    def __init__(
        self,
        mixture: Mixture,
        costs: RowCosts,
        *,
        seed: int,
        shards: int = 1,
        budget: float | None = None,
        batch_rows: int | None = None,
        window: int = WINDOW,
        held_out: Ints | None = None,
    ) -> None:
        """Keep what plans are made from; `batch_rows`, where it is given, stands instead of the budget. Rows of `held` are in no epoch."""
        self.mixture, self.costs, self.seed, self.shards = mixture, costs, seed, shards
        self.budget, self.batch_rows, self.window = None if batch_rows is not None else budget, batch_rows, window
        self.held_out: Ints = np.zeros(0, np.int64) if held_out is None else held_out
        self._lengths: list[int] = []
        self._latest: tuple[int, EpochPlan] | None = None

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of an epoch; the latest is kept."""
        if self._latest is None or self._latest[0] != epoch:
            rows = drop_rows(self.mixture, self.mixture.epoch(self.seed, epoch), self.held_out)
            bounds = {"budget": self.budget, "batch_rows": self.batch_rows}
            costs = self.costs.take(self.mixture.table_rows(rows))
            made = plan_batches(rows, costs, seed=self.seed, epoch=epoch, shards=self.shards, window=self.window, **bounds)  # type: ignore[arg-type]
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


# Contents cut into chunks that run through the model together: of nearly one length, and of at most one cost.
#
# Sorted by length, longest first, they are cut where padding and the cost of starting a run are least together. So a
# page at high resolution never pads the short text that asks for it, and contents of one length share as few runs as
# their cost allows.

# The padding tokens that cost what starting another run does: 10 ms of a nano model on a CPU, 30 ms of 3B weights on an accelerator.
CHUNK_START_COST = 96.0


def cut_chunks(length: Sequence[float], extra: Sequence[float], budget: float, *, start: float = CHUNK_START_COST) -> list[list[int]]:
    """Return the numbers of the contents of each chunk; one that is dearer than the budget is a chunk of its own.

    A content costs the longest length of its chunk, and what its pictures cost besides (`extra`); a chunk costs `start` more.
    """
    order = np.lexsort((np.arange(len(length)), -np.asarray(length, np.float64)))
    sizes = np.asarray(length, np.float64)[order]
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(extra, np.float64)[order])])
    # The least cost of the first contents, and where their last chunk begins. A chunk that is too dear stays so as it grows.
    least, begins, low = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64), 0
    for end in range(1, len(order) + 1):
        while low < end - 1 and (end - low) * sizes[low] + sums[end] - sums[low] > budget:
            low += 1
        firsts = np.arange(low, end)
        total = least[low:end] + (end - firsts) * sizes[low:end]
        begins[end] = low + int(total.argmin())
        least[end] = total.min() + start
    chunks: list[list[int]] = []
    end = len(order)
    while end:
        chunks.append(order[begins[end] : end].tolist())
        end = int(begins[end])
    return chunks[::-1]


# Contrastive batches: all rows of a global batch belong to one task, on all ranks, so that no negative is told apart
# by its task alone.
#
# (MoCa, arXiv 2506.23115, section 3.2, "task-aware batching". Its released code shuffles an index over all sets, and
# the sampler may mix.)
#
# A task's rows are cut into as few batches as hold them, of equal size to within a row, in an order that is drawn
# anew each time the task has been gone through, so every row comes once a turn and none is left over. How many
# batches a task has in an epoch follows from its size, from its size to a power below 1, or from its weight alone; a
# small task is gone through at most `max_repeats` times an epoch, and what it may not take others do.
#
# Everything is a function of seed, epoch and step: any batch is found without walking through those before it. A
# global batch is made in pieces, which ranks share: one rank takes all of them, two take half each. A `mixed` batch
# takes rows of all tasks (the papers' ablation).

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


class TaskBatchSampler:
    """The batches of all epochs; stands where `CostBatchSampler` stands for documents."""

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
        held_out: Ints | None = None,
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
        if held_out is not None:
            kept[held_out] = False
        own = [np.flatnonzero(kept)] if mixed else [np.flatnonzero(kept & (pairs.task_of == number)) for number in range(len(pairs.tasks))]
        names = (MIXED,) if mixed else pairs.tasks
        self.tasks = tuple(name for name, rows in zip(names, own, strict=True) if len(rows))
        self.rows_by_task = [rows for rows in own if len(rows)]
        if small := describe_small_tasks({task: len(rows) for task, rows in zip(self.tasks, self.rows_by_task, strict=True)}, batch):
            if small_tasks == "fail":
                raise UsageError(f"{small}; take a smaller batch, give such sources one task, or let small_tasks=keep make smaller batches")
            _log.warning("%s; their batches are smaller", small)
        sizes = np.array([len(rows) for rows in self.rows_by_task])
        self.batches = -(-sizes // batch)  # in one turn of each task
        given = pairs.weights() | dict(weights or {})
        weight = np.array([given.get(name, 1.0) for name in self.tasks])
        self.counts = batches_per_task(self.batches, sizes, weight, sampling=sampling, smoothing=smoothing, max_repeats=max_repeats)
        self._latest: tuple[int, TaskPlan] | None = None
        self._orders: dict[int, tuple[int, Ints]] = {}

    def report(self) -> list[dict[str, Any]]:
        """Say of each task how many rows and batches it has, and how often an epoch goes through it."""
        found = []
        for number, task in enumerate(self.tasks):
            rows, turn, count = len(self.rows_by_task[number]), int(self.batches[number]), int(self.counts[number])
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
            self._latest = epoch, TaskPlan(order, turn, np.concatenate(self.rows_by_task))
        return self._latest[1]

    def steps(self, epochs: int) -> int:
        """Return the number of steps of the first epochs."""
        return int(self.counts.sum()) * epochs

    def locate(self, step: int) -> tuple[int, int]:
        """Return the epoch that a step falls into and its number there."""
        return divmod(step, int(self.counts.sum()))

    def global_batch(self, step: int) -> tuple[str, Ints]:
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
        pieces = np.array_split(self.global_batch(step)[1], self.shards)
        return self.locate(step)[0], tuple(pieces[rank * each : (rank + 1) * each])

    def _order(self, task: int, round_: int) -> Ints:
        """Return a task's rows in the order of one turn; the latest of each task is kept."""
        if self._orders.get(task, (-1,))[0] != round_:
            draw = np.random.default_rng([self.seed, task, round_, 0x55])
            self._orders[task] = round_, draw.permutation(self.rows_by_task[task])
        return self._orders[task][1]


def batches_per_task(batches: Ints, sizes: Ints, weights: Any, *, sampling: Sampling, smoothing: float, max_repeats: float) -> Ints:
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


def describe_small_tasks(rows: Mapping[str, int], batch: int) -> str:
    """Name the tasks that do not fill a batch, of these with their rows; nothing where all do."""
    small = [f"{task} ({count:,})" for task, count in rows.items() if count < batch]
    return f"a batch has {batch:,} rows of one task, more than there are in {', '.join(small)}" if small else ""
