"""`twoway run` and `plan`: do a recipe, or say what it costs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from .parser import print_table

if TYPE_CHECKING:
    import argparse

    from rich.table import Table

    from twoway.recipes.dry_run import Forecast
    from twoway.recipes.plan import Plan, StagePlan

RUN_HELP = """Do the stages of a recipe one after the other: convert, pre-train and what follows, each from the model of the one before.

RECIPE is a YAML file with `base`, `stages` and keys that all stages share. OUT gets a folder a stage (1-convert, 2-pretrain, …), and
recipe.yaml with every setting, run.json, report.html. What is done is kept, what was cut off goes on: give the same command again.
A stage whose settings, data, code version or base have changed is refused with the difference; --redo does it again, and what follows.
Words: seed=1 sets a key of the whole recipe, '*.max_steps=1' one of every stage that has it, pretrain.lr=1e-5 of one stage."""
RUN_EXAMPLE = """twoway run recipes/nano-moca.yaml out --dry-run                 (stages, rows, tokens, time, memory; nothing is done)
  twoway run recipes/nano-moca.yaml out                           (give it again after a stop: it goes on)
  twoway run recipes/nano-moca.yaml out pretrain.lr=3e-4 --redo   (convert is kept, pretrain done again)"""


def configure_run(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file")
    parser.add_argument("out", metavar="OUT", help="folder of the run; new, or a run to go on with")
    parser.add_argument("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the recipe")
    parser.add_argument("--data", metavar="SPEC", action="append", default=[], help="a source, instead of the shared data of the recipe")
    parser.add_argument("--from", dest="start", metavar="STAGE", help="begin with this stage; those before it are used as they stand")
    parser.add_argument("--only", metavar="STAGE", help="this stage alone; those before it are used as they stand")
    parser.add_argument("--redo", action="store_true", help="do stale stages again; with --from or --only also stages that are done")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and what it would cost, and do nothing")
    parser.add_argument("--nproc", metavar="N", type=int, default=1, help="ranks of the training stages on this machine (default: 1)")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run_run(args: argparse.Namespace) -> int:
    """Run, go on, or forecast; 143 where SIGTERM and 130 where Ctrl-C stopped it, with everything saved."""
    from twoway.processes import Stopped
    from twoway.recipes.dry_run import dry_run
    from twoway.recipes.run import run as run_recipe

    words = [*args.words]
    if args.data:
        words.append("data=" + json.dumps([{"spec": spec} for spec in args.data]))
    options = {"start": args.start, "only": args.only, "redo": args.redo, "nproc": args.nproc}
    if args.dry_run:
        forecasts = dry_run(args.recipe, args.out, words, **options)
        if args.json:
            sys.stdout.write(json.dumps([one.as_json() for one in forecasts], ensure_ascii=False, indent=2) + "\n")
        else:
            show_run(args.recipe, forecasts)
        return 1 if any(one.problems for one in forecasts) else 0
    try:
        result = run_recipe(args.recipe, args.out, words, **options)
    except Stopped as stopped:
        sys.stderr.write(f"twoway run: {stopped}\n")
        return stopped.code
    if args.json:
        sys.stdout.write(json.dumps(result.as_json(), ensure_ascii=False, indent=2) + "\n")
    else:
        done = [one["name"] for one in result.stages if one["action"] in ("do", "again", "go on")]
        what = f"{', '.join(done)} done" if done else "all done already"
        sys.stdout.write(f"{result.out}: {what}; the whole of it is in {result.out}/report.html\n")
    return 0


def show_run(recipe: str, forecasts: tuple[Forecast, ...]) -> None:
    """Print a line for each stage, what the figures rest on, and what stands in the way."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    table = Table(title=recipe, title_justify="left")
    for column in ("stage", "what is done"):
        table.add_column(column, overflow="fold")
    for column in ("steps", "rows", "tokens", "time", "memory"):
        table.add_column(column, justify="right", overflow="fold")
    for one in forecasts:
        table.add_row(one.name, one.said, *one.cells())
    print_table(console, table)
    for line in dict.fromkeys(note for one in forecasts for note in one.notes):
        console.print(line, markup=False)
    for one in forecasts:
        for problem in one.problems:
            console.print(f"{one.name}: {problem}", markup=False)


# `twoway plan`: what a recipe costs at full size, on hardware that is not here.

PLAN_HELP = """Say what a recipe costs at full size: operations, tokens, hours, money, and what fits in memory.

Nothing is loaded but the model's config, and no data is read. Operations are counted from the model's parts (tower, merger, language
model, head at masked words, decoder, attention), with frozen parts, adapters, activations computed again and gradient caching. Lengths
of rows, the share of the peak that is reached and prices are assumptions, listed below the figures, each with the option that replaces
it. Where the data is on this machine, 'twoway run RECIPE OUT --dry-run' reads its lengths instead."""
PLAN_EXAMPLE = """twoway plan recipes/moca-3b.yaml --hardware h200x8
  twoway plan recipes/moca-3b.yaml --hardware h100x32 --tokens pretrain=30e9 --price 2.50
  twoway plan recipes/cocoa-2b.yaml --hardware h200x8 --source mmeb-train=662_000:70:0.8:600:20:0.3:600"""


def configure_plan(parser: argparse.ArgumentParser) -> None:
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


def run_plan(args: argparse.Namespace) -> int:
    """Plan, and show it."""
    from twoway.recipes.plan import plan

    options = {name: getattr(args, name) for name in ("tokens", "utilisation", "padding", "price")}
    found = plan(args.recipe, args.hardware, args.words, sources=args.source, **options)
    if args.json:
        sys.stdout.write(json.dumps(found.as_json(), ensure_ascii=False, indent=2) + "\n")
    else:
        show_plan(found)
    return 0


def show_plan(found: Plan) -> None:
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
