"""`twoway check`: the proof, as a table and an exit code."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from .options import print_table

if TYPE_CHECKING:
    import argparse

    from twoway.stages.check import Report
    from twoway.stages.check_bridge import BridgeReport

HELP = """Prove what a model's attention does: change later tokens, later images and the padding, and see which earlier states move.

For a transformers or sentence-transformers model, ours or not, text or vision-language. Every attention backend of this machine is tried,
unpadded and padded on either side. Exits with 1 where the model is not what it declares (in twoway.json, else in its config, else causal).

With --bridge the mask of the bridge stage is proved instead, on rows A [EOS] B: whatever changes in A, B moves only through EOS.
"""
EXAMPLE = """twoway check samples/base
  twoway check my-model --expect two-way --backends sdpa eager
  twoway check my-model --bridge"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--expect", choices=("two-way", "causal"), help="what the model must be (default: what it declares)")
    what.add_argument("--bridge", action="store_true", help="prove the bridge mask on a two-way model, with each of its options")
    parser.add_argument(
        "--backends",
        nargs="+",
        metavar="NAME",
        choices=("sdpa", "eager", "flex_attention", "flash_attention_2"),
        help="attention backends to try (default: all; on a CPU flex_attention runs unfused)",
    )
    parser.add_argument("--processor", metavar="DIR", help="where the processor is (default: with the model)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="float32", help="precision to run in")
    parser.add_argument("--device", default="cpu", help="device to run on")
    parser.add_argument("--json", action="store_true", help="print the whole report, with every number, for a program")


def run(args: argparse.Namespace) -> int:
    """Check, print, and say with the exit code whether the model is what it declares."""
    settings = {"backends": args.backends, "processor": args.processor, "dtype": args.dtype, "device": args.device}
    report: Report | BridgeReport
    if args.bridge:
        from twoway.stages.check_bridge import check_bridge

        report = check_bridge(args.model, **settings)
    else:
        from twoway.stages.check import check

        report = check(args.model, expect=args.expect, **settings)
    if args.json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2, ensure_ascii=False) + "\n")
    else:
        show(report)
    return 0 if report.ok else 1


def show(report: Report | BridgeReport) -> None:
    """Print the table, what decides the verdict, and the verdict."""
    from rich.console import Console
    from rich.table import Table

    from twoway.stages.check_bridge import BridgeReport

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    columns = list(dict.fromkeys((cell.kind, cell.padding) for cell in report.cells))
    table = Table(title=f"{report.model} ({report.family}, {report.dtype} on {report.device})", title_justify="left")
    table.add_column("attention")
    for kind, padding in columns:
        table.add_column(f"{kind}\n{'unpadded' if padding == 'none' else 'padded ' + padding}")
    cells = {(cell.group, cell.kind, cell.padding): cell for cell in report.cells}
    for group in dict.fromkeys(cell.group for cell in report.cells):
        found = [cells.get((group, *column)) for column in columns]
        table.add_row(group, *(f"{cell.verdict}\n{cell.largest:.1e}" if cell else "" for cell in found))
    print_table(console, table)
    for line in _bridge_lines(report) if isinstance(report, BridgeReport) else _lines(report):
        console.print(line, markup=False)


def _lines(report: Report) -> list[str]:
    lines = ["numbers: the furthest an earlier state moves, in lengths of a state (where it leaks: the furthest this row moves)"]
    lines += [f"{one.what}: {one.reason}" for one in report.skipped]
    lines += [f"embedding beside {name}: moves by {moved:.1e}" for name, moved in report.embedding.items()]
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"why: {report.reason}"] if report.reason else []
    said = f"declared {report.declared.attention} ({report.declared.by or 'nothing says otherwise'})"
    return [*lines, f"{'yes' if report.ok else 'NO'}: {report.model}: {said}, measured {report.verdict}"]


def _bridge_lines(report: BridgeReport) -> list[str]:
    lines = ["numbers: the furthest a state moves that must stay, in lengths of a state"]
    lines += [f"{one.what}: {one.reason}" for one in report.skipped]
    lines += [f"why: {report.reason}"] if report.reason else []
    said = "B learns of A through EOS alone" if report.ok else "the bridge does not hold"
    return [*lines, f"{'yes' if report.ok else 'NO'}: {report.model}: {said}, measured {report.verdict}"]
