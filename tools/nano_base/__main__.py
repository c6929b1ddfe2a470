"""`python -m tools.nano_base OUT`: train the base model of the samples."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from tools.command import parser, run

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


DESCRIPTION = """Train a tiny vision-language model that truly looks at its pictures.

OUT becomes a plain transformers folder (AutoModelForImageTextToText, AutoProcessor) with a card: about 8 million parameters, its own
tokenizer, trained on the pictures and captions of the samples. First the tower learns alone to tell pictures apart by their words, then all
of it to say captions, causally. At the end a gate is measured: how much better a caption is foretold from its own picture than from
another's, in training styles and in a style that was never trained on. Below the gate the command says so and exits 1. The full run takes
hours of one core; the same command again goes on where it was stopped, and with more rows it goes on from where the rate began to fall."""
EXAMPLE = """python -m tools.nano_base my-base
  python -m tools.nano_base try --rows 640 --batch 16   (a minute: to see it run; far below the gate)
  python -m tools.nano_base my-base --rows 500000 --overwrite   (a longer run, from the state before the rate fell)
  python -m tools.nano_base talks --lm smollm2          (a base that already speaks English; half a day on a free core)"""
DEFAULT_ROWS = 450_000
DEFAULT_BATCH = 64


def main(words: Sequence[str] | None = None) -> int:
    """Train, measure, write; 1 where the gate is not passed."""
    asked = parser("nano_base", DESCRIPTION, EXAMPLE)
    asked.add_argument("out", metavar="OUT", help="folder to write; OUT.run beside it holds the unfinished run")
    asked.add_argument("--family", default="qwen2_vl", metavar="NAME", help="architecture of the base")
    asked.add_argument(
        "--lm",
        default="own",
        metavar="NAME",
        help="text part: own (new, small) or smollm2 (SmolLM2-135M-Instruct from its package, 93 MB; some five times as slow)",
    )
    asked.add_argument("--train", default="tower", metavar="PART", help="with --lm smollm2, what learns: tower (default) or all")
    asked.add_argument(
        "--rows",
        type=int,
        default=DEFAULT_ROWS,
        metavar="N",
        help="picture rows to train on; another number changes the length of an unfinished run",
    )
    asked.add_argument("--batch", type=int, default=DEFAULT_BATCH, metavar="N", help="pictures a step")
    asked.add_argument("--seed", type=int, default=1, metavar="N", help="of rows, augmentation and weights")
    asked.add_argument("--samples", metavar="DIR", help="folder of the samples (default: the shipped ones)")
    asked.add_argument("--threads", type=int, default=1, metavar="N", help="threads of the training")
    asked.add_argument("--plateau", action="store_true", help="train a branch of 25%% more rows, too, and say in the card what it gains")
    asked.add_argument("--overwrite", action="store_true", help="replace OUT once the new one is whole")
    asked.add_argument("--json", action="store_true", help="answer in JSON")
    return run(asked, _make, words)


def _make(args: argparse.Namespace) -> int:
    """Make the base, and say what its gate is."""
    import shlex
    from pathlib import Path

    import torch

    from twoway.data.sources.samples import read_manifest, samples_folder
    from twoway.errors import UsageError

    from .base import make_base
    from .config import NanoConfig
    from .smollm2 import settings

    if min(args.rows, args.batch, args.threads) < 1:
        raise UsageError("--rows, --batch and --threads are at least 1")
    torch.set_num_threads(args.threads)
    chosen = {"family": args.family, "rows": args.rows, "batch": args.batch, "seed": args.seed}
    samples = Path(args.samples) if args.samples else samples_folder()
    facts = read_manifest(samples)
    held: dict[str, Any] = {"unseen_styles": tuple(facts["held_styles"]), "held_sources": tuple(facts["held_sources"])}
    config = settings(args.lm, args.train, text_rows=max(1, args.batch // 4), **chosen, **held)
    chosen |= {"lm": args.lm, "train": args.train}
    usual = vars(NanoConfig()) | {"lm": "own", "train": "tower"}
    options = [f"--{key}={value}" for key, value in chosen.items() if value != usual[key]] + ["--plateau"] * args.plateau
    command = ["python", "-m", "tools.nano_base", args.out, *options]
    result = make_base(
        Path(args.out),
        config,
        samples,
        command=shlex.join(command),
        overwrite=args.overwrite,
        plateau=args.plateau,
        seen=_progress(config.steps),
    )
    if args.json:
        sys.stdout.write(json.dumps({key: value for key, value in result.items() if key != "curve"}, indent=2) + "\n")
    else:
        gate, verdict = result["gate"], "passed" if result["passed"] else "NOT passed"
        sys.stdout.write(
            f"{args.out}: gate {verdict}: {gate['trained_gap']:.2f} nats a token in training styles (at least {config.gate_trained}), "
            f"{gate.get('unseen_gap', float('nan')):.2f} in the unseen style (at least {config.gate_unseen}); "
            f"bare name {gate['trained_bare_right']:.2f} right, {gate['trained_bare_shuffled']:.2f} shuffled; "
            f"caption loss fell by {result['plateau']['captions']:.3f} over the last quarter\n"
        )
    return 0 if result["passed"] else 1


def _progress(steps: int) -> Callable[[dict[str, Any]], None]:
    """Return what shows the run's progress: a bar in a terminal, lines elsewhere."""

    def line(entry: dict[str, Any]) -> None:
        gap = f", gap {entry['trained_gap']:.2f} / {entry.get('unseen_gap', float('nan')):.2f} unseen" if "trained_gap" in entry else ""
        place = f"{entry.get('stage', '')} step {entry['step']:,} of {entry.get('steps', steps):,}".strip()
        share = f"{place}: loss {entry['loss']:.3f}, {entry['rows_per_second']:.0f} rows/s"
        sys.stderr.write(f"{share}, {entry['minutes_left']:.0f} minutes left{gap}\n")

    return line


if __name__ == "__main__":
    sys.exit(main())
