"""`twoway embed`, `index` and `search`: from documents to answers."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from .answers import answer, say, words
from .parser import read_settings

if TYPE_CHECKING:
    import argparse

    from twoway.embedding.writing import EmbedResult
    from twoway.search.index import IndexResult
    from twoway.search.store import Hit

_SHOWN = 10  # ids that an answer names


def run_embed(args: argparse.Namespace) -> int:
    """Embed, and say what lies there."""
    from twoway.embedding.bulk import embed

    config = read_settings(args)
    result = embed(args.model, args.data, args.out, config=config, overwrite=args.overwrite)
    lines = [_embedded(result)]
    if config.measure_recall and result.recall:
        lines += ["recall at 10 against whole float32 vectors, on a sample of the rows embedded now"]
        lines += [f"  {form:18s} {share:.3f}" for form, share in result.recall.items()]
    elif config.measure_recall:
        lines += ["recall: too few rows were embedded now to measure it"]
    return answer(args, asdict(result), lambda: say(*lines))


def _embedded(result: EmbedResult) -> str:
    """Say what lies in a folder of vectors."""
    bad = f", {result.bad:,} bad and listed in {result.out}/bad-rows.jsonl" if result.bad else ""
    rate = f"{result.embedded / max(result.seconds, 1e-9):,.1f} a second"
    did = f"{result.embedded:,} embedded now, {rate}" if result.embedded else "all of them were there already"
    what = "rows of many vectors, each" if result.many else "vectors"
    return f"{result.out}: {result.vectors:,} {what} of {result.dim} x {result.precision}{bad}; {did}"


def run_index(args: argparse.Namespace) -> int:
    """Index, and say what lies there."""
    from twoway.search.index import index

    result = index(args.data, args.index, config=read_settings(args), overwrite=args.overwrite)
    made = [] if result.embedded is None else [_embedded(result.embedded)]
    return answer(args, asdict(result), lambda: say(*made, *_lines(result)))


def _lines(result: IndexResult) -> list[str]:
    """Say it in words."""
    did = {"added": result.added, "replaced": result.replaced, "there already": result.unchanged, "deleted": result.deleted}
    said = ", ".join(f"{count:,} {what}" for what, count in did.items() if count) or "nothing to do"
    lines = [f"{result.index}: {result.items:,} items ({said}); {result.pictures:,} thumbnails made; {result.seconds:.1f} s"]
    if result.missing:
        more = " …" if len(result.missing) > _SHOWN else ""
        lines.append(f"  not there, so not deleted: {', '.join(map(repr, result.missing[:_SHOWN]))}{more}")
    if result.bad_pictures:
        lines.append(f"  {result.bad_pictures:,} pictures cannot be read, their rows have none; listed in {result.bad_rows}")
    if not result.embedded_all:
        lines.append("  'twoway embed' has not ended on these vectors; run it on, and then this again")
    if result.kind == "exact":
        lines.append("  search compares every vector (exact)")
    else:
        lines.append(f"  search by {result.kind}, effort {result.effort}")
        lines += [
            f"    effort {one.effort:2d}: recall at 10 {one.recall:.3f}, {one.milliseconds:.1f} ms a search" for one in result.measured
        ]
    return lines


def run_search(args: argparse.Namespace) -> int:
    """Search, and show what was found."""
    from twoway.search.query import find

    text = words(" ".join(args.text), "WORDS") or None
    hits = find(args.index, text, args.image, config=read_settings(args))
    found = []
    for hit in hits:
        item = hit.item
        said = {"id": item.id, "score": hit.score} | hit.steps()
        said |= {"text": item.text, "place": item.place, "metadata": dict(item.metadata)}
        said |= {} if hit.why is None else {"why": hit.why.as_json()}
        found.append(said if hit.why_not is None else said | {"why_not": hit.why_not})
    return answer(args, found, lambda: _show(hits, args.pictures))


def _show(hits: list[Hit], pictures: str) -> None:
    from rich.console import Console

    from twoway.search.terminal import print_hits

    print_hits(hits, Console(file=sys.stdout, highlight=False), pictures=pictures)
