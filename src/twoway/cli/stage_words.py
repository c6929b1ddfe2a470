"""What the verbs of training stages share: their options, and what they answer."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def configure_stage(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("base", metavar="BASE", help="hub id or folder of the model to start from")
    parser.add_argument("out", metavar="OUT", help="folder of the run; new, or a run to go on with")
    parser.add_argument("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the recipe")
    parser.add_argument("--data", metavar="SPEC", action="append", default=[], help="a source; may be repeated; replaces the recipe's")
    parser.add_argument("--recipe", metavar="FILE", help="settings and data in a YAML file")
    parser.add_argument("--nproc", metavar="N", type=int, default=1, help="start N ranks on this machine")
    parser.add_argument("--log", metavar="NAME", help="also log to a tracker: tensorboard (in OUT), wandb, mlflow, … (default: none)")
    parser.add_argument(
        "--on-bad", choices=("fail", "skip"), help="a bad row stops the run, or is left out, counted and listed (default: fail)"
    )
    parser.add_argument("--force", action="store_true", help="go on although settings, base or data have changed")
    parser.add_argument("--json", action="store_true", help="answer in JSON")


def run_words(args: argparse.Namespace, stage: Any) -> int:
    """Train, or go on; 143 where SIGTERM and 130 where Ctrl-C stopped it, with everything saved. `stage` is its `Stage`."""
    from twoway.config import load
    from twoway.stages.run_stage import configure, run_stage
    from twoway.training.stop import Stopped

    words = [*args.words]
    words += [f"{key}={value}" for key, value in (("log", args.log), ("on_bad", args.on_bad)) if value]
    config = configure(stage, load(stage.config, args.recipe, words), args.data, {})
    try:
        result = run_stage(stage, args.base, args.out, config, nproc=args.nproc, force=args.force)
    except Stopped as stopped:
        sys.stderr.write(f"twoway {stage.name}: {stopped}\n")
        return stopped.code
    if not result.last:
        return 0  # a rank that somebody else started, and not the first: that one speaks
    if args.json:
        sys.stdout.write(json.dumps(result.as_json(), ensure_ascii=False, indent=2) + "\n")
    else:
        sys.stdout.write(_said(result) + "\n")
    return 0


def _said(result: Any) -> str:
    from pathlib import Path

    from twoway.data.policy import BAD_ROWS
    from twoway.model.card import read
    from twoway.training.progress import read_lines

    if result.resumed == result.steps:
        return f"{result.out}: done already, {result.steps:,} steps"
    listed = Path(result.out) / BAD_ROWS
    bad = len(read_lines(listed))
    left = f"; {bad:,} bad row{'s' * (bad > 1)} left out, listed in {listed}" if bad else ""
    names = [name for key in result.last if (name := key.removesuffix("_targets")) != key and name in result.last]
    losses = ", ".join(f"{name} {result.last[name]:.3f}" for name in names)
    measured = read(Path(result.out))["attention"]["measured"]
    went = f" from step {result.resumed:,}" if result.resumed else ""
    # Retrieval on the way, mean over the tasks of each set.
    found = "".join(f"; MRR on {key[4:]} {result.last[key]:.3f}" for key in result.last if key.startswith("mrr/") and key.count("/") == 1)
    return f"{result.out}: {result.steps:,} steps done{went}, {measured} as measured; last {losses}{found}{left}"
