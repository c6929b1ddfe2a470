"""`twoway embed`, `index` and `search`: from documents to answers."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from twoway.errors import UsageError

from .parser import add_limits, add_on_bad, add_opening, add_processes, json_text, limits, opening, words

if TYPE_CHECKING:
    import argparse

    from twoway.embedding.ray import Cluster
    from twoway.embedding.writing import EmbedResult
    from twoway.search.index import IndexResult

EMBED_HELP = """Embed any amount of text, pictures, pages or all of them into a folder of Parquet files, and go on where it was stopped.

MODEL is a folder or hub id: ours, any sentence-transformers model, a vision-language model, an adapter. --data takes JSONL, Parquet, PDFs,
folders of pictures, patterns ('scans/**/*.png'), data sets. OUT/part-*.parquet hold id, place of origin, text, metadata and vector;
OUT/manifest.json says by which model. The same command goes on after any end, a kill too: no row is lost and none is there twice."""
EMBED_EXAMPLE = """twoway embed my-model --data scans --out vectors --side document
  twoway embed my-model --data products.jsonl 'more/*.parquet' --out vectors --truncate-dim 128 --precision int8 --measure-recall
  twoway embed my-model --data /shared/scans --out vectors --engine ray --ray-address auto"""


_ROW_TEMPLATE = "read columns of other names, as '{title} {photo:image}'; or a ready format, such as pixelprose"


def configure_embed(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    parser.add_argument("--data", metavar="SPEC", nargs="+", required=True, help="one source or several, read one behind the other")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the vectors; new, or one to go on with")
    parser.add_argument("--side", choices=("query", "document"), help="put the model's prompt for this side before each row")
    parser.add_argument("--prompt", metavar="TEXT", help="put this text before each row")
    parser.add_argument("--prompt-name", metavar="NAME", help="put the model's prompt of this name before each row")
    parser.add_argument("--truncate-dim", metavar="N", type=int, help="keep the first N numbers of a vector (for Matryoshka models)")
    parser.add_argument(
        "--precision", choices=("float32", "float16", "int8", "binary"), default="float32", help="what a number is stored as"
    )
    parser.add_argument("--measure-recall", action="store_true", help="measure and print what shorter and coarser vectors cost")
    add_opening(parser)
    add_processes(parser)
    parser.add_argument("--budget", metavar="TOKENS", type=int, help="tokens of a batch, padding included; more needs more memory")
    parser.add_argument("--workers", metavar="N", type=int, help="threads that decode, resize and tokenize ahead of the model")
    parser.add_argument("--root", metavar="DIR", help="folder that picture paths are relative to (default: that of the file)")
    parser.add_argument("--row-template", metavar="TEXT", help=_ROW_TEMPLATE)
    parser.add_argument("--dpi", type=int, default=144, help="resolution of PDF pages")
    parser.add_argument("--shard-rows", metavar="N", type=int, default=2048, help="rows of input a file covers; a kill costs at most these")
    parser.add_argument("--overwrite", action="store_true", help="take away the vectors in DIR and begin anew")
    add_on_bad(parser)
    add_limits(parser)
    machines = parser.add_argument_group("many machines")
    machines.add_argument(
        "--engine", choices=("plain", "ray"), default="plain", help="this process alone, or actors of Ray that hold the model"
    )
    machines.add_argument(
        "--ray-address", metavar="ADDRESS", help="of a running cluster, or auto (default: Ray is started on this machine)"
    )
    machines.add_argument("--actors", metavar="N", type=int, help="at most so many actors (default: as many as there is room for)")
    machines.add_argument("--actor-cpus", metavar="N", type=float, help="cores an actor takes (default: 1)")
    machines.add_argument("--actor-gpus", metavar="N", type=float, help="GPUs an actor takes (default: 1 where the cluster has any)")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def _cluster(args: argparse.Namespace) -> Cluster | None:
    """Return the machines that work, or nothing for this process."""
    said = {"address": args.ray_address, "actors": args.actors, "cpus": args.actor_cpus, "gpus": args.actor_gpus}
    given = {name: value for name, value in said.items() if value is not None}
    if args.engine == "ray":
        from twoway.embedding.ray import Cluster

        return Cluster(**given)
    if given:
        raise UsageError("--ray-address, --actors, --actor-cpus and --actor-gpus are for --engine ray; say that too")
    return None


def run_embed(args: argparse.Namespace) -> int:
    """Embed, and say what lies there."""
    from dataclasses import asdict

    from twoway.embedding.bulk import embed

    engine = {name: value for name in ("budget", "workers") if (value := getattr(args, name)) is not None}
    result = embed(
        args.model,
        args.data,
        args.out,
        side=args.side,
        prompt=args.prompt,
        prompt_name=args.prompt_name,
        truncate_dim=args.truncate_dim,
        precision=args.precision,
        on_bad=args.on_bad,
        shard_rows=args.shard_rows,
        measure_recall=args.measure_recall,
        overwrite=args.overwrite,
        root=args.root,
        row_template=args.row_template,
        dpi=args.dpi,
        limits=limits(args),
        cluster=_cluster(args),
        **opening(args),
        **engine,
    )
    if args.json:
        sys.stdout.write(json.dumps(asdict(result), ensure_ascii=False, indent=2) + "\n")
        return 0
    sys.stdout.write(line(result) + "\n")
    if args.measure_recall:
        lines = [f"  {form:18s} {share:.3f}" for form, share in result.recall.items()]
        said = ["recall at 10 against whole float32 vectors, on a sample of the rows embedded now", *lines]
        sys.stdout.write("\n".join(said if lines else ["recall: too few rows were embedded now to measure it"]) + "\n")
    return 0


def line(result: EmbedResult) -> str:
    """Say what lies in a folder of vectors."""
    bad = f", {result.bad:,} bad and listed in {result.out}/bad-rows.jsonl" if result.bad else ""
    rate = f"{result.embedded / max(result.seconds, 1e-9):,.1f} a second"
    did = f"{result.embedded:,} embedded now, {rate}" if result.embedded else "all of them were there already"
    return f"{result.out}: {result.vectors:,} vectors of {result.dim} x {result.precision}{bad}; {did}"


# `twoway index`: a folder of vectors into a database that is searched.

INDEX_HELP = """Bring what 'twoway embed' wrote into a database: new rows are added, rows with a known id take the old one's place.

