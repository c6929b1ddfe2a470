"""`twoway study`: arms that differ in one thing each, trained and scored with several seeds, and the claims that they decide."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from twoway.errors import UsageError

from .parser import print_table

if TYPE_CHECKING:
    import argparse

    from twoway.study.forecast import StudyForecast

STUDY_HELP = """Test claims: train arms that differ in one thing each, with several seeds, score them on the same items, and say what holds.

STUDY is a YAML file: a base, stages that arms share (each is done once), arms, seeds, claims. OUT gets results/ARM/seed-N.json as
twoway evaluate writes them, study.json, gate.json, report.html, and a log of each job in logs/. Jobs run in processes of one thread each.
What is done is kept, what was cut off goes on: give the same command again. A job that fails takes along what needs it and nothing else;
the command then ends with 1 and names its log. Where the base does not look at its pictures, or the first arm does not clear chance, the
study says that it cannot decide, and why. --report writes what stands in OUT, all of it, as it was last run; it runs nothing.
Words: seeds=[1] sets a key of the study, finetune.rows=640 one of all arms, arms.causal.lr=1e-4 or stages.moca.rows=6400 one of one."""
STUDY_EXAMPLE = """twoway study studies/quick.yaml out --dry-run            (jobs, rows, time; nothing is done)
  twoway study studies/quick.yaml out --jobs 2             (give it again after a stop: it goes on)
  twoway study studies/full.yaml out --claims 2,3          (what these claims need, and no more)
  twoway study studies/quick.yaml out --write results.md   (and write the results as a page, beside the papers' figures)"""

WIDTH = 140  # of a table in a file or a pipe
ENDED = ("done", "in part")


def configure_study(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("study", metavar="STUDY", help="YAML file")
    parser.add_argument("out", metavar="OUT", help="folder of the study; new, or a study to go on with")
    parser.add_argument("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the study")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes at a time, of one thread each (default: one for each core)")
    parser.add_argument("--claims", metavar="1,2", help="do, or forecast, only what claims of these numbers need")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and what it would cost, and do nothing")
    parser.add_argument(
        "--report", action="store_true", help="write the report, and with --write the page, of what stands in OUT; run nothing"
    )
    parser.add_argument("--write", metavar="FILE", type=Path, help="write the results as a Markdown page, too")
    parser.add_argument(
        "--also",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="with --write, a further study on the page; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run_study(args: argparse.Namespace) -> int:
    """Run, go on, or forecast; 1 where something failed or nothing can be decided, 143 and 130 where a signal stopped it."""
    from twoway.processes import Stopped

    _require_said_together(args)
    jobs = args.jobs if args.jobs is not None else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if args.dry_run:
        from twoway.study.forecast import forecast_study

        found = forecast_study(args.study, args.out, args.words, jobs=jobs, claims=_numbers(args.claims))
        if args.json:
            sys.stdout.write(json.dumps(found.as_json(), ensure_ascii=False, indent=2) + "\n")
        else:
            show_forecast(args.study, found)
        return 1 if found.problems else 0
    if args.report:
        return _report(args)
    from twoway.study import page
    from twoway.study.run import run_grid

    try:
        result = run_grid(args.study, args.out, args.words, jobs=jobs, claims=_numbers(args.claims), seen=page.write_study_page)
    except Stopped as stopped:
        sys.stderr.write(f"twoway study: {stopped}\n")
        return stopped.code
    written = _pages(args)
    if args.json:
        sys.stdout.write(json.dumps(result.as_json(), ensure_ascii=False, indent=2) + "\n")
        return 0 if result.state in ENDED else 1
    for job, error, log in result.failed:
        sys.stdout.write(f"{job} failed: {error} (log: {log})\n")
    _said(args, f"{result.state}{f': {result.why}' if result.why else ''}; {result.done} jobs done", written)
    return 0 if result.state in ENDED else 1


def _require_said_together(args: argparse.Namespace) -> None:
    """Refuse what a call would not obey: nothing that is said is left out in silence."""
    if args.also and args.write is None:
        raise UsageError("--also names studies for the page of --write FILE; give that, too")
    for folder in args.also:
        from twoway.study.outcomes import facts

        facts(folder)  # one that is none is met before any work, not hours later
    if args.dry_run and (args.report or args.write):
        raise UsageError(f"--dry-run writes nothing; leave it out, or {'--report' if args.report else '--write'}")
    if args.report:
        said = {"--claims": args.claims is not None, "--jobs": args.jobs is not None, f"{(*args.words, '')[0]}": bool(args.words)}
        for name in (name for name, given in said.items() if given):
            raise UsageError(f"--report runs nothing and shows all that stands in {args.out}, so leave out {name}")


def _report(args: argparse.Namespace) -> int:
    """Write what a reader looks at, of a study that has been run."""
    from twoway.study.outcomes import require_study

    require_study(args.out, args.study)
    written = _pages(args)
    if args.json:
        sys.stdout.write(json.dumps({"out": args.out, "written": [str(path) for path in written]}, ensure_ascii=False, indent=2) + "\n")
    else:
        _said(args, "nothing run", written)
    return 0


def _numbers(text: str | None) -> tuple[int, ...]:
    """Read the numbers of claims; none where the option is not given."""
    try:
        return tuple(int(one) for one in text.split(",")) if text is not None else ()
    except ValueError:
        raise UsageError(f"--claims takes numbers of claims with commas between them, not {text!r}") from None


def _pages(args: argparse.Namespace) -> list[Path]:
    """Write what a reader looks at."""
    from twoway.study import page

    written = page.write_study_page(args.out)
    return written if args.write is None else written + page.write_study_results([args.out, *args.also], args.write)


def _said(args: argparse.Namespace, what: str, written: list[Path]) -> None:
    sys.stdout.write(f"{args.out}: {what}; {', '.join(str(path) for path in written)}\n")


def show_forecast(study: str, found: StudyForecast) -> None:
    """Print a line for each kind of job, the whole, and what stands in the way."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    table = Table(title=study, title_justify="left")
    for column in ("job", "from"):
        table.add_column(column, no_wrap=True)
    for column in ("times", "done", "rows", "tokens", "time each", "memory"):
        table.add_column(column, justify="right", overflow="fold")
    for line in found.lines:
        table.add_row(*line.cells())
    print_table(console, table)
    console.print(found.said, markup=False)
    for text in (*found.notes, *found.problems):
        console.print(text, markup=False)
