"""`twoway run` and `plan`: do a recipe, or say what it costs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from .answers import answer, new_console, new_table, print_table, say
from .parser import read_settings

_WIDTH = 140  # of a table in a file or a pipe

if TYPE_CHECKING:
    import argparse

    from rich.table import Table

    from twoway.recipes.dry_run import Forecast
    from twoway.recipes.plan import Plan, StagePlan


def run_run(args: argparse.Namespace) -> int:
    """Run, go on, or forecast; 143 where SIGTERM and 130 where Ctrl-C stopped it, with everything saved."""
    from twoway.processes import Stopped
    from twoway.recipes.dry_run import dry_run
    from twoway.recipes.run import run as run_recipe

    words = [*args.words]
    if args.data:
        words.append("data=" + json.dumps([{"spec": spec} for spec in args.data]))
    config = read_settings(args)
    if args.dry_run:
        forecasts = dry_run(args.recipe, args.out, words, **asdict(config))
        code = 1 if any(one.problems for one in forecasts) else 0
        return answer(args, [one.as_json() for one in forecasts], lambda: show_run(args.recipe, forecasts), code)
    try:
        result = run_recipe(args.recipe, args.out, words, config=config)
    except Stopped as stopped:
        sys.stderr.write(f"twoway run: {stopped}\n")
        return stopped.code
    done = [one["name"] for one in result.stages if one["action"] in ("do", "again", "go on")]
    what = f"{', '.join(done)} done" if done else "all done already"
    return answer(args, result.as_json(), lambda: say(f"{result.out}: {what}; the whole of it is in {result.out}/report.html"))


def show_run(recipe: str, forecasts: tuple[Forecast, ...]) -> None:
    """Print a line for each stage, what the figures rest on, and what stands in the way."""
    console, table = new_console(), new_table(recipe, ("stage", "what is done"), ("steps", "rows", "tokens", "time", "memory"))
    for one in forecasts:
        table.add_row(one.name, one.said, *one.cells())
    print_table(console, table)
    for line in dict.fromkeys(note for one in forecasts for note in one.notes):
        console.print(line, markup=False)
    for one in forecasts:
        for problem in one.problems:
            console.print(f"{one.name}: {problem}", markup=False)


# `twoway plan`: what a recipe costs at full size, on hardware that is not here.


def run_plan(args: argparse.Namespace) -> int:
    """Plan, and show it."""
    from twoway.recipes.plan import plan

    found = plan(args.recipe, args.hardware, args.words, config=read_settings(args))
    return answer(args, found.as_json(), lambda: show_plan(found))


def show_plan(found: Plan) -> None:
    """Print the stages, where their operations go, what fits, and what all of it rests on."""
    console = new_console(_WIDTH)
    model, machine = found.model, found.hardware
    console.print(f"{found.recipe}: {model.name}, {model.total:,} parameters, on {machine}")
    figures = ("steps", "rows", "tokens", "of pictures", "trained", "FLOPs", "MFU", "hours", "dollars")
    table = new_table("stages", ("stage",), figures)
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
    names = list(dict.fromkeys(name for one in found.stages for name in one.work.products.needed))
    table = new_table("operations, by part (computed more than once, in brackets)", ("stage",), names)
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