With --model, DIR is the data itself (PDFs, pictures, JSONL, …): it is embedded first, as 'twoway embed --side document' does.
--db is a folder (LanceDB), a Milvus server (milvus://host:port/collection) or a Milvus Lite file (NAME.db). Rows keep their text, their
place, a thumbnail and their metadata, which filters may name. The database remembers the model; vectors of another are refused. Small ones
are searched exactly; larger ones get an index whose recall is measured against exact search. The same command goes on after any end."""
INDEX_EXAMPLE = """twoway index vectors --db my-index
  twoway index my-pdfs --model Qwen/Qwen3-VL-Embedding-2B --db my-index --on-bad skip
  twoway index more-vectors --db milvus://localhost:19530/pages --exact-below 100000 --recall 0.98
  twoway index --db my-index --delete scans/old.png notes.jsonl:7 --compact"""


_SHOWN = 10  # ids that an answer names


def configure_index(parser: argparse.ArgumentParser) -> None:
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
    model.add_argument("--row-template", metavar="TEXT", help=_ROW_TEMPLATE)
    add_opening(model)
    add_on_bad(model)
    add_limits(parser)
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run_index(args: argparse.Namespace) -> int:
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
        given = [*said, *(["on_bad"] if args.on_bad != "fail" else []), *(name for name in ("out", "row_template") if getattr(args, name))]
        if given:
            raise UsageError(f"--{given[0].replace('_', '-')} is for data that is embedded first; name the model with --model")
        return None
    if args.vectors is None:
        raise UsageError("--model embeds data; name it: twoway index DATA --model MODEL --db PATH")
    if args.out is None and args.db.startswith("milvus"):
        raise UsageError("a Milvus server keeps no folder of vectors; name one with --out")
    from twoway.embedding.bulk import embed

    out = args.out or f"{args.db.rstrip('/')}-vectors"
    how = {"side": "document", "on_bad": args.on_bad, "root": args.root, "row_template": args.row_template, "overwrite": args.overwrite}
    return embed(args.model, args.vectors, out, limits=limits(args), **how, **said)


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


# `twoway search`: words, a picture, or both, answered from an index.

SEARCH_HELP = """Find in an index what is nearest to words, to a picture, or to both together, in any mix of texts, pictures and pages.

The index names its model, and only that answers (--model says where it lies now). --filter compares metadata: fields, = != < <= > >=, in,
has, like, between, is null, and, or, not. --hybrid fuses nearness with full-text search for the words themselves."""
SEARCH_EXAMPLE = """twoway search my-index "a fox in the snow"
  twoway search my-index "the same in blue" --image photo.jpg --filter "year >= 1990 and shelf = 'A'" --top-k 20
  twoway search milvus://localhost:19530/pages --like "report.pdf page 3" --json"""


def configure_search(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("index", metavar="INDEX", help="what 'twoway index' made: a folder, NAME.db, or milvus://host:port/collection")
    parser.add_argument("text", metavar="WORDS", nargs="*", help="what to look for, in quotation marks or without; always taken as text")
    parser.add_argument("--image", metavar="FILE", help="look for what is like this picture")
    parser.add_argument("--like", metavar="ID", help="look for what is like this item (needs no model)")
    parser.add_argument("-k", "--top-k", metavar="N", type=int, default=10, help="how many to show (default: %(default)s)")
    parser.add_argument("--filter", metavar="TEXT", help='only among items that this holds of: "year > 1990"')
    parser.add_argument("--hybrid", action="store_true", help="also look for the words in the texts, and fuse both")
    parser.add_argument("--exact", action="store_true", help="compare every vector, whatever the size")
    parser.add_argument("--side", choices=("query", "document"), default="query", help="the model's prompt for this side")
    parser.add_argument("--prompt", metavar="TEXT", help="put this text before the question instead")
    parser.add_argument("--prompt-name", metavar="NAME", help="put the model's prompt of this name before the question instead")
    parser.add_argument("--model", metavar="MODEL", help="where the model of the index lies now")
    add_opening(parser)
    parser.add_argument(
        "--pictures",
        choices=("auto", "blocks", "kitty", "iterm", "never"),
        default="auto",
        help="draw thumbnails: as the terminal can (auto), in half blocks, into a file too, or by kitty's or iTerm2's protocol",
    )
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run_search(args: argparse.Namespace) -> int:
    """Search, and show what was found."""
    from twoway.search.query import find

    names = ("like", "top_k", "filter", "hybrid", "exact", "side", "prompt", "prompt_name", "model")
    asked = {name: getattr(args, name) for name in names}
    for name, said in (("like", "--like"), ("filter", "--filter"), ("prompt", "--prompt")):
        asked[name] = words(asked[name], said)
    text = words(" ".join(args.text), "WORDS") or None
    hits = find(args.index, text, args.image, **asked, **({} if args.like else opening(args)))
    if args.json:
        found = [
            {"id": hit.item.id, "score": hit.score, "text": hit.item.text, "place": hit.item.place, "metadata": dict(hit.item.metadata)}
            for hit in hits
        ]
        sys.stdout.write(json_text(found))
        return 0
    from rich.console import Console

    from twoway.search.terminal import print_hits

    print_hits(hits, Console(file=sys.stdout, highlight=False), pictures=args.pictures)
    return 0
