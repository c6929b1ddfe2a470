"""`twoway data`, `mine` and `samples`: check and prepare data, find hard negatives, and look at the shipped samples."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .parser import add_limits, add_on_bad, add_opening, add_processes, limits, opening, print_table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from twoway.data.config import PairSource
    from twoway.recipes.data_check import DataReport, PairsCheck, PairsReport, SourceReport
    from twoway.recipes.data_prepare import Preparation

DATA_HELP = """Look at training data before any training: `data check` opens every source, counts, shows a row, and lists what is bad.

WHAT is a recipe (a YAML file) or one source, as --data takes it. With --model a row of each source is shown as that model sees it: the
decoded prompt, the grid of each picture, and its tokens by kind. Pairs (a recipe of finetune, or --pairs) are measured side by side; rows
whose query is nearly their answer are listed, and with --against those that hold a text or picture of an evaluation set, pictures that
look the same included. Exit code 1 where a row is bad or a source cannot be opened; what is suspect is listed and no error.

`data prepare` takes the same WHAT, looks through all of it by several processes, and keeps what it finds for every run (--help of it)."""
PREPARE = """Find out once what training needs to know of its data: where each row is, how long it is, what is bad. On any machine,
without a GPU, by several processes; training with the same data then begins at once, in every stage, arm and run.

