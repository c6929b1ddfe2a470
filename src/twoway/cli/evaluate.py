"""`twoway evaluate`, `compare` and `mteb`: measure models."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from twoway.errors import UsageError

from .answers import answer, new_console, new_table, print_table
from .parser import read_settings

if TYPE_CHECKING:
    import argparse

    from twoway.evaluation.compare import Difference

WIDTH = 160  # of a table in a file or a pipe
_LISTED = 5


def run_evaluate(args: argparse.Namespace) -> int:
    """Evaluate and show a table."""
    from twoway.evaluation.evaluate import evaluate

    config = read_settings(args)
    if args.cap is not None:
        if not isinstance(config.data, tuple):
            raise UsageError("--cap is of the sources that --data names; name one, or leave it out")
        config = dataclasses.replace(config, data=tuple(dataclasses.replace(one, cap=args.cap) for one in config.data))
    found = evaluate(args.model, out=args.out, config=config)
    if args.report is not None:
        from twoway.reports.evaluation import write_evaluation_report

        write_evaluation_report(args.report, found.found, found.results)
    if not args.json:
        sys.stderr.write(f"{found.embedded:,} contents embedded, {found.cached:,} taken from the cache\n")
    return answer(args, found.found, lambda: show_scores(found.found))


def show_scores(found: dict[str, Any]) -> None:
    """Print a table: a line a task, a line a group, the mean."""
    from rich.text import Text

    console, beside = new_console(WIDTH), found.get("baselines", {})
    official = ["official"] if "official_mean" in found else []
    again = ["not reranked", "pairs", "seconds"] if "reranker" in found else []
    numbers = ("strict" if official else "score", *official, "95%", "chance", *beside, *again, "n", "tied", "left out")
    table = new_table(f"{found['suite']}: {found['model']}", ("task", "group", "metric"), numbers)
    for name, one in found["tasks"].items():
        # The word stands beside the colour: not everyone sees red, and a file has no colour.
        score: Text | str = Text(f"{one['score']:.3f} at chance", "red") if one["at_chance"] else f"{one['score']:.3f}"
        between = "" if one["ci95"] is None else "{:.3f} to {:.3f}".format(*one["ci95"])
        luck = "" if one["chance"] is None else f"{one['chance']:.3f}"
        counts = ("" if one[count] is None else str(one[count]) for count in ("n", "tied", "left_out"))
        others = [f"{scores[name]:.3f}" for scores in beside.values()]
        if again:
            cost = one["reranked"]
            others += [f"{cost['before']:.3f}", f"{cost['pairs']:,}", f"{cost['seconds']:.1f}"]
        table.add_row(name, one["group"], one["metric"], score, *(f"{one[key]:.3f}" for key in official), between, luck, *others, *counts)
    table.add_section()
    for kind, group in found["groups"].items():
        table.add_row(kind, "", f"{group['tasks']} tasks", f"{group['score']:.3f}", *(f"{group[key]:.3f}" for key in official))
    means = [f"{found[key]:.3f}" for key in ("mean", "official_mean") if key in found]
    table.add_row("mean", "", f"{len(found['tasks'])} tasks", *means)
    print_table(console, table)
    if official:
        console.print("strict: a tie is not a hit. official: as MMEB's released code counts, a tie is a hit.", markup=False)
    for name, one in found["tasks"].items():
        if doubled := one.get("doubled"):
            more = f" and {len(doubled) - _LISTED:,} more (all are in the results)" if len(doubled) > _LISTED else ""
            console.print(
                f"{name}: the right candidate comes twice in {len(doubled):,} rows, and counts once: {', '.join(doubled[:_LISTED])}{more}",
                markup=False,
            )


def run_compare(args: argparse.Namespace) -> int:
    """Compare and show a table for each pair."""
    from twoway.evaluation.compare import compare
    from twoway.reports.evaluation import check_picture, write_picture

    config = read_settings(args)
    if args.picture is not None:
        check_picture(args.picture)
    found = {other: compare(args.first, other, config=config) for other in args.others}
    if args.picture is not None:
        write_picture(args.picture, args.first, found)
    lines = {other: [dataclasses.asdict(line) for line in differences] for other, differences in found.items()}
    return answer(args, {"first": args.first, "others": lines}, lambda: _show_differences(args.first, found))


def _show_differences(first: str, found: dict[str, list[Difference]]) -> None:
    console = new_console(WIDTH)
    for other, differences in found.items():
        table = new_table(f"{other} against {first}", ("task",), ("n", "first", "this", "difference", "95%"))
        table.add_column("")
        for line in differences:
            gap = line.second - line.first
            verdict = ("better" if gap > 0 else "worse") if line.sure else "may be luck"
            numbers = f"{line.first:.3f}", f"{line.second:.3f}", f"{gap:+.3f}", f"{line.low:+.3f} to {line.high:+.3f}"
            table.add_row(line.what, str(line.n), *numbers, verdict)
        print_table(console, table)


def run_mteb(args: argparse.Namespace) -> int:
    """Register the model and let mteb run."""
    if not args.mteb_words:
        raise UsageError("say what mteb should do, such as: twoway mteb run -m out -t STS12")
    from twoway.evaluation.evaluate import require_mteb

    require_mteb()
    from twoway.evaluation.mteb import mteb_command

    mteb_command(args.mteb_words, read_settings(args))
    return 0
