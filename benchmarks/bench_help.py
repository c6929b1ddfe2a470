"""What the help of a verb costs beside a bare interpreter, in seconds of a processor; the goal is at most 0.3 s more."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

ROUNDS = 9
GOAL = 0.3


def main() -> None:
    """Run a bare interpreter and the help of every verb in turns, and print the medians."""
    from twoway.cli.verbs import VERBS

    commands = {"bare interpreter": ["-c", "pass"], "twoway --help": ["-m", "twoway", "--help"]}
    commands |= {f"twoway {verb} --help": ["-m", "twoway", verb, "--help"] for verb in VERBS}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, words in commands.items():
            before = _spent()
            subprocess.run([sys.executable, *words], check=True, capture_output=True)
            taken[name].append(_spent() - before)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    bare = medians.pop("bare interpreter")
    print(f"\nProgram start, processor seconds over those of a bare interpreter ({bare:.3f}); goal: {GOAL:.3f}")
    for name, seconds in medians.items():
        print(f"  {name:24s} {seconds - bare:6.3f}")


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
