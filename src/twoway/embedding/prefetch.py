"""Work done ahead of who needs it, by threads, a bounded number of results waiting, in order.

Threads and not processes: decoding, resizing and tokenizing let go of the interpreter's lock, a model in memory needs no copy, and nothing
has to be picked up again after a kill. The bound is what keeps memory flat: a task begins only when a place for its result is free.
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
    """Yield `work(task)` for each task, in order, with up to `waiting` tasks begun; without a pool each is done when it is asked for.

    `tasks` is only ever gone through by who asks for results, so it needs no lock.
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
    """Go through items in one thread of its own, with up to `waiting` of them read before they are asked for.

    One thread alone touches the source, so a reader that is not made for several (PDFium) is safe.
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
