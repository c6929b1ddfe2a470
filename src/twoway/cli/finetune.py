"""`twoway finetune`: teach a model which texts and pictures belong together, from pairs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

HELP = """Teach a model which texts and pictures belong together, from pairs of a query and its answer, with or without hard negatives.

BASE is a hub id or a folder, a plain model or one that pretrain, bridge or convert made. OUT becomes an embedding model that
sentence-transformers loads. Rows have the columns query, positive and negatives (texts, pictures, or lists of parts), or a ready mapping
reads them (data: template). All rows of a step's batch belong to one task. Settings are key=value words over a recipe (a YAML file): batch,
lr, loss.temperature, hard_negatives, attention, pooling, prompts.query, eval_steps and so on; OUT/config.yaml shows them all. The same
command goes on where it stopped, also after a kill, and says so when all is done."""
EXAMPLE = """twoway finetune samples/base out --data samples:train --eval samples:test batch=64 max_steps=20 lr=3e-4 small_tasks=keep
  twoway finetune moca-cpt out --recipe recipes/moca-3b-finetune.yaml --nproc 8 parallel=fsdp
  twoway finetune Qwen/Qwen2-VL-2B-Instruct out --data pairs.jsonl attention=causal pooling=last   (as VLM2Vec does)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("base", metavar="BASE", help="hub id or folder of the model to start from")
    parser.add_argument("out", metavar="OUT", help="folder of the run; new, or a run to go on with")
    parser.add_argument("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the recipe")
    parser.add_argument("--data", metavar="SPEC", action="append", default=[], help="pairs; may be repeated; replaces the recipe's")
    parser.add_argument("--eval", metavar="SPEC", action="append", default=[], help="pairs to measure retrieval on; may be repeated")
    parser.add_argument("--recipe", metavar="FILE", help="settings and data in a YAML file")
    parser.add_argument("--nproc", metavar="N", type=int, default=1, help="start N ranks on this machine")
    parser.add_argument("--log", choices=("none", "tensorboard"), help="also log to a tracker, in OUT/tensorboard (default: none)")
    parser.add_argument(
        "--on-bad", choices=("fail", "skip"), help="a bad row stops the run, or is left out, counted and listed (default: fail)"
    )
    parser.add_argument("--force", action="store_true", help="go on although settings, base or data have changed")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run(args: argparse.Namespace) -> int:
    """Train, or go on; 143 where SIGTERM and 130 where Ctrl-C stopped it, with everything saved."""
    from twoway.config import load
    from twoway.data.pair_mixture import PairSource
    from twoway.stages.finetune import finetune
    from twoway.stages.finetune_config import FinetuneConfig
    from twoway.training.stop import Stopped

    words = [*args.words]
    words += [f"{key}={value}" for key, value in (("log", args.log), ("on_bad", args.on_bad)) if value]
    config = load(FinetuneConfig, args.recipe, words)
    more = {"eval_data": tuple(PairSource(spec) for spec in args.eval)} if args.eval else {}
    try:
        result = finetune(args.base, args.out, args.data, config=config, nproc=args.nproc, force=args.force, **more)
    except Stopped as stopped:
        sys.stderr.write(f"twoway finetune: {stopped}\n")
        return stopped.code
    if not result.last:
        return 0  # a rank that somebody else started, and not the first: that one speaks
    if args.json:
        sys.stdout.write(json.dumps(result.as_json(), ensure_ascii=False, indent=2) + "\n")
    elif result.resumed == result.steps:
        sys.stdout.write(f"{result.out}: done already, {result.steps:,} steps\n")
    else:
        last = result.last
        retrieval = ", ".join(f"MRR on {key[4:]} {last[key]:.3f}" for key in last if key.startswith("mrr/") and key.count("/") == 1)
        went = f" from step {result.resumed:,}" if result.resumed else ""
        measured = f"; {retrieval}" if retrieval else ""
        sys.stdout.write(f"{result.out}: {result.steps:,} steps done{went}; last loss {last['loss']:.3f}{measured}\n")
    return 0
