"""Batches made ahead of time, in workers: read, open the pictures, encode, mask, put together; from any step on, in constant time.

What a batch holds is a function of its rows and epoch alone, so the number of workers changes nothing but the time. Workers are torch's;
each works on one batch, and `prefetch` batches a worker wait at most. A row that cannot be used is an error that names its place, or, with
`on_bad="skip"`, absent from its batch, counted, and listed; a batch whose rows are all bad is `None`, and an epoch of them an error.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..content import ContentError
from ..errors import TwowayError
from .policy import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.context import BaseContext

    from .batching import Ints
    from .epochs import Epochs
    from .mixture import Mixture

Batch = dict[str, Any]


class Task(NamedTuple):
    """What a worker is asked for: the rows of one batch."""

    epoch: int
    step: int
    left: int  # batches of this step that follow
    rows: Ints


class Made(NamedTuple):
    """What a worker gives back; `failed` is what no policy decides about, said with the row that it came from."""

    task: Task
    batch: Batch | None
    bad: tuple[ContentError, ...]
    failed: TwowayError | None = None


class Maker(Dataset[Made]):
    """Makes one batch; runs in a worker."""

    def __init__(self, mixture: Mixture, encode: Callable[..., Any], corrupt: Callable[..., Any], collate: Callable[..., Batch]) -> None:
        self.mixture, self.encode, self.corrupt, self.collate = mixture, encode, corrupt, collate

    def __getitem__(self, task: Task) -> Made:
        """Make the batch of some rows; errors of rows are part of the answer, because an exception would lose its place on the way."""
        good, bad = [], []
        for row in task.rows:
            try:
                identity, document = self.mixture.read(int(row))
                good.append(self.corrupt(self.encode(identity, document), epoch=task.epoch))
            except ContentError as error:
                bad.append(error)
            except TwowayError as error:
                return Made(task, None, (), TwowayError(f"{self.mixture.identity(int(row))}: {error}"))
        return Made(task, self.collate(good) if good else None, tuple(bad))


class Loader:
    """The batches of a run, step by step.

    `encode(identity, document)` gives an example, `corrupt(example, epoch=…)` masks it, `collate(list)` makes a batch; with workers all
    three are sent to other processes and must be picklable where processes are spawned.
    """

    def __init__(
        self,
        epochs: Epochs,
        encode: Callable[..., Any],
        corrupt: Callable[..., Any],
        collate: Callable[..., Batch],
        *,
        workers: int = 0,
        prefetch: int = 2,
        policy: Policy | None = None,
        pin_memory: bool = False,
        context: str | BaseContext | None = None,
    ) -> None:
        """Prepare; nothing is read before the first step. `context` is how workers start (default: torch's for the platform).

        Where an accelerator is at work it should be one that does not fork (`processes.CONTEXT`).
        """
        self.epochs, self.policy = epochs, policy or Policy()
        self.maker = Maker(epochs.mixture, encode, corrupt, collate)
        self.workers, self.prefetch, self.pin_memory, self.context = workers, prefetch, pin_memory, context
        self.rows = self.bad = 0
        self._fruitless = 0

    def steps(self, start: int, stop: int, rank: int = 0, ranks: int = 1) -> Iterator[tuple[Batch | None, ...]]:
        """Yield, for each step from `start` to before `stop`, the batches of one rank; `None` where all rows of a batch were bad."""
        settings: dict[str, Any] = {}
        if self.workers:
            # A forked tokenizer with threads of its own would warn, or wait for a lock that nobody holds any more.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            settings = {"prefetch_factor": self.prefetch, "multiprocessing_context": self.context}
        tasks = _Tasks(self.epochs, range(start, stop), rank, ranks)
        batches: list[Batch | None] = []
        made: Made | None = None
        loader = DataLoader(
            self.maker,
            batch_size=None,
            sampler=tasks,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # the global one is training's
            **settings,
        )
        for made in _living(loader):
            if made.failed is not None:
                raise made.failed
            self._account(made, ranks)
            batches.append(made.batch)
            if not made.task.left:
                yield tuple(batches)
                batches = []
        if made is not None and self.rows and self.bad == self.rows and ranks == 1:
            raise self._all_bad(made)

    def _account(self, made: Made, ranks: int) -> None:
        """Count, and let the policy decide about bad rows."""
        self.rows += len(made.task.rows)
        for error in made.bad:
            self.bad += 1
            self.policy.refuse(error)
        self._fruitless = 0 if made.batch is not None else self._fruitless + len(made.task.rows)
        if self._fruitless and self._fruitless >= len(self.epochs.plan(made.task.epoch).rows) // ranks:
            raise self._all_bad(made)

    def _all_bad(self, made: Made) -> TwowayError:
        """Say that there is nothing to train on."""
        return TwowayError(f"all rows of the data are bad ({self.bad:,} tried)" + (f", the latest: {made.bad[-1]}" if made.bad else ""))


class _Tasks(Sampler[Task]):
    """The batches of one rank in order, one by one; it runs where training runs, so that only the rows asked for travel to a worker."""

    def __init__(self, epochs: Epochs, steps: Sequence[int], rank: int, ranks: int) -> None:
        self.epochs, self.numbers, self.rank, self.ranks = epochs, steps, rank, ranks

    def __iter__(self) -> Iterator[Task]:
        """Yield the tasks of all steps."""
        for step in self.numbers:
            epoch, batches = self.epochs.rows(step, self.rank, self.ranks)
            for number, rows in enumerate(batches):
                yield Task(epoch, step, len(batches) - number - 1, rows)


def _living(loader: DataLoader[Made]) -> Iterator[Made]:
    """Go through what workers make; one that died is one line."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TwowayError(
            "a process that was making batches died (the system kills one where memory is short: take fewer workers, or less prefetch); "
            "the same command goes on from the last checkpoint"
        ) from error


def _unchanged(value: Any) -> Any:
    """Keep what a worker made: it is a batch already."""
    return value
