"""`twoway embed`: any amount of documents to a folder of vectors."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from twoway.errors import UsageError

from .options import add_limits, add_on_bad, add_opening, add_processes, limits, opening

if TYPE_CHECKING:
    import argparse

    from twoway.stages.embed_ray import Cluster
    from twoway.stages.embed_write import EmbedResult

HELP = """Embed any amount of text, pictures, pages or all of them into a folder of Parquet files, and go on where it was stopped.

MODEL is a folder or hub id: ours, any sentence-transformers model, a vision-language model, an adapter. --data takes JSONL, Parquet, PDFs,
folders of pictures, patterns ('scans/**/*.png'), data sets. OUT/part-*.parquet hold id, place of origin, text, metadata and vector;
OUT/manifest.json says by which model. The same command goes on after any end, a kill too: no row is lost and none is there twice."""
EXAMPLE = """twoway embed my-model --data scans --out vectors --as document
  twoway embed my-model --data products.jsonl 'more/*.parquet' --out vectors --dim 128 --precision int8 --recall --on-bad skip
  twoway embed my-model --data /shared/scans --out vectors --engine ray --ray-address auto"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    parser.add_argument("--data", metavar="SPEC", nargs="+", required=True, help="one source or several, read one behind the other")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the vectors; new, or one to go on with")
    parser.add_argument("--as", dest="side", choices=("query", "document"), help="put the model's prompt for this side before each row")
    parser.add_argument("--prompt", metavar="NAME", help="put the model's prompt of this name before each row")
    parser.add_argument("--instruction", metavar="TEXT", help="put this text before each row")
    parser.add_argument("--dim", metavar="N", type=int, help="keep the first N numbers of a vector (for Matryoshka models)")
    parser.add_argument(
        "--precision", choices=("float32", "float16", "int8", "binary"), default="float32", help="what a number is stored as"
    )
    parser.add_argument("--recall", action="store_true", help="measure and print what shorter and coarser vectors cost")
    add_opening(parser)
    add_processes(parser)
    parser.add_argument("--budget", metavar="TOKENS", type=int, help="tokens of a batch, padding included; more needs more memory")
    parser.add_argument("--workers", metavar="N", type=int, help="threads that decode, resize and tokenize ahead of the model")
    parser.add_argument("--root", metavar="DIR", help="folder that picture paths are relative to (default: that of the file)")
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
        from twoway.stages.embed_ray import Cluster

        return Cluster(**given)
    if given:
        raise UsageError("--ray-address, --actors, --actor-cpus and --actor-gpus are for --engine ray; say that too")
    return None


def run(args: argparse.Namespace) -> int:
    """Embed, and say what lies there."""
    from dataclasses import asdict

    from twoway.stages.embed import embed

    engine = {name: value for name in ("budget", "workers") if (value := getattr(args, name)) is not None}
    result = embed(
        args.model,
        args.data,
        args.out,
        side=args.side,
        instruction=args.instruction,
        prompt_name=args.prompt,
        dim=args.dim,
        precision=args.precision,
        on_bad=args.on_bad,
        shard_rows=args.shard_rows,
        measure_recall=args.recall,
        overwrite=args.overwrite,
        root=args.root,
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
    if args.recall:
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
