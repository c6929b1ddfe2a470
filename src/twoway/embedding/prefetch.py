"""Prefetching by threads, in order, with a bounded number of waiting results.

Threads and not processes: decoding, resizing and tokenizing release the interpreter's lock, a model in memory needs no copy, and nothing
has to be cleaned up after a kill. The bound keeps memory flat: a task starts only when there is room for its result.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future, ThreadPoolExecutor

_PATIENCE = 2.0  # seconds
Task = TypeVar("Task")
Done = TypeVar("Done")


def ahead(tasks: Iterable[Task], work: Callable[[Task], Done], *, pool: ThreadPoolExecutor | None, waiting: int) -> Iterator[Done]:
    """Yield `work(task)` for each task, in order, with up to `waiting` tasks started; without a pool, each runs when it is needed.

    Only the consumer iterates over `tasks`, so it needs no lock.
    """
    if pool is None:
        yield from map(work, tasks)
        return
    begun: deque[Future[Done]] = deque()
    try:
        for task in tasks:
            begun.append(pool.submit(work, task))
            if len(begun) >= max(1, waiting):
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()


def read_ahead(items: Iterable[Done], waiting: int) -> Iterator[Done]:
    """Iterate over items in a thread of its own, with up to `waiting` of them read ahead.

    Only one thread touches the source, so a reader that is not thread-safe (PDFium) is safe.
    """
    lane: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=max(1, waiting))
    over = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not over.is_set():
            try:
                lane.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
        except BaseException as error:
            put("error", error)
        else:
            put("end", None)

    thread = threading.Thread(target=read, name="read", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = lane.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        over.set()
        thread.join(_PATIENCE)  # who leaves early does not wait for a row that takes its time; the thread ends after it
