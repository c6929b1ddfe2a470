"""Time two or more things in turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def side_by_side(things: Mapping[str, Callable[[], object]], *, rounds: int = 5, warm_up: int = 1) -> dict[str, float]:
    """Return each thing's median seconds over rounds in which every thing runs once."""
    for _ in range(warm_up):
        for thing in things.values():
            thing()
    times: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(rounds):
        for name, thing in things.items():
            start = time.perf_counter()
            thing()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def table(title: str, seconds: Mapping[str, float], *, work: Mapping[str, str] | None = None) -> None:
    """Print the medians and their ratio to the first thing."""
    first = next(iter(seconds.values()))
    print(f"\n{title}")
    print(f"  {'':34s} {'seconds':>10s} {'ratio':>7s}  work")
    for name, value in seconds.items():
        print(f"  {name:34s} {value:10.4f} {value / first:7.2f}  {(work or {}).get(name, '')}")
