"""`twoway plan`: what a recipe costs at full size, on hardware that is not here."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from .options import print_table

if TYPE_CHECKING:
    import argparse

    from rich.table import Table

    from twoway.stages.plan import Plan, StagePlan

HELP = """Say what a recipe costs at full size: operations, tokens, hours, money, and what fits in memory.

Nothing is loaded but the model's config, and no data is read. Operations are counted from the model's parts (tower, merger, language
model, head at masked words, decoder, attention), with frozen parts, adapters, activations computed again and gradient caching. Lengths
of rows, the share of the peak that is reached and prices are assumptions, listed below the figures, each with the option that replaces
it. Where the data is on this machine, 'twoway run RECIPE OUT --dry-run' reads its lengths instead."""
EXAMPLE = """twoway plan recipes/moca-3b.yaml --hardware h200x8
  twoway plan recipes/moca-3b.yaml --hardware h100x32 --tokens pretrain=30e9 --price 2.50
  twoway plan recipes/cocoa-2b.yaml --hardware h200x8 --source mmeb-train=662_000:70:0.8:600:20:0.3:600"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file of a recipe, as for 'twoway run'")
    parser.add_argument("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the recipe")
    parser.add_argument("--hardware", metavar="NAMExN", required=True, help="a100, h100, h200 or b200, and how many: h200x8")
    parser.add_argument("--tokens", metavar="STAGE=N", action="append", default=[], help="tokens that a stage reads, instead of its rows")
    fields = "rows and means of a source: NAME=ROWS:TEXT:PICTURES:TOKENS, for pairs :TEXT:PICTURES:TOKENS of the answer"
    parser.add_argument("--source", metavar="NAME=…", action="append", default=[], help=fields)
    share = "share of the peak reached in all operations that are done (default: 0.4, an assumption)"
    parser.add_argument("--utilisation", metavar="SHARE", type=float, default=0.4, help=share)
    parser.add_argument("--padding", metavar="SHARE", type=float, default=0.03, help="padding over the tokens (default: 0.03)")
    parser.add_argument("--price", metavar="DOLLARS", type=float, help="of one for an hour (default: an assumption, with its date)")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run(args: argparse.Namespace) -> int:
    """Plan, and show it."""
    from twoway.stages.plan import plan

    options = {name: getattr(args, name) for name in ("tokens", "utilisation", "padding", "price")}
    found = plan(args.recipe, args.hardware, args.words, sources=args.source, **options)
    if args.json:
        sys.stdout.write(json.dumps(found.as_json(), ensure_ascii=False, indent=2) + "\n")
    else:
        show(found)
    return 0


def show(found: Plan) -> None:
    """Print the stages, where their operations go, what fits, and what all of it rests on."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 140)
    model, machine = found.model, found.hardware
    console.print(f"{found.recipe}: {model.name}, {model.total:,} parameters, on {machine}")
    table = Table(title="stages", title_justify="left")
    for column in ("stage", "steps", "rows", "tokens", "of pictures", "trained", "FLOPs", "MFU", "hours", "dollars"):
        table.add_column(column, justify="left" if column == "stage" else "right", overflow="fold")
    for one in found.stages:
        table.add_row(*_cells(one))
    table.add_row("all", *[""] * 7, f"{found.hours:,.1f}", f"{found.price:,.0f}")
    print_table(console, table)
    print_table(console, _parts(found))
    print_table(console, _choices(found))
    for note in dict.fromkeys(found.notes):
        console.print(note, markup=False)


def _cells(one: StagePlan) -> list[str]:
    work = one.work
    return [
        one.name,
        f"{work.steps:,.0f}",
        f"{work.rows:,.0f}",
        f"{work.tokens / 1e9:,.2f} B",
        f"{work.image / work.tokens:.0%}",
        f"{one.trained / 1e6:,.1f} M",
        f"{work.products.total:.2e}",
        f"{one.mfu:.0%}",
        f"{one.hours:,.1f}",
        f"{one.price:,.0f}",
    ]


def _parts(found: Plan) -> Table:
    """Make the table of where operations go."""
    from rich.table import Table

    names = list(dict.fromkeys(name for one in found.stages for name in one.work.products.needed))
    table = Table(title="operations, by part (computed more than once, in brackets)", title_justify="left")
    table.add_column("stage")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for one in found.stages:
        made = one.work.products
        table.add_row(
            one.name,
            *(f"{(made.needed[name] + made.again[name]) / made.total:.1%} ({made.again[name] / made.total:.1%})" for name in names),
        )
    return table


def _choices(found: Plan) -> Table:
    """Make the table of what fits."""
    from rich.table import Table

    room = f"GiB of memory a rank has, of {found.hardware.memory / 2**30:,.0f}"
    table = Table(title=f"{room} (again: activations computed again; batch and largest in tokens)", title_justify="left")
    columns = ("stage", "batch", "ranks by", "again", "weights", "gradients", "AdamW", "bf16", "kept", "logits", "all", "fits", "largest")
    for column in columns:
        table.add_column(column, justify="left" if column in ("stage", "ranks by", "again") else "right", overflow="fold")
    for one in found.stages:
        for choice in one.choices:
            sizes = (choice.weights, choice.gradients, choice.optimizer, choice.copies, choice.activations, choice.logits, choice.total)
            table.add_row(
                one.name,
                f"{choice.places:,.0f}",
                choice.parallel,
                "yes" if choice.checkpointing else "no",
                *(f"{size / 2**30:,.1f}" for size in sizes),
                "yes" if choice.fits else "no",
                f"{choice.most:,.0f}",
            )
    return table
