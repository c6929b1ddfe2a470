"""Jobs in processes of one thread each: on two cores two of them do more than one of two threads.

A process is forked from a server that has read the libraries once, does one job, and writes what it says into the job's log. It ends when
whoever started it does, however that one ends, so that a study which is begun again never meets a worker of the old one.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from twoway.errors import TwowayError
from twoway.training.stop import Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path

    from twoway.stages.fingerprint import Job

    from .grid import Task

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Worker:
    """A job that is being done."""

    task: Task
    process: ForkServerProcess
    log: Path
    began: float

    @property
    def seconds(self) -> float:
        """How long it has been at it."""
        return time.monotonic() - self.began


class Workers:
    """Some jobs at a time."""

    def __init__(self, count: int, logs: Path) -> None:
        self.count, self.logs = count, logs
        self.busy: dict[str, Worker] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, "twoway.stages.kinds"])

    @property
    def free(self) -> bool:
        """Whether one more can be started."""
        return len(self.busy) < self.count

    def start(self, task: Task) -> None:
        """Begin a job."""
        self.logs.mkdir(parents=True, exist_ok=True)
        log = log_of(self.logs, task)
        process = self._context.Process(target=_work, args=(task.ready(), task.base, task.folder, log), name=task.title)
        with _one_thread():
            process.start()
        self.busy[task.key] = Worker(task, process, log, time.monotonic())

    def ended(self, timeout: float | None = None) -> list[tuple[Worker, int]]:
        """Wait until one or more have ended; return them with their exit codes."""
        wait([one.process.sentinel for one in self.busy.values()], timeout)
        done = []
        for key, one in list(self.busy.items()):
            if one.process.exitcode is not None:
                one.process.join()
                done.append((self.busy.pop(key), one.process.exitcode))
        return done

    def stop(self) -> None:
        """Ask all to save and leave."""
        for one in self.busy.values():
            one.process.terminate()

    def kill(self) -> None:
        """End all at once."""
        for one in self.busy.values():
            one.process.kill()
            one.process.join()
        self.busy.clear()


def log_of(logs: Path, task: Task) -> Path:
    """Return where a job's output goes."""
    return logs / f"{task.folder.name}.log"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Give processes that start in here one thread; libraries read this once, when they are loaded."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ |= _ONE_THREAD
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(job: Job, base: str, folder: Path, log: Path) -> None:
    """Do one job; the exit code says how it went."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with log.open("ab", buffering=0) as file:
        for output in (1, 2):
            os.dup2(file.fileno(), output)
    import torch

    from twoway.stages.run_recipe import do

    torch.set_num_threads(1)
    try:
        do(job, base, folder)
    except Stopped as stopped:
        _leave(stopped.code, str(stopped))
    except TwowayError as error:
        _leave(1, str(error))
    except Exception:
        _leave(1, traceback.format_exc())


def _leave(code: int, said: str) -> None:
    sys.stderr.write(f"{said}\n")
    raise SystemExit(code)


def _end_with_parent() -> None:
    """Wait for the end of the study's own process, and end at once: what was saved is gone on with."""
    parent: Any = multiprocessing.parent_process()
    wait([parent.sentinel])
    os._exit(1)
