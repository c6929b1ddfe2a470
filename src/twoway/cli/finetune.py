"""`twoway finetune`: teach a model which texts and pictures belong together, from pairs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .stage_words import configure_stage, run_words

if TYPE_CHECKING:
    import argparse

HELP = """Teach a model which texts and pictures belong together, from pairs of a query and its answer, with or without hard negatives.

BASE is a hub id or a folder, a plain model or one that pretrain, bridge or convert made. OUT becomes an embedding model that
sentence-transformers loads. Rows have the columns query, positive and negatives (texts, pictures, or lists of parts), or a ready mapping
reads them (data: template). All rows of a step's batch belong to one task. Settings are key=value words over a recipe (a YAML file): batch,
lr, loss.temperature, hard_negatives, attention, pooling, prompts.query, eval_steps and so on; OUT/config.yaml shows them all. The same
command goes on where it stopped, also after a kill, and says so when all is done."""
EXAMPLE = """twoway finetune samples/base out --data samples:train --eval samples:test batch=64 max_steps=20 lr=3e-4
  twoway finetune moca-cpt out --recipe recipes/moca-finetune.yaml --nproc 8
  twoway finetune Qwen/Qwen2-VL-2B-Instruct out --data pairs.jsonl attention=causal pooling=last   (as VLM2Vec does)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    configure_stage(parser)
    parser.add_argument("--eval", metavar="SPEC", action="append", default=[], help="pairs to measure retrieval on; may be repeated")


def run(args: argparse.Namespace) -> int:
    """Train, or go on."""
    from twoway.stages.finetune import STAGE

    if args.eval:
        args.words = [*args.words, f"eval_data={json.dumps([{'spec': spec} for spec in args.eval], ensure_ascii=False)}"]
    return run_words(args, STAGE)
