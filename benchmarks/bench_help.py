"""How long `twoway --help` takes beside a bare interpreter start; the goal is at most 0.3 s more."""

from __future__ import annotations

import subprocess
import sys

from .side_by_side import side_by_side, table


def main() -> None:
    """Run both in turns and print the table."""

    def starts(*words: str) -> None:
        subprocess.run([sys.executable, *words], check=True, capture_output=True)

    seconds = side_by_side(
        {"bare interpreter": lambda: starts("-c", "pass"), "twoway --help": lambda: starts("-m", "twoway", "--help")}, rounds=10
    )
    table("Program start", seconds)
    print(f"  more than a bare start: {seconds['twoway --help'] - seconds['bare interpreter']:.3f} s (goal: 0.300)")
