"""`twoway data check`: look at the data of a recipe before any training."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from twoway.stages.data_check import DataReport, SourceReport

HELP = """Look at training data before any training: `data check` opens every source, counts, shows a row, and lists what is bad.

WHAT is a recipe (a YAML file) or one source, as --data takes it. With --model a row of each source is shown as that model sees it: the
decoded prompt, the grid of each picture, and its tokens by kind. Exit code 1 where a row is bad or a source cannot be opened."""
EXAMPLE = """twoway data check recipes/nano-pretrain.yaml --model samples/base
  twoway data check captions.jsonl --decode"""
_LISTED = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", metavar="check", required=True)
    check = actions.add_parser("check", help="open, count, show, list what is bad", description=HELP, epilog=f"example:\n  {EXAMPLE}")
    check.set_defaults(_parser=check)
    check.add_argument("what", metavar="WHAT", help="a recipe, or one source")
    check.add_argument("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the recipe")
    check.add_argument("--model", metavar="BASE", help="hub id or folder of the model that will read the data; its weights are not loaded")
    check.add_argument("--rows", metavar="N", type=int, help="look at the first N rows of each source alone (default: all; streams: 64)")
    check.add_argument("--decode", action="store_true", help="decode every picture, not its header alone")
    check.add_argument("--json", action="store_true", help="answer in JSON, every bad row in it")


def run(args: argparse.Namespace) -> int:
    """Check, print, and say with the exit code whether all is well."""
    from twoway.stages.data_check import check_data

    report = check_data(args.what, model=args.model, words=args.words, rows=args.rows, decode=args.decode)
    if args.json:
        sys.stdout.write(json.dumps(report.as_json(), ensure_ascii=False, indent=2) + "\n")
    else:
        show(report)
    return 0 if report.ok else 1


def show(report: DataReport) -> None:
    """Print a table of counts, then a row and the bad rows of each source."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    table = Table(title=report.what, title_justify="left")
    table.add_column("source", overflow="fold")
    for column in ("rows", "an epoch", "with text", "pictures", "characters", "megapixels", "bad"):
        table.add_column(column, justify="right", overflow="fold")
    for source in report.sources:
        numbers = (source.rows, source.rows_an_epoch, source.texts, source.pictures, source.characters)
        cells = [f"{number:,}" for number in numbers] + [f"{source.megapixels:,.1f}", f"{len(source.bad):,}"]
        table.add_row(source.name, *(["-"] * len(cells) if source.error else cells))
    console.print(table)
    for source in report.sources:
        for line in _lines(source):
            console.print(line, markup=False)
    wrong = sum(not source.ok for source in report.sources)
    console.print(f"all {len(report.sources)} sources are good" if report.ok else f"{wrong} of {len(report.sources)} sources are not good")


def _lines(source: SourceReport) -> list[str]:
    """Say what is to be said of one source."""
    if source.error:
        return ["", f"{source.name}: {source.error}"]
    lines = ["", f"{source.name}" + (f" (its first {source.only_first:,} rows)" if source.only_first else "")]
    if source.shown is not None:
        shown = source.shown
        lines.append(f"  row {shown.identity} at {shown.place}: " + " | ".join(shown.parts if shown.prompt is None else [shown.prompt]))
        lines += [f"  picture: {', '.join(f'{name} {value}' for name, value in picture.items())}" for picture in shown.pictures]
        if shown.tokens:
            lines.append(
                "  tokens: " + ", ".join(f"{count} {kind}" for kind, count in shown.tokens.items()) + (", cut" if shown.cut else "")
            )
    lines += [f"  bad: {reason}" for reason in source.bad[:_LISTED]]
    if len(source.bad) > _LISTED:
        lines.append(f"  and {len(source.bad) - _LISTED:,} more bad rows (--json lists them all)")
    return lines
