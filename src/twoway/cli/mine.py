"""`twoway mine`: hard negatives for pairs."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

from .options import add_limits, add_on_bad, add_opening, add_processes, limits, opening

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from twoway.data.pair_mixture import PairSource

HELP = """Find hard negatives: for each pair's query, what a model takes for near and is not right.

Candidates are the positives of all pairs of the same task, and the rows of --corpus. The positive, its copies (by content and by vector)
and the answers of other rows with the same query are never taken. Sources are those of 'twoway finetune': a SPEC each, or the data of a
recipe, with its templates and caps; of a stream of the hub the first --cap rows are copied beside the vectors.

OUT/part-*.parquet are pairs for finetune, each negative with its score, rank and place; OUT.vectors keeps the vectors, so that another
choice costs no embedding. The same command goes on after any end."""
EXAMPLE = """twoway mine my-model --data samples:train --out mined --negatives 3 --ranks 5 50 --share 0.95
  twoway mine my-model --data pairs.jsonl --corpus pages.parquet --out mined --random 0.25 --margin 0.05
  twoway mine my-model --data hub:OWNER/PAIRS:train --cap 100000 --out mined
  twoway mine my-model --recipe recipes/moca-finetune.yaml --out mined"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id: ours, or any that gives vectors")
    parser.add_argument("--data", metavar="SPEC", nargs="+", default=[], help="pairs: columns query, positive and so on")
    parser.add_argument("--recipe", metavar="FILE", help="the pairs that this recipe of finetune trains on; --data replaces them")
    parser.add_argument("--cap", metavar="N", type=int, help="of each source named here the first N rows; a stream of the hub needs it")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the pairs with negatives; new, or one to go on with")
    parser.add_argument("--corpus", metavar="SPEC", nargs="+", default=[], help="more candidates, for queries of every task")
    parser.add_argument("--negatives", metavar="N", type=int, default=7, help="how many a query gets")
    parser.add_argument(
        "--ranks", metavar=("FIRST", "LAST"), nargs=2, type=int, default=(1, 100), help="which of the wrong candidates, the nearest is 1"
    )
    parser.add_argument("--margin", metavar="X", type=float, help="a negative scores at least X less than the positive")
    parser.add_argument("--share", metavar="X", type=float, help="a negative scores at most this share of the positive (0.95, say)")
    parser.add_argument("--max-score", metavar="X", type=float, help="a negative scores at most X")
    parser.add_argument("--min-score", metavar="X", type=float, help="a negative scores at least X")
    parser.add_argument("--random", metavar="SHARE", type=float, default=0.0, help="share of the negatives drawn from all candidates")
    parser.add_argument(
        "--sampling", choices=("top", "random"), default="top", help="within the ranks take the nearest, or draw among all of them"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--query-instruction", metavar="TEXT", help="text before a query (default: the model's prompt for queries)")
    parser.add_argument("--document-instruction", metavar="TEXT", help="text before a candidate (default: the prompt for documents)")
    parser.add_argument("--vectors", metavar="DIR", help="where the vectors are kept (default: OUT.vectors)")
    add_opening(parser)
    add_processes(parser)
    parser.add_argument("--overwrite", action="store_true", help="take away the pairs in OUT and begin anew; vectors stay")
    add_on_bad(parser, listed="bad-rows.jsonl beside the vectors")
    add_limits(parser)
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run(args: argparse.Namespace) -> int:
    """Mine, and say what came out."""
    from dataclasses import asdict

    from twoway.data.mixture import SourceConfig
    from twoway.data.pair_mixture import PairSource
    from twoway.errors import UsageError
    from twoway.stages.mine import mine
    from twoway.stages.mine_choose import Choice

    data: Sequence[PairSource] = [PairSource(spec, cap=args.cap) for spec in args.data]
    if args.recipe is not None and not data:
        from twoway.stages.pair_check import pairs_of

        recipe = pairs_of(args.recipe, [], pairs=True)
        data = recipe.data if recipe is not None else ()
    if not data:
        raise UsageError("no pairs are named; pass --data SPEC, or --recipe FILE with one that names some")

    names = ("negatives", "margin", "share", "random", "sampling", "seed")
    wishes = {name: getattr(args, name) for name in names}
    choice = Choice(first=args.ranks[0], last=args.ranks[1], most=args.max_score, least=args.min_score, **wishes)
    prompts = [
        None if text is None else {"side": side, "instruction": text}
        for side, text in (("query", args.query_instruction), ("document", args.document_instruction))
    ]
    result = mine(
        args.model,
        data,
        args.out,
        corpus=[SourceConfig(spec, cap=args.cap) for spec in args.corpus],
        choice=choice,
        query_prompt=prompts[0],
        document_prompt=prompts[1],
        vectors=args.vectors,
        on_bad=args.on_bad,
        limits=limits(args),
        overwrite=args.overwrite,
        **opening(args),
    )
    if args.json:
        sys.stdout.write(json.dumps(asdict(result), ensure_ascii=False, indent=2) + "\n")
        return 0
    said = f"{result.out}: {result.rows:,} pairs with {result.negatives:,} mined negatives out of {result.candidates:,} candidates"
    said += f"; {result.short:,} pairs have fewer than {args.negatives}" if result.short else ""
    said += f"; {result.bad:,} bad rows left out" if result.bad else ""
    lines = [said, *(f"  left out by {name}: {count:,}" for name, count in result.left_out.items() if count)]
    if result.root:
        lines.append(f"  pictures stay in {result.root}, which {result.out} remembers")
    lines.append(f"  next: {shlex.join(['twoway', 'finetune', args.model, 'OUT', '--data', result.out])}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
