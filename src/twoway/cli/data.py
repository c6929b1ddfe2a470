"""`twoway data`, `mine`, `score` and `samples`: data is checked and prepared, negatives are found and scored, samples listed."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from .answers import answer, new_console, new_table, print_table, say
from .parser import read_settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from twoway.recipes.data_check import DataReport, DocumentsReport, PairsReport, SourceReport
    from twoway.recipes.data_prepare import Preparation

_LISTED = 10


def run_check(args: argparse.Namespace) -> int:
    """Check, print, and say with the exit code whether all is well."""
    from twoway.data.sources.readers import scan_options
    from twoway.recipes.data_check import PairsReport, check_data

    with scan_options(logged=False):  # what is odd stands in the report
        report: Any = check_data(args.what, words=args.words, config=read_settings(args))
    shown = show_pairs if isinstance(report.sources[0], PairsReport) else show_report
    return answer(args, report.as_json(), lambda: shown(report), 0 if report.ok else 1)


def run_prepare(args: argparse.Namespace) -> int:
    """Prepare, print, and say with the exit code whether all is well."""
    from twoway.recipes.data_prepare import prepare_data

    found = prepare_data(args.what, words=args.words, config=read_settings(args))
    return answer(args, found.as_json(), lambda: show_prepared(found), 0 if found.ok else 1)


def show_prepared(found: Preparation) -> None:
    """Print a line for each source, then what is bad."""
    console, table = new_console(), new_table(found.what, ("stage", "source"), ("rows", "bad", "lost", "cut", "MB", "rows/s"))
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


def show_report(report: DataReport[DocumentsReport]) -> None:
    """Print a table of counts, then a row and the bad rows of each source."""
    counted = ("rows", "an epoch", "with text", "pictures", "characters", "megapixels", "bad")
    console, table = new_console(), new_table(report.what, ("source",), counted)
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


def _lines(source: DocumentsReport) -> list[str]:
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


def _unread(source: SourceReport) -> list[str]:
    """Say which pictures are not read, and which texts look like pictures."""
    lines = [f"  not read: {rows:,} rows have pictures in the column {name}" for name, rows in source.unread.items()]
    if source.named_pictures:
        from twoway.data.rows import describe_picture_paths

        lines.append(f"  {describe_picture_paths(source.named_pictures)}")
    return lines


def show_pairs(report: DataReport[PairsReport]) -> None:
    """Print what stands on each side of each source, then a row of each and what is bad or suspect."""
    counted = ("side", "rows", "with text", "with picture", "characters", "pixels", "longest to shortest")
    console, table = new_console(), new_table(report.what, ("source",), counted)
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


def run_score(args: argparse.Namespace) -> int:
    """Score, and say what lies there."""
    from twoway.methods.score import score

    config = read_settings(args)
    result = score(args.model, config.data, args.out, config=config, overwrite=args.overwrite)
    bad = f"; {result.bad:,} rows left out" if result.bad else ""
    next_ = shlex.join(["twoway", "finetune", "BASE", "OUT", "--data", result.out, "loss.distill=kl"])
    lines = [f"{result.out}: {result.rows:,} pairs with the scores of {result.candidates:,} candidates{bad}", f"  next: {next_}"]
    return answer(args, asdict(result), lambda: say(*lines))


def run_mine(args: argparse.Namespace) -> int:
    """Mine, and say what came out."""
    from twoway.methods.mine import mine

    config = read_settings(args)
    if args.cap is not None:  # of what is named here; a recipe's sources have their own
        capped = {name: tuple(replace(one, cap=args.cap) for one in getattr(config, name)) for name in ("data", "corpus")}
        config = replace(config, **capped)
    data = config.data
    if args.recipe is not None and not data:
        from twoway.recipes.data_check import pairs_of

        recipe = pairs_of(args.recipe, [], pairs=True)
        data = recipe.data if recipe is not None else ()
    result = mine(args.model, data, args.out, config=config, vectors=args.vectors, overwrite=args.overwrite)
    said = f"{result.out}: {result.rows:,} pairs with {result.negatives:,} mined negatives out of {result.candidates:,} candidates"
    said += f"; {result.short:,} pairs have fewer than {config.num_negatives}" if result.short else ""
    said += f"; {result.bad:,} bad rows left out" if result.bad else ""
    lines = [said, *(f"  left out by {name}: {count:,}" for name, count in result.left_out.items() if count)]
    if result.root:
        lines.append(f"  pictures stay in {result.root}, which {result.out} remembers")
    lines.append(f"  next: {shlex.join(['twoway', 'finetune', args.model, 'OUT', '--data', result.out])}")
    return answer(args, asdict(result), lambda: say(*lines))


# `twoway samples`: what the shipped samples hold.


def run_samples(args: argparse.Namespace) -> int:
    """List, or describe."""
    config = read_settings(args)
    found = _describe(args.view, config.seed, config.show) if args.view else _list()
    return answer(args, found, lambda: say(*_plain(found)))


def _list() -> dict[str, Any]:
    """Count the tables and name the views."""
    from twoway.data.sources.samples import TABLES, VIEWS, load_world

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
    from twoway.data.sources import samples

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


def _plain(found: dict[str, Any]) -> list[str]:
    """Write an answer for reading: a table for each mapping, a line for each value."""
    lines = []
    for key, value in found.items():
        if isinstance(value, dict):
            lines.append(f"{key}:")
            wide = max(map(len, value), default=0)
            lines += [f"  {name:<{wide}}  {_cell(inner)}" for name, inner in value.items()]
        elif isinstance(value, list):
            lines += [f"  {one}" for one in value]
        else:
            lines.append(f"{key}: {value}")
    return lines


def _cell(value: Any) -> str:
    """Write one cell."""
    return ", ".join(f"{count} {name}" for name, count in value.items()) if isinstance(value, dict) else str(value)
