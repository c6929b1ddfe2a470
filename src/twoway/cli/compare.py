"""`twoway compare`: are the differences between models more than luck."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from .options import print_table

if TYPE_CHECKING:
    import argparse

HELP = """Compare results of twoway evaluate, item by item: each file against the first.

A difference is the later file minus the first on the items that both have, with its 95% interval by a paired bootstrap; where the interval
leaves zero out, the line says which one is better, and else that the difference may be luck. The files of items lie beside the results."""
EXAMPLE = """twoway compare causal.json two-way.json
  twoway compare base.json a.json b.json --picture differences.svg
  twoway compare base.json a.json b.json --json"""

WIDTH = 160  # of a table in a file or a pipe


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("first", metavar="FIRST", help="results that the others are compared with")
    parser.add_argument("others", metavar="OTHER", nargs="+", help="more results")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--picture", metavar="FILE", help="draw the differences with their intervals, as FILE.svg or FILE.html")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run(args: argparse.Namespace) -> int:
    """Compare and show a table for each pair."""
    import dataclasses

    from rich.console import Console
    from rich.table import Table

    from twoway.evaluation.compare import compare
    from twoway.stages.compare_picture import check_picture, write_picture

    if args.picture is not None:
        check_picture(args.picture)
    found = {other: compare(args.first, other, seed=args.seed) for other in args.others}
    if args.picture is not None:
        write_picture(args.picture, args.first, found)
    if args.json:
        lines = {other: [dataclasses.asdict(line) for line in differences] for other, differences in found.items()}
        sys.stdout.write(json.dumps({"first": args.first, "others": lines}, indent=2) + "\n")
        return 0
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for other, differences in found.items():
        table = Table(title=f"{other} against {args.first}", title_justify="left")
        table.add_column("task")
        for title in ("n", "first", "this", "difference", "95%"):
            table.add_column(title, justify="right")
        table.add_column("")
        for line in differences:
            gap = line.second - line.first
            verdict = ("better" if gap > 0 else "worse") if line.sure else "may be luck"
            numbers = f"{line.first:.3f}", f"{line.second:.3f}", f"{gap:+.3f}", f"{line.low:+.3f} to {line.high:+.3f}"
            table.add_row(line.what, str(line.n), *numbers, verdict)
        print_table(console, table)
    return 0
