"""`twoway pretrain`: teach a vision-language model two-way attention on unlabelled text and images."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

HELP = """Teach a vision-language model two-way attention: it restores masked words and masked patches (MoCa's first stage).

BASE is a hub id or a folder, a plain model or one that convert made. OUT becomes a two-way checkpoint as convert makes it, with the
heads kept beside it. Settings are key=value words over a recipe (a YAML file): max_steps, lr, seed, dtype, budget, mask.words, lora.rank
and so on; OUT/config.yaml shows them all. The same command goes on where it stopped, also after a kill, and says so when all is done.
objective=causal is the control of equal compute: plain next-token training on the same rows, and OUT stays causal."""
EXAMPLE = """twoway pretrain samples/base out --data samples:pretrain max_steps=12 save_steps=3 seed=1 dtype=float32
  twoway pretrain Qwen/Qwen2.5-VL-3B-Instruct out --recipe recipes/moca-3b-pretrain.yaml --nproc 8 parallel=fsdp
  torchrun --nproc-per-node 8 --nnodes 4 … -m twoway pretrain BASE out --recipe R   (several machines)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("base", metavar="BASE", help="hub id or folder of the model to start from")
    parser.add_argument("out", metavar="OUT", help="folder of the run; new, or a run to go on with")
    parser.add_argument("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the recipe")
    parser.add_argument("--data", metavar="SPEC", action="append", default=[], help="a source; may be repeated; replaces the recipe's")
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
    from pathlib import Path

    from twoway.config import load
    from twoway.model.card import read
    from twoway.stages.pretrain import pretrain
    from twoway.stages.pretrain_config import PretrainConfig
    from twoway.training.stop import Stopped

    words = [*args.words]
    words += [f"{key}={value}" for key, value in (("log", args.log), ("on_bad", args.on_bad)) if value]
    config = load(PretrainConfig, args.recipe, words)
    try:
        result = pretrain(args.base, args.out, args.data, config=config, nproc=args.nproc, force=args.force)
    except Stopped as stopped:
        sys.stderr.write(f"twoway pretrain: {stopped}\n")
        return stopped.code
    if not result.last:
        return 0  # a rank that somebody else started, and not the first: that one speaks
    if args.json:
        sys.stdout.write(json.dumps(result.as_json(), ensure_ascii=False, indent=2) + "\n")
    elif result.resumed == result.steps:
        sys.stdout.write(f"{result.out}: done already, {result.steps:,} steps\n")
    else:
        losses = ", ".join(f"{name} {result.last[name]:.3f}" for name in ("mlm", "clm", "mae") if name in result.last)
        measured = read(Path(result.out))["attention"]["measured"]
        went = f" from step {result.resumed:,}" if result.resumed else ""
        sys.stdout.write(f"{result.out}: {result.steps:,} steps done{went}, {measured} as measured; last {losses}\n")
    return 0
