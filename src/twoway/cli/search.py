"""`twoway search`: words, a picture, or both, answered from an index."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .options import add_opening, json_text, opening, words

if TYPE_CHECKING:
    import argparse

HELP = """Find in an index what is nearest to words, to a picture, or to both together, in any mix of texts, pictures and pages.

The index names its model, and only that answers (--model says where it lies now). --filter compares metadata: fields, = != < <= > >=, in,
has, like, between, is null, and, or, not. --hybrid fuses nearness with full-text search for the words themselves."""
EXAMPLE = """twoway search my-index "a fox in the snow"
  twoway search my-index "the same in blue" --image photo.jpg --filter "year >= 1990 and shelf = 'A'" -k 20
  twoway search milvus://localhost:19530/pages --like "report.pdf page 3" --json"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("db", metavar="PATH", help="what 'twoway index' made: a folder, NAME.db, or milvus://host:port/collection")
    parser.add_argument("text", metavar="WORDS", nargs="*", help="what to look for, in quotation marks or without; always taken as text")
    parser.add_argument("--image", metavar="FILE", help="look for what is like this picture")
    parser.add_argument("--like", metavar="ID", help="look for what is like this item (needs no model)")
    parser.add_argument("-k", metavar="N", type=int, default=10, help="how many to show (default: %(default)s)")
    parser.add_argument("--filter", dest="where", metavar="TEXT", help='only among items that this holds of: "year > 1990"')
    parser.add_argument("--hybrid", action="store_true", help="also look for the words in the texts, and fuse both")
    parser.add_argument("--exact", action="store_true", help="compare every vector, whatever the size")
    parser.add_argument("--as", dest="side", choices=("query", "document"), default="query", help="the model's prompt for this side")
    parser.add_argument("--instruction", metavar="TEXT", help="put this text before the question instead")
    parser.add_argument("--model", metavar="MODEL", help="where the model of the index lies now")
    add_opening(parser)
    parser.add_argument(
        "--pictures",
        choices=("auto", "blocks", "kitty", "iterm", "never"),
        default="auto",
        help="draw thumbnails: as the terminal can (auto), in half blocks, into a file too, or by kitty's or iTerm2's protocol",
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run(args: argparse.Namespace) -> int:
    """Search, and show what was found."""
    from twoway.search.query import find

    names = ("like", "k", "where", "hybrid", "exact", "side", "instruction", "model")
    asked = {name: getattr(args, name) for name in names}
    for name, said in (("like", "--like"), ("where", "--filter"), ("instruction", "--instruction")):
        asked[name] = words(asked[name], said)
    text = words(" ".join(args.text), "WORDS") or None
    hits = find(args.db, text, args.image, **asked, **({} if args.like else opening(args)))
    if args.json:
        found = [
            {"id": hit.item.id, "score": hit.score, "text": hit.item.text, "place": hit.item.place, "metadata": dict(hit.item.metadata)}
            for hit in hits
        ]
        sys.stdout.write(json_text(found))
        return 0
    from rich.console import Console

    from twoway.search.terminal import show

    show(hits, Console(file=sys.stdout, highlight=False), pictures=args.pictures)
    return 0
