"""`twoway pretrain`, `bridge`, `finetune` and `rerank`: run a training stage, and say what came out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .answers import answer, say
from .parser import read_settings

if TYPE_CHECKING:
    import argparse


def run_pretrain(args: argparse.Namespace) -> int:
    """Teach a vision-language model two-way attention on unlabelled text and images."""
    from twoway.methods.pretrain.method import METHOD

    return _train(args, METHOD)


def run_bridge(args: argparse.Namespace) -> int:
    """Teach a two-way model to put all of a row into its EOS token."""
    from twoway.methods.bridge.method import METHOD

    return _train(args, METHOD)


def run_finetune(args: argparse.Namespace) -> int:
    """Teach a model which texts and pictures belong together, from pairs."""
    from twoway.methods.finetune.method import METHOD

    return _train(args, METHOD)


def run_rerank(args: argparse.Namespace) -> int:
    """Teach a model to score a query with a candidate, both in one row."""
    from twoway.methods.rerank.method import METHOD

    return _train(args, METHOD)


def _train(args: argparse.Namespace, method: Any) -> int:
    """Train, or go on; 143 where SIGTERM and 130 where Ctrl-C stopped it, with everything saved."""
    from twoway.methods.run import configure, run_method
    from twoway.processes import Stopped

    config = configure(method, read_settings(args), (), {})
    try:
        result = run_method(method, args.base, args.out, config, nproc=args.nproc, force=args.force)
    except Stopped as stopped:
        sys.stderr.write(f"twoway {method.name}: {stopped}\n")
        return stopped.code
    if not result.last:
        return 0  # a rank that somebody else started, and not the first: that one speaks
    return answer(args, result.as_json(), lambda: say(_said(result)))


def _said(result: Any) -> str:
    from pathlib import Path

    from twoway.data.rows import BAD_ROWS
    from twoway.models.checkpoint import read_card
    from twoway.training.progress import read_lines

    if result.resumed == result.steps:
        return f"{result.out}: done already, {result.steps:,} steps"
    listed = Path(result.out) / BAD_ROWS
    bad = len(read_lines(listed))
    left = f"; {bad:,} bad row{'s' * (bad > 1)} left out, listed in {listed}" if bad else ""
    names = [name for key in result.last if (name := key.removesuffix("_targets")) != key and name in result.last]
    losses = ", ".join(f"{name} {result.last[name]:.3f}" for name in names)
    measured = read_card(Path(result.out))["attention"]["measured"]
    went = f" from step {result.resumed:,}" if result.resumed else ""
    # Retrieval on the way, mean over the tasks of each set.
    found = "".join(f"; MRR on {key[4:]} {result.last[key]:.3f}" for key in result.last if key.startswith("mrr/") and key.count("/") == 1)
    return f"{result.out}: {result.steps:,} steps done{went}, {measured} as measured; last {losses}{found}{left}"
