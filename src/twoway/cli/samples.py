"""`twoway samples`: what the shipped samples hold."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

HELP = """List and describe the samples.

The samples are a small real world: pictures in several styles with names in several languages, flags, document pages, paragraphs.
A view is what `samples:NAME` reads wherever a command takes data."""
EXAMPLE = """twoway samples
  twoway samples train --show 3"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("view", nargs="?", metavar="NAME", help="describe one view (default: list all)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="with NAME, print its first N rows (default: 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of a view's random choices (default: 0)")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run(args: argparse.Namespace) -> int:
    """List, or describe."""
    answer = _describe(args.view, args.seed, args.show) if args.view else _list()
    if args.json:
        sys.stdout.write(json.dumps(answer, ensure_ascii=False, indent=2) + "\n")
    else:
        sys.stdout.write(_plain(answer))
    return 0


def _list() -> dict[str, Any]:
    """Count the tables and name the views."""
    from twoway.data.samples import TABLES, VIEWS, load

    world = load()
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