WHAT is a recipe (every source of every stage is prepared as that stage reads it) or one source, as --data takes it. With a model (the
recipe's base, or --model) rows are measured with its processor; its weights are not loaded. Streams of the hub are copied up to their cap,
and training then needs no network. What is there already is kept, and a call that was cut off goes on. It lies in the cache: $TWOWAY_CACHE,
or ~/.cache/twoway, or --cache-dir (training: cache_dir=DIR). Rows that are cut at max_length are listed; exit code 1 where a row is bad or
lost (a picture that no row has room for), or a source cannot be opened or would lose more than max_bad_share of its rows."""
DATA_EXAMPLE = """twoway data check recipes/nano-pretrain.yaml --model samples/base
  twoway data check captions.jsonl --decode
  twoway data check samples:train --pairs --against samples:test --model samples/base
  twoway data prepare recipes/nano-moca.yaml --processes 2"""
_LISTED = 10


def configure_data(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", metavar="check|prepare", required=True)
    check = actions.add_parser(
        "check", help="open, count, show, list what is bad", description=DATA_HELP, epilog=f"example:\n  {DATA_EXAMPLE}"
    )
    check.set_defaults(_parser=check)
    check.add_argument("what", metavar="WHAT", help="a recipe, or one source")
    check.add_argument("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the recipe")
    check.add_argument("--model", metavar="BASE", help="hub id or folder of the model that will read the data; its weights are not loaded")
    check.add_argument("--rows", metavar="N", type=int, help="look at the first N rows of each source alone (default: all; streams: 64)")
    check.add_argument("--decode", action="store_true", help="decode every picture, not its header alone")
    check.add_argument(
        "--pairs", action="store_true", help="the source is pairs of a query and its answer (recipes and files of pairs say so themselves)"
    )
    check.add_argument("--against", metavar="SPEC", action="append", default=[], help="of pairs: an evaluation set that must not be in it")
    check.add_argument("--json", action="store_true", help="answer in JSON, every bad row in it")
    prepare = actions.add_parser(
        "prepare",
        help="find out once what training needs to know",
        description=PREPARE,
        epilog="example:\n  twoway data prepare recipes/moca-3b.yaml",
    )
    prepare.set_defaults(_parser=prepare)
    prepare.add_argument("what", metavar="WHAT", help="a recipe, or one source")
    prepare.add_argument("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the recipe")
    prepare.add_argument(
        "--model", metavar="BASE", help="hub id or folder of the model that will read the data (default: the recipe's base)"
    )
    prepare.add_argument("--pairs", action="store_true", help="the source is pairs of a query and its answer (recipes say so themselves)")
    prepare.add_argument("--processes", metavar="N", type=int, help="how many at once (default: one for each processor)")
    prepare.add_argument("--cache-dir", metavar="DIR", type=Path, help="where it is kept (default: $TWOWAY_CACHE, else ~/.cache/twoway)")
    prepare.add_argument("--json", action="store_true", help="answer in JSON, every bad row in it")


def run_data(args: argparse.Namespace) -> int:
    """Check or prepare, print, and say with the exit code whether all is well."""
    if args.action == "prepare":
        return _prepare(args)
    from twoway.data.readers import scan_options
    from twoway.recipes.data_check import check_data, check_pairs, pairs_of

    options = {"model": args.model, "rows": args.rows, "decode": args.decode}
    with scan_options(logged=False):  # what is odd stands in the report
        config = pairs_of(args.what, args.words, pairs=args.pairs or bool(args.against))
        if config is not None:
            found = check_pairs(args.what, config, against=args.against, **options)
            report: Any = found
        else:
            report = check_data(args.what, words=args.words, **options)
    if args.json:
        sys.stdout.write(json.dumps(report.as_json(), ensure_ascii=False, indent=2) + "\n")
    elif config is not None:
        show_pairs(report)
    else:
        show_report(report)
    return 0 if report.ok else 1


def _prepare(args: argparse.Namespace) -> int:
    from twoway.recipes.data_prepare import prepare_data

    how = {"model": args.model, "words": args.words, "pairs": args.pairs, "processes": args.processes, "cache_dir": args.cache_dir}
    found = prepare_data(args.what, **how)
    if args.json:
        sys.stdout.write(json.dumps(found.as_json(), ensure_ascii=False, indent=2) + "\n")
    else:
        show_prepared(found)
    return 0 if found.ok else 1


def show_prepared(found: Preparation) -> None:
    """Print a line for each source, then what is bad."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    table = Table(title=found.what, title_justify="left")
    for column in ("stage", "source"):
        table.add_column(column, overflow="fold")
    for column in ("rows", "bad", "lost", "cut", "MB", "rows/s"):
        table.add_column(column, justify="right", overflow="fold")
    for one in found.sources:
        counts = [f"{one.rows:,}", f"{len(one.bad):,}", *("-" if count is None else f"{count:,}" for count in (one.lost, one.cut))]
        speed = "known" if one.known else f"{one.rows_per_second:,.0f}"
        cells = ["-"] * 6 if one.error else [*counts, f"{one.bytes_read / 1e6:,.1f}", speed]
        table.add_row(one.stage, one.source, *cells)
    print_table(console, table)
    said = "lost: with a picture that no row has room for; cut: longer than max_length otherwise; known: prepared before"
    console.print(said, markup=False)
    for one in found.sources:
        for why in filter(None, (one.error, one.refused and f"training would stop: {one.refused}")):
            console.print(f"{one.stage}, {one.source}: {why}", markup=False)
        kinds = {"bad": (len(one.bad), one.bad), "lost": (one.lost or 0, one.lost_rows), "cut": (one.cut or 0, one.cut_rows)}
        for kind, (count, rows) in kinds.items():
            for reason in rows[:_LISTED]:
                console.print(f"  {kind}: {reason}", markup=False)
            if count > _LISTED:
                more = "all" if len(rows) == count else f"the first {len(rows)}"
                console.print(f"  and {count - _LISTED:,} more rows that are {kind} (--json lists {more})", markup=False)
    for note in found.notes:
        console.print(note, markup=False)
    wrong = sum(not one.ok for one in found.sources)
    good = f"all {len(found.sources)} sources are good" if found.ok else f"{wrong} of {len(found.sources)} sources are not good"
    console.print(f"{good}; kept in {found.cache}", markup=False)


def show_report(report: DataReport) -> None:
    """Print a table of counts, then a row and the bad rows of each source."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    table = Table(title=report.what, title_justify="left")
    table.add_column("source", overflow="fold")
    for column in ("rows", "an epoch", "with text", "pictures", "characters", "megapixels", "bad"):
        table.add_column(column, justify="right", overflow="fold")
    for source in report.sources:
        numbers = (source.rows, source.rows_an_epoch, source.texts, source.pictures, source.characters)
        cells = [f"{number:,}" for number in numbers] + [f"{source.megapixels:,.1f}", f"{len(source.bad):,}"]
        table.add_row(source.name, *(["-"] * len(cells) if source.error else cells))
    print_table(console, table)
    for source in report.sources:
        for line in _lines(source):
            console.print(line, markup=False)
    wrong = sum(not source.ok for source in report.sources)
    console.print(f"all {len(report.sources)} sources are good" if report.ok else f"{wrong} of {len(report.sources)} sources are not good")


def _lines(source: SourceReport) -> list[str]:
    """Say what is to be said of one source."""
    if source.error:
        return ["", f"{source.name}: {source.error}"]
    lines = ["", f"{source.name}" + (f" (its first {source.only_first:,} rows)" if source.only_first else "")]
    if source.shown is not None:
        shown = source.shown
        lines.append(f"  row {shown.identity} at {shown.place}: " + " | ".join(shown.parts if shown.prompt is None else [shown.prompt]))
        lines += [f"  picture: {', '.join(f'{name} {value}' for name, value in picture.items())}" for picture in shown.pictures]
        if shown.tokens:
            lines.append(
                "  tokens: " + ", ".join(f"{count} {kind}" for kind, count in shown.tokens.items()) + (", cut" if shown.cut else "")
            )
    lines += [f"  bad: {reason}" for reason in source.bad[:_LISTED]]
    if len(source.bad) > _LISTED:
        lines.append(f"  and {len(source.bad) - _LISTED:,} more bad rows (--json lists them all)")
    lines += _unread(source)
    return lines


def _unread(source: SourceReport | PairsReport) -> list[str]:
    """Say which pictures are not read, and which texts look like pictures."""
    lines = [f"  not read: {rows:,} rows have pictures in the column {name}" for name, rows in source.unread.items()]
    if source.named_pictures:
        from twoway.data.rows import describe_picture_paths

        lines.append(f"  {describe_picture_paths(source.named_pictures)}")
    return lines


def show_pairs(report: PairsCheck) -> None:
    """Print what stands on each side of each source, then a row of each and what is bad or suspect."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    table = Table(title=report.what, title_justify="left")
    table.add_column("source", overflow="fold")
    for column in ("side", "rows", "with text", "with picture", "characters", "pixels", "longest to shortest"):
        table.add_column(column, justify="right", overflow="fold")
    for source in report.sources:
        for side, one in source.sides.items():
            counts = [f"{number:,}" for number in (one.documents, one.with_text, one.with_picture)]
            spreads = [" ".join(f"{number:,}" for number in spread) or "-" for spread in (one.characters, one.pixels)]
            table.add_row(source.name if side == "query" else "", side, *counts, *spreads, f"{one.aspect:g}")
    print_table(console, table)
    console.print("characters and pixels: least, median, 95th percentile, most", markup=False)
    for source in report.sources:
        for line in _pair_lines(source, report.against):
            console.print(line, markup=False)
    if report.small:
        console.print(f"\n{report.small}; their batches are smaller (global_batch_size=N sets another size)", markup=False)
    wrong = sum(not source.ok for source in report.sources)
    console.print(f"all {len(report.sources)} sources are good" if report.ok else f"{wrong} of {len(report.sources)} sources are not good")


def _pair_lines(source: PairsReport, against: Sequence[str]) -> list[str]:
    """Say what is to be said of one source of pairs."""
    if source.error:
        return ["", f"{source.name}: {source.error}"]
    lines = ["", source.name + (f" (its first {source.only_first:,} rows)" if source.only_first else "")]
    lines.append("  tasks: " + ", ".join(f"{task or source.name} {rows:,}" for task, rows in source.tasks.items()))
    for side, shown in source.shown.items():
        tokens = "; tokens: " + ", ".join(f"{count} {kind}" for kind, count in shown.tokens.items()) if shown.tokens else ""
        lines.append(f"  {side} of {shown.identity}: " + " | ".join(shown.parts if shown.prompt is None else [shown.prompt]) + tokens)
    lines += _unread(source)
    said = [("bad", source.bad), ("query is nearly its answer", source.twins)]
    if against:
        said += [(f"in {', '.join(against)}", source.seen_exact), (f"looks like one in {', '.join(against)}", source.seen_near)]
    for what, rows in said:
        if rows or what != "bad":
            lines.append(f"  {what}: {len(rows):,} rows" + (", the first: " + "; ".join(rows[:3]) if rows else ""))
    return lines


# `twoway mine`: hard negatives for pairs.

MINE_HELP = """Find hard negatives: for each pair's query, what a model takes for near and is not right.

Candidates are the positives of all pairs of the same task, and the rows of --corpus. The positive, its copies (by content and by vector)
and the answers of other rows with the same query are never taken. Sources are those of 'twoway finetune': a SPEC each, or the data of a
recipe, with its templates and caps; of a stream of the hub the first --cap rows are copied beside the vectors.

OUT/part-*.parquet are pairs for finetune, each negative with its score, rank and place; OUT.vectors keeps the vectors, so that another
choice costs no embedding. The same command goes on after any end."""
MINE_EXAMPLE = """twoway mine my-model --data samples:train --out mined --num-negatives 3 --range-min 5 --relative-margin 0.05
  twoway mine my-model --data pairs.jsonl --corpus pages.parquet --out mined --random-share 0.25 --absolute-margin 0.05
  twoway mine my-model --data hub:OWNER/PAIRS:train --cap 100000 --out mined
  twoway mine my-model --recipe recipes/moca-finetune.yaml --out mined"""


def configure_mine(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id: ours, or any that gives vectors")
    parser.add_argument("--data", metavar="SPEC", nargs="+", default=[], help="pairs: columns query, positive and so on")
    parser.add_argument("--recipe", metavar="FILE", help="the pairs that this recipe of finetune trains on; --data replaces them")
    parser.add_argument("--cap", metavar="N", type=int, help="of each source named here the first N rows; a stream of the hub needs it")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the pairs with negatives; new, or one to go on with")
    parser.add_argument("--corpus", metavar="SPEC", nargs="+", default=[], help="more candidates, for queries of every task")
    parser.add_argument("--num-negatives", metavar="N", type=int, default=7, help="how many a query gets")
    parser.add_argument("--range-min", metavar="N", type=int, default=0, help="skip the N nearest of the wrong candidates")
    parser.add_argument("--range-max", metavar="N", type=int, default=100, help="take none beyond the Nth of them")
    parser.add_argument("--absolute-margin", metavar="X", type=float, help="a negative scores at least X less than the positive")
    parser.add_argument(
        "--relative-margin", metavar="X", type=float, help="the same as a share of the positive's score (0.05: at most 95%% of it)"
    )
    parser.add_argument("--max-score", metavar="X", type=float, help="a negative scores at most X")
    parser.add_argument("--min-score", metavar="X", type=float, help="a negative scores at least X")
    parser.add_argument("--random-share", metavar="X", type=float, default=0.0, help="share of the negatives drawn from all candidates")
    parser.add_argument(
        "--sampling-strategy", choices=("top", "random"), default="top", help="within the range take the nearest, or draw among all of them"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--query-prompt", metavar="TEXT", help="text before a query (default: the model's prompt for queries)")
    parser.add_argument("--query-prompt-name", metavar="NAME", help="the model's prompt of this name before a query")
    parser.add_argument("--corpus-prompt", metavar="TEXT", help="text before a candidate (default: the prompt for documents)")
    parser.add_argument("--corpus-prompt-name", metavar="NAME", help="the model's prompt of this name before a candidate")
    parser.add_argument("--vectors", metavar="DIR", help="where the vectors are kept (default: OUT.vectors)")
    add_opening(parser)
    add_processes(parser)
    parser.add_argument("--overwrite", action="store_true", help="take away the pairs in OUT and begin anew; vectors stay")
    add_on_bad(parser, listed="bad-rows.jsonl beside the vectors")
    add_limits(parser)
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run_mine(args: argparse.Namespace) -> int:
    """Mine, and say what came out."""
    from dataclasses import asdict, fields

    from twoway.data.config import PairSource, SourceConfig
    from twoway.errors import UsageError
    from twoway.methods.mine import mine
    from twoway.methods.negatives import NegativeChoice

    data: Sequence[PairSource] = [PairSource(spec, cap=args.cap) for spec in args.data]
    if args.recipe is not None and not data:
        from twoway.recipes.data_check import pairs_of

        recipe = pairs_of(args.recipe, [], pairs=True)
        data = recipe.data if recipe is not None else ()
    if not data:
        raise UsageError("no pairs are named; pass --data SPEC, or --recipe FILE with one that names some")

    prompts = ("query_prompt", "query_prompt_name", "corpus_prompt", "corpus_prompt_name")
    asked = {name: getattr(args, name) for name in (*(one.name for one in fields(NegativeChoice)), *prompts)}
    result = mine(
        args.model,
        data,
        args.out,
        corpus=[SourceConfig(spec, cap=args.cap) for spec in args.corpus],
        vectors=args.vectors,
        on_bad=args.on_bad,
        limits=limits(args),
        overwrite=args.overwrite,
        **asked,
        **opening(args),
    )
    if args.json:
        sys.stdout.write(json.dumps(asdict(result), ensure_ascii=False, indent=2) + "\n")
        return 0
    said = f"{result.out}: {result.rows:,} pairs with {result.negatives:,} mined negatives out of {result.candidates:,} candidates"
    said += f"; {result.short:,} pairs have fewer than {args.num_negatives}" if result.short else ""
    said += f"; {result.bad:,} bad rows left out" if result.bad else ""
    lines = [said, *(f"  left out by {name}: {count:,}" for name, count in result.left_out.items() if count)]
    if result.root:
        lines.append(f"  pictures stay in {result.root}, which {result.out} remembers")
    lines.append(f"  next: {shlex.join(['twoway', 'finetune', args.model, 'OUT', '--data', result.out])}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


# `twoway samples`: what the shipped samples hold.

SAMPLES_HELP = """List and describe the samples.

The samples are a small real world: pictures in several styles with names in several languages, flags, document pages, paragraphs.
A view is what `samples:NAME` reads wherever a command takes data."""
SAMPLES_EXAMPLE = """twoway samples
  twoway samples train --show 3"""


def configure_samples(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("view", nargs="?", metavar="NAME", help="describe one view (default: list all)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="with NAME, print its first N rows (default: 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of a view's random choices (default: 0)")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run_samples(args: argparse.Namespace) -> int:
    """List, or describe."""
    answer = _describe(args.view, args.seed, args.show) if args.view else _list()
    if args.json:
        sys.stdout.write(json.dumps(answer, ensure_ascii=False, indent=2) + "\n")
    else:
        sys.stdout.write(_plain(answer))
    return 0


def _list() -> dict[str, Any]:
    """Count the tables and name the views."""
    from twoway.data.samples import TABLES, VIEWS, load_world

    world = load_world()
    styles = Counter((row["style"], row["half"]) for row in world.pictures)
    return {
        "folder": str(world.folder),
        "tables": {name: len(getattr(world, name)) for name in TABLES},
        "pictures": {style: {half: styles[style, half] for half in ("seen", "unseen")} for style in sorted({style for style, _ in styles})},
        "views": {f"samples:{name}": one.what for name, one in VIEWS.items()},
    }


def _describe(name: str, seed: int, show: int) -> dict[str, Any]:
    """Count a view's rows by task, and give the first few."""
    from twoway.data import samples

    one = samples.view(name)
    if one.pairs:
        pairs = list(samples.pairs(name, seed=seed))
        rows = [f"[{pair.task}] {_words(pair.query)}  ->  {_words(pair.positive)}" for pair in pairs[:show]]
        counts: dict[str, int] = dict(sorted(Counter(pair.task for pair in pairs).items()))
        return {"view": f"samples:{name}", "what": one.what, "rows": len(pairs), "tasks": counts, "first": rows}
    documents = list(samples.documents(name, seed=seed))
    return {"view": f"samples:{name}", "what": one.what, "rows": len(documents), "first": [_words(row) for row in documents[:show]]}


def _words(document: Any) -> str:
    """Write a document on one line, pictures by their row's id."""
    shown = document.meta.get("id") or document.meta.get("ids")
    return " + ".join(getattr(part, "text", f"<picture {shown}>").replace("\n", " / ") for part in document.parts)


def _plain(answer: dict[str, Any]) -> str:
    """Write an answer for reading: a table for each mapping, a line for each value."""
    lines = []
    for key, value in answer.items():
        if isinstance(value, dict):
            lines.append(f"{key}:")
            wide = max(map(len, value), default=0)
            lines += [f"  {name:<{wide}}  {_cell(inner)}" for name, inner in value.items()]
        elif isinstance(value, list):
            lines += [f"  {one}" for one in value]
        else:
            lines.append(f"{key}: {value}")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    """Write one cell."""
    return ", ".join(f"{count} {name}" for name, count in value.items()) if isinstance(value, dict) else str(value)
