"""How a command of the repository runs: errors in one line, and the exit codes of `twoway` (0 done, 1 it failed, 2 it was used wrongly)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from twoway.cli.parser import Parser
from twoway.errors import TwowayError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


def parser(name: str, description: str, example: str) -> Parser:
    """Return the parser of `python -m tools.NAME`."""
    return Parser(prog=f"python -m tools.{name}", description=description.strip(), epilog=f"example:\n  {example.strip()}")


def run(asked: Parser, work: Callable[[argparse.Namespace], int], words: Sequence[str] | None) -> int:
    """Parse the words, do the work and return the exit code."""
    args = asked.parse_args(words)
    try:
        return work(args)
    except TwowayError as error:
        sys.stderr.write(f"{asked.prog}: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{asked.prog}: interrupted; nothing half-written is left\n")
        return 130
