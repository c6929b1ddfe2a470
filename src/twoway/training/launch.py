"""`--nproc N`: start N ranks on this machine, watch them, pass signals on, and bring the first error back in one line.

The ranks find each other at a store that this process serves, as those of `torchrun` do: its port is taken before a rank hears of it,
so that two runs that start at once cannot take each other's.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import traceback
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

import torch
from torch import multiprocessing
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, though not marked so

from twoway.errors import TwowayError

from .ranks import Silence
from .stop import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.process import BaseProcess

HOST = "127.0.0.1"
START = "spawn"  # a fork of a process that has looked for GPUs cannot use them
PATIENCE = 30.0  # seconds that the other ranks have to leave after one failed


def launch(nproc: int, function: Callable[..., object], *args: Any) -> None:
    """Run `function(*args)` in `nproc` new processes that know of each other; raise what the first to fail raised."""
    context: Any = multiprocessing.get_context(START)
    failures = context.SimpleQueue()
    store = _store()
    ranks = [
        context.Process(target=_rank, args=(failures, rank, nproc, store.port, function, args), name=f"rank {rank}")
        for rank in range(nproc)
    ]
    try:
        with _pass_on(ranks) as caught:
            for rank in ranks:
                rank.start()
            first = _watch(ranks)
    finally:
        for rank in ranks:
            if rank.is_alive():
                rank.kill()
    told = []
    while not failures.empty():
        told.append(failures.get())
    _raise_cause(told, caught, first, nproc)


def _raise_cause(told: list[Any], caught: list[int], first: Any, nproc: int) -> None:
    """Raise what ended the run: what a rank said of itself, how the first one died, and only then what others saw of it."""
    for failure in told:
        if isinstance(failure, TwowayError) and not isinstance(failure, Silence):
            raise Stopped(caught[0], failure.where) if caught and isinstance(failure, Stopped) else failure
    killed = first is not None and first.exitcode < 0
    for failure in sorted(told, key=lambda one: isinstance(one, Silence)):
        if not killed:
            raise failure if isinstance(failure, Silence) else RuntimeError(failure)
    if caught:
        raise Stopped(caught[0], "before the first step")
    if first is not None:
        how = f"was killed by signal {-first.exitcode}" if killed else f"ended with code {first.exitcode}"
        raise TwowayError(f"{first.name} of {nproc} {how}; the same command goes on from the last checkpoint")


def _store() -> TCPStore:
    """Serve the ranks' meeting place at a port that the system chooses, to this machine alone; it closes with the object."""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen()
        port = listening.getsockname()[1]
        # The store owns the socket from here on.
        return TCPStore(HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())


def _watch(ranks: list[Any]) -> Any:
    """Wait for the ranks and return the first to fail, if one does.

    Once one has failed the others, which wait for it, have a little time to say the same and are then ended.
    """
    deadline, first = float("inf"), None
    alive = list(ranks)
    while alive and time.monotonic() < deadline:
        wait([rank.sentinel for rank in alive], timeout=1.0)
        alive = [rank for rank in alive if rank.exitcode is None]
        # Asked after it: one that ends between the two questions counts as alive once more, and is not overlooked.
        failed = next((rank for rank in ranks if rank not in alive and rank.exitcode != 0), None)
        first = first or failed
        deadline = min(deadline, time.monotonic() + PATIENCE) if failed else deadline
        if failed:
            # A rank that waits in a collective for a dead one does not see a signal handler's flag.
            time.sleep(0.5)
            for rank in alive:
                if rank.exitcode is None and time.monotonic() > deadline - PATIENCE + 2:
                    rank.terminate()
    for rank in ranks:
        if rank.exitcode is None and time.monotonic() >= deadline:
            rank.kill()
        rank.join()
    return first


@contextmanager
def _pass_on(ranks: Sequence[BaseProcess]) -> Iterator[list[int]]:
    """Tell the ranks to save and leave on SIGTERM and Ctrl-C. A terminal sends Ctrl-C to them too, and a second one would interrupt."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # signals are met by the main thread, which is somebody else's
        return

    def handle(number: int, _frame: object) -> None:
        caught.append(number)
        for rank in ranks:
            if rank.pid and rank.exitcode is None:
                os.kill(rank.pid, signal.SIGTERM)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _rank(failures: Any, rank: int, count: int, port: int, function: Callable[..., object], args: tuple[Any, ...]) -> None:
    """Be one rank."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    # The last one says that the store is served already: no rank is to open it.
    os.environ |= {"MASTER_ADDR": HOST, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": str(True)}
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    try:
        function(*args)
    except TwowayError as error:
        failures.put(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception:
        # Often only the echo of another rank's end, so it is told where nobody says more.
        failures.put(f"rank {rank}:\n{traceback.format_exc()}")
        raise SystemExit(1) from None
