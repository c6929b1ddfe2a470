"""What the answers of several verbs have in common: JSON or words, and tables that fit a terminal."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from twoway.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from rich.console import Console
    from rich.table import Table


def answer(args: argparse.Namespace, found: Any, show: Callable[[], object], code: int = 0) -> int:
    """Answer in JSON where that is asked for, else in words; return the exit code."""
    if args.json:
        # In letters that the output has.
        plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
        sys.stdout.write(json.dumps(found, ensure_ascii=plain, indent=2) + "\n")
    else:
        show()
    return code


def say(*lines: str) -> None:
    """Write lines to standard output."""
    sys.stdout.write("\n".join(lines) + "\n")


def words(given: str | None, name: str) -> str | None:
    """Return words of the command line as the text they are, though the system says that it knows ASCII alone (`LC_ALL=C`).

    Names of files stay as they came: they are bytes, and go back to the system as they are.
    """
    try:
        return None if given is None else os.fsencode(given).decode("utf-8")
    except UnicodeError as error:
        raise UsageError(f"{name} holds bytes that are not text in UTF-8; write it in UTF-8") from error


def new_console(width: int | None = None) -> Console:
    """Return where an answer goes; in a file or a pipe lines are this wide, or as long as they are.

    What stands in brackets or between colons is text: patterns of files have the one, and places the other.
    """
    from rich.console import Console

    piped = not sys.stdout.isatty()
    wide = width if piped else None
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=piped and width is None, width=wide)


def new_table(title: str, left: Sequence[str], right: Sequence[str] = ()) -> Table:
    """Return a table with columns of words, and of numbers."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", overflow="fold")
    return table


def print_table(console: Console, table: Table) -> None:
    """Print a table that breaks no word of a header and no number, or a few lines for each row where the terminal has no room for that."""
    widest = []
    for column in table.columns:
        shown = [str(cell) for cell in (column.header, *column.cells)]
        column.width = max(map(len, " ".join(shown if column.justify == "right" else shown[:1]).split()), default=1)
        column.overflow = "fold"
        widest.append(max(len(line) for text in shown for line in text.split("\n")))
    room = console.width - 1 - sum((column.width or 0) + 3 for column in table.columns)
    for column, most in zip(table.columns, widest, strict=True):
        more = max(0, min(room, most - (column.width or 0)))
        column.width, room = (column.width or 0) + more, room - more
    if room >= 0:
        console.print(table)
        return
    console.print(table.title or "", style="italic")
    headers = [" ".join(str(column.header).split()) for column in table.columns]
    for first, *cells in zip(*(column.cells for column in table.columns), strict=True):
        said = [f"{header} {' '.join(str(cell).split())}".strip() for header, cell in zip(headers[1:], cells, strict=True) if str(cell)]
        console.print(f"{first}\n  {'; '.join(said)}")
