"""`twoway study`: arms that differ in one thing each, trained and scored with several seeds, and the claims that they decide."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from twoway.errors import UsageError

from .answers import answer, new_console, new_table, print_table, say
from .parser import read_settings

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from twoway.study.config import StudyRunConfig
    from twoway.study.forecast import StudyForecast


WIDTH = 140  # of a table in a file or a pipe
ENDED = ("done", "in part")


def run_study(args: argparse.Namespace) -> int:
    """Run, go on, or forecast; 1 where something failed or nothing can be decided, 143 and 130 where a signal stopped it."""
    from twoway.processes import Stopped

    config = read_settings(args)
    _require_said_together(args, config)
    usual = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = usual if config.jobs is None else config.jobs
    if config.dry_run:
        from twoway.study.forecast import forecast_study

        found = forecast_study(args.study, args.out, args.words, jobs=jobs, claims=config.claims)
        return answer(args, found.as_json(), lambda: show_forecast(args.study, found), 1 if found.problems else 0)
    if config.report:
        return _report(args, config)
    from twoway.study import page
    from twoway.study.run import run_grid

    try:
        result = run_grid(args.study, args.out, args.words, jobs=jobs, claims=config.claims, seen=page.write_study_page)
    except Stopped as stopped:
        sys.stderr.write(f"twoway study: {stopped}\n")
        return stopped.code
    written = _pages(args.out, config)
    lines = [f"{job} failed: {error} (log: {log})" for job, error, log in result.failed]
    lines.append(_said(args.out, f"{result.state}{f': {result.why}' if result.why else ''}; {result.done} jobs done", written))
    return answer(args, result.as_json(), lambda: say(*lines), 0 if result.state in ENDED else 1)


def _require_said_together(args: argparse.Namespace, config: StudyRunConfig) -> None:
    """Refuse what a call would not obey: nothing that is said is left out in silence."""
    if config.report:
        said = {"--claims": bool(config.claims), "--jobs": config.jobs is not None, f"{(*args.words, '')[0]}": bool(args.words)}
        for name in (name for name, given in said.items() if given):
            raise UsageError(f"--report runs nothing and shows all that stands in {args.out}, so leave out {name}")


def _report(args: argparse.Namespace, config: StudyRunConfig) -> int:
    """Write what a reader looks at, of a study that has been run."""
    from twoway.study.outcomes import require_study

    require_study(args.out, args.study)
    written = _pages(args.out, config)
    found = {"out": args.out, "written": [str(path) for path in written]}
    return answer(args, found, lambda: say(_said(args.out, "nothing run", written)))


def _pages(out: str, config: StudyRunConfig) -> list[Path]:
    """Write what a reader looks at."""
    from twoway.study import page

    written = page.write_study_page(out)
    return written if config.write is None else written + page.write_study_results(out, config.write)


def _said(out: str, what: str, written: list[Path]) -> str:
    return f"{out}: {what}; {', '.join(str(path) for path in written)}"


def show_forecast(study: str, found: StudyForecast) -> None:
    """Print a line for each kind of job, the whole, and what stands in the way."""
    console = new_console(WIDTH)
    table = new_table(study, ("job", "from"), ("times", "done", "rows", "tokens", "time each", "memory"))
    for line in found.lines:
        table.add_row(*line.cells())
    print_table(console, table)
    console.print(found.said, markup=False)
    for text in (*found.notes, *found.problems):
        console.print(text, markup=False)
