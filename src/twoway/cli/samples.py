"""`twoway samples`: what the shipped samples hold, and building them again."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

HELP = """List and describe the samples, or build them again from the packages that they come from.

The samples are a small real world: pictures in several styles with names in several languages, flags, document pages, paragraphs.
A view is what `samples:NAME` reads wherever a command takes data. With --build OUT the tables are made anew from the packages (npm and
apt-get fetch them, each is checked by hash) and compared with the shipped ones; it exits 1 where they differ. With --with TERMS, OUT is a
copy of the shipped samples with one more table of pictures whose terms forbid shipping them: share-alike (OpenMoji) or gpl (Tux Paint)."""
EXAMPLE = """twoway samples
  twoway samples train --show 3
  twoway samples --build build/samples
  twoway samples --with share-alike --build more-samples"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("view", nargs="?", metavar="NAME", help="describe one view (default: list all)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="with NAME, print its first N rows (default: 0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of a view's random choices (default: 0)")
    parser.add_argument("--build", metavar="OUT", help="build the tables into this new folder")
    parser.add_argument("--with", dest="terms", metavar="TERMS", help="with --build, add pictures under other terms: share-alike or gpl")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run(args: argparse.Namespace) -> int:
    """List, describe or build."""
    from twoway.errors import UsageError

    if args.terms and not args.build:
        raise UsageError("--with TERMS needs --build OUT, a new folder to write to")
    if args.build and args.view:
        raise UsageError(f"--build takes no view; leave {args.view} out")
    if args.terms:
        return _build_with(args)
    if args.build:
        return _build(args)
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


def _build(args: argparse.Namespace) -> int:
    """Build, and compare with what is shipped."""
    from twoway.data.samples import samples_folder
    from twoway.files import sha256
    from twoway.world.build import build

    manifest = build(args.build)
    shipped = samples_folder()
    tables = manifest["tables"]
    differ = [name for name in tables if sha256(shipped / f"{name}.parquet") != tables[name]["sha256"]]
    if args.json:
        sys.stdout.write(json.dumps({**manifest, "differ": differ}, ensure_ascii=False, indent=2) + "\n")
        return int(bool(differ))
    sys.stdout.write(f"{args.build}: " + ", ".join(f"{table['rows']} {name}" for name, table in tables.items()) + "\n")
    if differ:
        sys.stdout.write(f"not equal to {shipped}: {', '.join(differ)}; compare built_with in both manifests\n")
    else:
        sys.stdout.write(f"equal to {shipped}, byte for byte\n")
    return int(bool(differ))


def _build_with(args: argparse.Namespace) -> int:
    """Build one more table under other terms."""
    from twoway.world.other_terms import build_with

    rows = build_with(args.terms, args.build)
    if args.json:
        sys.stdout.write(json.dumps({"out": args.build, "rows": rows}) + "\n")
    else:
        sys.stdout.write(f"{args.build}: the shipped samples and {rows} pictures under {args.terms} terms; do not ship these\n")
    return 0
