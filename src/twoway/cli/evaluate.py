"""`twoway evaluate`, `compare` and `mteb`: measure models."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from twoway.errors import UsageError

from .parser import add_on_bad, add_opening, add_processes, opening, print_table

EVALUATE_HELP = """Score a model on a suite, with what chance would give and how sure each score is.

MODEL is a checkpoint of ours, any sentence-transformers model, a VLM2Vec, MoCa or CoCoA checkpoint as its trainer left it, a causal
vision-language model with --pooling last, or a server of vectors by its address (openai:URL#MODEL). The suite mmeb takes any folder in
MMEB's layout: one folder a task with Parquet inside, columns qry_text, qry_img_path, tgt_text, tgt_img_path (the first candidate is right),
picture paths relative to the folder; tasks that MMEB does not have are scored too and listed apart. The suite pairs scores your own pairs,
in any form that 'twoway finetune' reads: each query among all answers and hard negatives of the files. The suite nano brings its own data:
pictures, questions, regions, pages and texts of things that fine-tuning on samples:train has not seen; beside the model it scores three
that cannot know (random, words alone, pixels alone). The suite vidore-v2 and mteb:NAME, any benchmark or task of mteb by name, are scored
by mteb itself, which fetches their data from the hub.

Each distinct content is embedded once and kept (in --cache), so a run that was cut off goes on where it was. Ties are no hits; for mmeb the
official score, in which they are, stands beside. A score that chance would reach is marked "at chance"."""
EVALUATE_EXAMPLE = """twoway evaluate out --suite nano --output nano.json --report nano.html
  twoway evaluate out --suite mmeb --data MMEB-eval --output results.json
  twoway evaluate out --suite mmeb --data MMEB-eval --tasks MSCOCO_i2t,OK-VQA --subset 200
  twoway evaluate out --suite pairs --data test.jsonl --output test.json --report test.html
  twoway evaluate out --suite vidore-v2 --output vidore.json
  twoway evaluate out --suite mteb:STS12
  twoway evaluate Qwen/Qwen2-VL-2B-Instruct --pooling last --suite mmeb --data MMEB-eval
  twoway evaluate openai-chat:http://localhost:8000/v1#my-model --suite nano
  twoway compare results-a.json results-b.json"""

WIDTH = 160  # of a table in a file or a pipe
_LISTED = 5


def configure_evaluate(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="folder, hub id, or openai:URL#MODEL")
    parser.add_argument("--suite", required=True, metavar="NAME", help="what to score on: mmeb, nano, pairs, vidore-v2 or mteb:NAME")
    parser.add_argument("--data", metavar="SPEC", nargs="+", default=[], help="folder of the suite's tasks; pairs, for the suite pairs")
    parser.add_argument("--cap", metavar="N", type=int, help="of each source of pairs the first N rows; a stream of the hub needs it")
    parser.add_argument("--tasks", metavar="A,B", help="only these (default: all that are there)")
    parser.add_argument("--output", metavar="FILE", help="write results here, and the outcome of every item beside it")
    parser.add_argument("--report", metavar="FILE", help="write a page here: scores beside chance, and queries with what they found")
    parser.add_argument("--subset", type=int, metavar="N", help="only N queries of each task, for a quick look")
    add_opening(parser)
    add_processes(parser)
    parser.add_argument("--cache", metavar="DIR", help="where vectors are kept (default: $TWOWAY_CACHE, else the user's cache folder)")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    add_on_bad(parser, listed="bad-rows.jsonl beside FILE")


def run_evaluate(args: argparse.Namespace) -> int:
    """Evaluate and show a table."""
    from twoway.data.config import PairSource
    from twoway.evaluation.evaluate import evaluate

    if args.cap is not None and not args.data:
        raise UsageError("--cap is of the sources that --data names; name one, or leave it out")
    found = evaluate(
        args.model,
        args.suite,
        data=args.data if args.cap is None else [PairSource(spec, cap=args.cap) for spec in args.data],
        tasks=[name.strip() for name in (args.tasks or "").split(",") if name.strip()],
        output=args.output,
        subset=args.subset,
        cache=args.cache,
        on_bad=args.on_bad,
        **opening(args),
    )
    if args.report is not None:
        from twoway.reports.evaluation import write_evaluation_report

        write_evaluation_report(args.report, found.found, found.results)
    if args.json:
        sys.stdout.write(json.dumps(found.found, indent=2, ensure_ascii=False) + "\n")
        return 0
    show_scores(found.found)
    sys.stderr.write(f"{found.embedded:,} contents embedded, {found.cached:,} taken from the cache\n")
    return 0


def show_scores(found: dict[str, Any]) -> None:
    """Print a table: a line a task, a line a group, the mean."""
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    table = Table(title=f"{found['suite']}: {found['model']}", title_justify="left")
    for title in ("task", "group", "metric"):
        table.add_column(title)
    beside = found.get("baselines", {})
    official = ["official"] if "official_mean" in found else []
    for title in ("strict" if official else "score", *official, "95%", "chance", *beside, "n", "tied", "left out"):
        table.add_column(title, justify="right")
    for name, one in found["tasks"].items():
        # The word stands beside the colour: not everyone sees red, and a file has no colour.
        score = f"[red]{one['score']:.3f} at chance[/red]" if one["at_chance"] else f"{one['score']:.3f}"
        between = "" if one["ci95"] is None else "{:.3f} to {:.3f}".format(*one["ci95"])
        luck = "" if one["chance"] is None else f"{one['chance']:.3f}"
        counts = ("" if one[count] is None else str(one[count]) for count in ("n", "tied", "left_out"))
        others = (f"{scores[name]:.3f}" for scores in beside.values())
        table.add_row(name, one["group"], one["metric"], score, *(f"{one[key]:.3f}" for key in official), between, luck, *others, *counts)
    table.add_section()
    for kind, group in found["groups"].items():
        table.add_row(kind, "", f"{group['tasks']} tasks", f"{group['score']:.3f}", *(f"{group[key]:.3f}" for key in official))
    means = [f"{found[key]:.3f}" for key in ("mean", "official_mean") if key in found]
    table.add_row("mean", "", f"{len(found['tasks'])} tasks", *means)
    print_table(console, table)
    if official:
        console.print("strict: a tie is no hit. official: as MMEB's released code counts, a tie is a hit.", markup=False)
    for name, one in found["tasks"].items():
        if doubled := one.get("doubled"):
            more = f" and {len(doubled) - _LISTED:,} more (all are in the results)" if len(doubled) > _LISTED else ""
            console.print(
                f"{name}: the right candidate comes twice in {len(doubled):,} rows, and counts once: {', '.join(doubled[:_LISTED])}{more}",
                markup=False,
            )


# `twoway compare`: are the differences between models more than luck.

COMPARE_HELP = """Compare results of twoway evaluate, item by item: each file against the first.

A difference is the later file minus the first on the items that both have, with its 95% interval by a paired bootstrap; where the interval
leaves zero out, the line says which one is better, and else that the difference may be luck. The files of items lie beside the results."""
COMPARE_EXAMPLE = """twoway compare causal.json two-way.json
  twoway compare base.json a.json b.json --picture differences.svg
  twoway compare base.json a.json b.json --json"""


def configure_compare(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("first", metavar="FIRST", help="results that the others are compared with")
    parser.add_argument("others", metavar="OTHER", nargs="+", help="more results")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--picture", metavar="FILE", help="draw the differences with their intervals, as FILE.svg or FILE.html")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run_compare(args: argparse.Namespace) -> int:
    """Compare and show a table for each pair."""
    import dataclasses

    from rich.console import Console
    from rich.table import Table

    from twoway.evaluation.compare import compare
    from twoway.reports.evaluation import check_picture, write_picture

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


# `twoway mteb`: mteb's own command, on a folder.

MTEB_HELP = """Run mteb's own command on a model of yours.

What follows is given to mteb as it stands: `twoway mteb run -m out -t STS12` is `mteb run -m out -t STS12`, for any model that evaluate
takes. mteb's command alone opens only what is in its registry or on the hub (there a checkpoint of ours works as it is, pictures included);
of a folder it says "No model implementation is available". Options of ours stand before mteb's words. Tasks and their data are fetched by
mteb from the hub; `mock-run` needs none. For tables with chance and intervals there is twoway evaluate --suite mteb:NAME."""
MTEB_EXAMPLE = """twoway mteb run -m out -t STS12 Vidore2ESGReportsHLRetrieval
  twoway mteb --cache vectors run -m out -b "ViDoRe(v2)" --output-folder results
  twoway mteb mock-run -m out
  twoway mteb run -m openai:http://localhost:8000/v1#name -t STS12"""


def configure_mteb(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_opening(parser)
    parser.add_argument("--cache", metavar="DIR", help="where vectors are kept (default: $TWOWAY_CACHE, else the user's cache folder)")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="WORDS", help="mteb's own words, such as: run -m MODEL -t TASK")


def run_mteb(args: argparse.Namespace) -> int:
    """Register the model and let mteb run."""
    if not args.words:
        raise UsageError("say what mteb should do, such as: twoway mteb run -m out -t STS12")
    from twoway.evaluation.evaluate import require_mteb

    require_mteb()
    from twoway.evaluation.mteb import mteb_command

    mteb_command(args.words, cache=args.cache, **opening(args))
    return 0
