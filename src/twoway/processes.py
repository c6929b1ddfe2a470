"""Processes beside this one, and signals to this one.

Helper processes start clean: nothing of this one's threads, locks or accelerator goes along. SIGTERM and Ctrl-C let what is running come
to a good end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import TwowayError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


# Processes that work beside this one, started clean: nothing of this one's threads, locks or accelerator goes along.
#
# They are spawned and not forked, because a fork keeps locks that other threads held. A spawned process usually runs
# the program that started it once more, up to its `if __name__ == "__main__"`, and one that has none would start
# processes of its own; so here only the modules are imported that the work lives in. What is sent must be picklable,
# and of a module.

_HIDING = threading.Lock()
Task = TypeVar("Task")
Done = TypeVar("Done")


class CleanProcess(SpawnProcess):
    """A process that does not run the main program again."""

    def start(self) -> None:
        """See `Process`."""
        with _without_main():
            super().start()


class CleanContext(SpawnContext):
    """What starts such processes; for `ProcessPoolExecutor` and torch's `DataLoader`."""

    Process = CleanProcess


CONTEXT = CleanContext()


class Team:
    """Some processes, each of which calls `setup(*given)` once; `submit` and `ordered` give them work."""

    def __init__(self, count: int, setup: Callable[..., object], *given: Any, title: str) -> None:
        """Prepare; the first task starts them. `title` says in errors what they do."""
        self.count, self.title = count, title
        self.pool = ProcessPoolExecutor(count, mp_context=CONTEXT, initializer=_begin, initargs=(setup, given))

    def submit(self, work: Callable[..., Done], *given: Any) -> Callable[[], Done]:
        """Have something done; what is returned waits for it."""
        try:
            future = self.pool.submit(_do, work, *given)
        except BrokenProcessPool as error:
            raise self._died() from error

        def wait() -> Done:
            try:
                return future.result()
            except BrokenProcessPool as error:
                raise self._died() from error

        return wait

    def ordered(self, work: Callable[[Task], Done], tasks: Iterable[Task]) -> Iterator[Done]:
        """Yield `work(task)` of each task, in order; a few more than there are processes are begun ahead."""
        begun: list[Callable[[], Done]] = []
        for task in tasks:
            begun.append(self.submit(work, task))
            if len(begun) > 2 * self.count:
                yield begun.pop(0)()
        for one in begun:
            yield one()

    def close(self) -> None:
        """End them; what is not begun is not done."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _died(self) -> TwowayError:
        return TwowayError(
            f"a process that was {self.title} died (the system kills one where memory is short: take fewer); what was done before is kept"
        )


def count_of(asked: int | None) -> int:
    """Return how many processes to use: as many as are asked for, or one for each processor that this process may use."""
    if asked is not None and asked < 1:
        raise UsageError(f"the number of processes is at least 1, not {asked}")
    if asked is not None:
        return asked
    # The processors that may be used, and not all that the machine has: in a container they are few.
    return len(_affinity()) or multiprocessing.cpu_count()


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


_failed: TwowayError | None = None  # what the setup of this process raised


def _begin(setup: Callable[..., object], given: tuple[Any, ...]) -> None:
    """Begin a process: it leaves Ctrl-C to the one that started it, and ends with that one, however that ends."""
    global _failed
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        setup(*given)
    except TwowayError as error:
        _failed = error


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _do(work: Callable[..., Done], *given: Any) -> Done:
    if _failed is not None:
        raise _failed
    return work(*given)


@contextmanager
def _without_main() -> Iterator[None]:
    """Hide where the main program lies from what starts a process."""
    main: Any = sys.modules["__main__"]
    with _HIDING:
        kept = {name: vars(main)[name] for name in ("__spec__", "__file__") if name in vars(main)}
        main.__spec__ = None
        vars(main).pop("__file__", None)
        try:
            yield
        finally:
            vars(main).update(kept)


# SIGTERM and Ctrl-C while training: the step is finished, a checkpoint is written, and the run leaves with a clear
# word.


class Stopped(TwowayError):  # noqa: N818 - a run that is asked to stop did nothing wrong
    """The run was asked to stop and did. The exit code is that of the signal, 128 and its number."""

    def __init__(self, number: int, where: str) -> None:
        super().__init__(number, where)
        self.number, self.where = number, where

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name} {self.where}; the same command goes on from there"

    @property
    def code(self) -> int:
        """The exit code."""
        return 128 + self.number


@contextmanager
def listening() -> Iterator[list[int]]:
    """Collect SIGTERM and Ctrl-C in a list; a second Ctrl-C interrupts at once."""
    caught: list[int] = []

    def handle(number: int, _frame: object) -> None:
        caught.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)
