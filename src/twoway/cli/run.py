"""`twoway run`: a whole method with one command, the stages of a recipe one after the other."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from .options import print_table

if TYPE_CHECKING:
    import argparse

    from twoway.stages.dry_run import Forecast

HELP = """Do the stages of a recipe one after the other: convert, pre-train and what follows, each from the model of the one before.

RECIPE is a YAML file with `base`, `stages` and keys that all stages share. OUT gets a folder a stage (1-convert, 2-pretrain, …), and
recipe.yaml with every setting, run.json, report.html. What is done is kept, what was cut off goes on: give the same command again.
A stage whose settings, data, code version or base have changed is refused with the difference; --redo does it again, and what follows.
Words: seed=1 sets a key of the whole recipe, '*.max_steps=1' one of every stage that has it, pretrain.lr=1e-5 of one stage."""
EXAMPLE = """twoway run recipes/nano-moca.yaml out --dry-run                 (stages, rows, tokens, time, memory; nothing is done)
  twoway run recipes/nano-moca.yaml out                           (give it again after a stop: it goes on)
  twoway run recipes/nano-moca.yaml out pretrain.lr=3e-4 --redo   (convert is kept, pretrain done again)"""


def configure(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> int:
    """Run, go on, or forecast; 143 where SIGTERM and 130 where Ctrl-C stopped it, with everything saved."""
    from twoway.stages.dry_run import dry_run
    from twoway.stages.run_recipe import run as run_recipe
    from twoway.training.stop import Stopped

    words = [*args.words]
    if args.data:
        words.append("data=" + json.dumps([{"spec": spec} for spec in args.data]))
    options = {"start": args.start, "only": args.only, "redo": args.redo, "nproc": args.nproc}
    if args.dry_run:
        forecasts = dry_run(args.recipe, args.out, words, **options)
        if args.json:
            sys.stdout.write(json.dumps([one.as_json() for one in forecasts], ensure_ascii=False, indent=2) + "\n")
        else:
            show(args.recipe, forecasts)
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


def show(recipe: str, forecasts: tuple[Forecast, ...]) -> None:
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
