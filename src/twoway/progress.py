"""A long pass is seen: a bar in a terminal, a line now and then in a pipe or a file."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.progress import Progress, Task, TaskID

Item = TypeVar("Item")
_QUIET_SECONDS, _LINE_SECONDS = 1.0, 15.0


def steps(items: Iterable[Item], title: str, *, total: int | None = None) -> Iterator[Item]:
    """Go through items and show how far it is; a pass of less than a second shows nothing."""
    start = said = time.monotonic()
    bar = task = None
    try:
        for number, item in enumerate(items):
            yield item
            if (now := time.monotonic()) - start < _QUIET_SECONDS:
                continue
            if sys.stderr.isatty():
                if bar is None or task is None:
                    bar, task = _bar(title, total)
                bar.update(task, completed=number + 1)
            elif now - said > _LINE_SECONDS:
                said = now
                sys.stderr.write(f"{title}: {number + 1:,}{_pace(number + 1, total, now - start)}\n")
    finally:
        if bar is not None:
            bar.stop()


def _pace(done: int, total: int | None, seconds: float) -> str:
    """Say how fast it goes and, where the end is known, how long it takes yet."""
    rate = done / max(seconds, 1e-9)
    left = f", {max(total - done, 0) / rate:,.0f} s left" if total else ""
    return f"{f' of {total:,}' if total else ''}, {rate:,.1f} a second{left}"


def _bar(title: str, total: int | None) -> tuple[Progress, TaskID]:
    """Start a bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items a second, of late."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.1f} a second")

    left = [TextColumn("left"), TimeRemainingColumn()] if total else []
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn(), *left]
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.start()
    return bar, bar.add_task(title, total=total)
