"""`twoway index`: a folder of vectors into a database that is searched."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from twoway.errors import UsageError

from .embed import line
from .options import add_limits, add_on_bad, add_opening, json_text, limits, opening, words

if TYPE_CHECKING:
    import argparse

    from twoway.search.index import IndexResult
    from twoway.stages.embed_write import EmbedResult

HELP = """Bring what 'twoway embed' wrote into a database: new rows are added, rows with a known id take the old one's place.

With --model, DIR is the data itself (PDFs, pictures, JSONL, …): it is embedded first, as 'twoway embed --as document' does.
--db is a folder (LanceDB), a Milvus server (milvus://host:port/collection) or a Milvus Lite file (NAME.db). Rows keep their text, their
place, a thumbnail and their metadata, which filters may name. The database remembers the model; vectors of another are refused. Small ones
are searched exactly; larger ones get an index whose recall is measured against exact search. The same command goes on after any end."""
EXAMPLE = """twoway index vectors --db my-index
  twoway index my-pdfs --model Qwen/Qwen3-VL-Embedding-2B --db my-index --on-bad skip
  twoway index more-vectors --db milvus://localhost:19530/pages --exact-below 100000 --recall 0.98
  twoway index --db my-index --delete scans/old.png notes.jsonl:7 --compact"""


_SHOWN = 10  # ids that an answer names


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("vectors", metavar="DIR", nargs="?", help="folder of vectors that 'twoway embed' wrote; with --model, the data")
    parser.add_argument("--model", metavar="MODEL", help="a folder or a hub id: embed DIR with it, and index the vectors")
    parser.add_argument("--out", metavar="DIR", help="with --model: folder of the vectors (default: that of --db, with -vectors behind it)")
    parser.add_argument("--db", metavar="PATH", required=True, help="a folder, NAME.db, or milvus://host:port/collection")
    parser.add_argument("--delete", metavar="ID", nargs="+", default=[], help="take these items out")
    parser.add_argument("--compact", action="store_true", help="give back the space of what was replaced and deleted")
    parser.add_argument(
        "--no-thumbnails", dest="thumbnails", action="store_false", help="leave pictures out; else the embedded data is read again for them"
    )
    parser.add_argument("--root", metavar="DIR", help="folder that picture paths are relative to (default: as when embedded)")
    parser.add_argument("--ids", choices=("own", "place"), default="own", help="name items by their own ids, or by file and row")
    parser.add_argument("--exact-below", metavar="N", type=int, default=50_000, help="compare all vectors below this many")
    parser.add_argument("--kind", default="hnsw", metavar="KIND", help="index above that size: hnsw, ivf or ivf-pq (the smallest)")
    parser.add_argument("--recall", metavar="X", type=float, default=0.95, help="recall that index is set to; 0 measures nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace the database by one of these vectors alone")
    model = parser.add_argument_group("with --model")
    add_opening(model)
    add_on_bad(model)
    add_limits(parser)
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run(args: argparse.Namespace) -> int:
    """Index, and say what lies there."""
    from dataclasses import asdict

    from twoway.search.index import index

    names = ("delete", "compact", "thumbnails", "root", "ids", "exact_below", "kind", "recall", "overwrite")
    asked = {name: getattr(args, name) for name in names}
    asked["delete"] = [words(name, "--delete") for name in args.delete]
    made = _embedded(args)
    result = index(args.vectors if made is None else made.out, args.db, limits=limits(args), **asked)
    if args.json:
        sys.stdout.write(json_text(asdict(result)))
    else:
        sys.stdout.write("\n".join([*([] if made is None else [line(made)]), *_lines(result)]) + "\n")
    return 0


def _embedded(args: argparse.Namespace) -> EmbedResult | None:
    """Embed the data where a model is named, and say what that gave."""
    said = {name: value for name, value in opening(args).items() if value != "auto"}
    if args.model is None:
        given = [*said, *(["on_bad"] if args.on_bad != "fail" else []), *(["out"] if args.out else [])]
        if given:
            raise UsageError(f"--{given[0].replace('_', '-')} is for data that is embedded first; name the model with --model")
        return None
    if args.vectors is None:
        raise UsageError("--model embeds data; name it: twoway index DATA --model MODEL --db PATH")
    if args.out is None and args.db.startswith("milvus"):
        raise UsageError("a Milvus server keeps no folder of vectors; name one with --out")
    from twoway.stages.embed import embed

    out = args.out or f"{args.db.rstrip('/')}-vectors"
    how = {"side": "document", "on_bad": args.on_bad, "root": args.root, "overwrite": args.overwrite, "limits": limits(args)}
    return embed(args.model, args.vectors, out, **how, **said)


def _lines(result: IndexResult) -> list[str]:
    """Say it in words."""
    did = {"added": result.added, "replaced": result.replaced, "there already": result.unchanged, "deleted": result.deleted}
    said = ", ".join(f"{count:,} {what}" for what, count in did.items() if count) or "nothing to do"
    lines = [f"{result.db}: {result.items:,} items ({said}); {result.pictures:,} thumbnails made; {result.seconds:.1f} s"]
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
