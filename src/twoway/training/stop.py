"""SIGTERM and Ctrl-C while training: the step is finished, a checkpoint is written, and the run leaves with a clear word."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from twoway.errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
