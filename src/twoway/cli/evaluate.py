"""`twoway evaluate`: a model's scores on a suite, with chance and interval."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from .options import add_on_bad, add_opening, add_processes, opening, print_table

if TYPE_CHECKING:
    import argparse

HELP = """Score a model on a suite, with what chance would give and how sure each score is.

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
EXAMPLE = """twoway evaluate out --suite nano --output nano.json --report nano.html
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


def configure(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> int:
    """Evaluate and show a table."""
    from twoway.data.pair_mixture import PairSource
    from twoway.errors import UsageError
    from twoway.stages.evaluate import evaluate

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
        from twoway.stages.evaluate_report import write_report

        write_report(args.report, found.found, found.results)
    if args.json:
        sys.stdout.write(json.dumps(found.found, indent=2, ensure_ascii=False) + "\n")
        return 0
    show(found.found)
    sys.stderr.write(f"{found.embedded:,} contents embedded, {found.cached:,} taken from the cache\n")
    return 0


def show(found: dict[str, Any]) -> None:
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
