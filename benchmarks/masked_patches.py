"""Where masked patches go, side by side: `noise`, `skip` and `drop` at equal rows, by their losses, their scores and what captions give.

    python -m benchmarks.masked_patches OUT                  all seeds, one after the other
    python -m benchmarks.masked_patches OUT --seeds 1        one of them (several commands may share an OUT, each with its own seeds)
    python -m benchmarks.masked_patches OUT --patches 0.75   another share of patches masked (another OUT, too)
    python -m benchmarks.masked_patches OUT --show           the tables of what is there

For each seed and each way the base is pre-trained on the same rows of `samples:pretrain` and fine-tuned on one half of the concepts,
without pages. Losses and gaps are those of the probes on held-out rows (docs/pretraining.md); the score is that of pictures and their
names of the other half.

- `words`, `patches`: loss of a masked word beside the right picture, and of a masked patch beside the right caption
- `picture helps words`, `caption helps patches`: what the right one saves, against another row's
- `before`: what the right caption saves before the first step
- `CPU s`: processor seconds of pre-training, probes included
- `MRR`: the mean of one over the place of the right name, after fine-tuning

Intervals are 95% (Student's t over seeds). A run that is done is not done again.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from .over_seeds import COMMON, options, print_tables, recall

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

WAYS = ("noise", "skip", "drop")
TRAIN = "samples:train-without-pages"
COLUMNS = {
    "words": "words_right",
    "picture helps words": "words_gap_shuffled",
    "patches": "patches_right",
    "caption helps patches": "patches_gap_shuffled",
    "before": "patches_gap_at_start",
    "CPU s": "cpu_seconds",
    "MRR": "mrr",
}
SAID = ("steps", "rows", "patches", "tune_steps", "batch", "tested")


def main() -> None:
    """Do what is left to do and print the tables."""
    parser = options("masked_patches", __doc__)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rows", type=int, default=8, help="rows of a step of pre-training (default: 8)")
    parser.add_argument("--patches", type=float, default=0.5, help="share of the patches that is masked (default: 0.5)")
    parser.add_argument("--held-out", type=int, default=64, help="rows that are probed (default: 64)")
    parser.add_argument("--tune-steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32, help="rows of a step of fine-tuning (default: 32)")
    parser.add_argument("--tested", type=int, default=128, help="pairs that are scored (default: 128)")
    args = parser.parse_args()
    if not args.show:
        for seed in args.seeds:
            for way in WAYS:
                one(args, way, args.out / f"{way}-{seed}.json", seed)
    show(args.out)


def one(args: argparse.Namespace, way: str, result: Path, seed: int) -> None:
    """Train one way with one seed, and measure."""
    from twoway.data.config import MaskingConfig
    from twoway.methods.finetune.config import ContrastiveConfig
    from twoway.methods.finetune.method import finetune
    from twoway.methods.pretrain.method import pretrain

    if result.exists():
        return
    found: dict[str, Any] = {"way": way, "seed": seed} | {key: vars(args)[key] for key in SAID}
    home, began = result.with_suffix(""), time.process_time()
    steps = {"max_steps": args.steps, "per_device_train_batch_size": args.rows, "held_out": args.held_out, "learning_rate": 6e-4}
    rest = {"warmup_steps": 0.1, "batches_per_step": 1, "calibrate": "none", "masked_patches": way, "logging_steps": 10}
    mask = MaskingConfig(patches=args.patches)
    pretrain(args.base, home / "pretrained", ["samples:pretrain"], seed=seed, mask=mask, **COMMON | steps | rest)
    found |= {"cpu_seconds": time.process_time() - began} | probed(home / "pretrained" / "log.jsonl")
    steps = {"max_steps": args.tune_steps, "global_batch_size": args.batch, "hard_negatives": 0, "learning_rate": 3e-4, "logging_steps": 10}
    loss = ContrastiveConfig(temperature=0.05)
    finetune(home / "pretrained", home / "tuned", [TRAIN], seed=seed, loss=loss, small_tasks="keep", **COMMON | steps)
    found["mrr"] = recall(home / "tuned", args.tested)
    result.write_text(json.dumps(found, indent=2) + "\n")


def probed(log: Path) -> dict[str, float]:
    """Return what the probes said at the end of a run, and the captions' help before it."""
    entries = [entry for entry in map(json.loads, log.read_text().splitlines()) if "patches_right" in entry]
    last = {key: value for key, value in entries[-1].items() if key in COLUMNS.values()}
    return last | {"patches_gap_at_start": entries[0]["patches_gap_shuffled"]}


def show(out: Path) -> None:
    """Print means with 95% intervals over seeds, and differences to `noise` seed by seed."""
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*-*.json"))]
    table = {way: {run["seed"]: run for run in runs if run["way"] == way} for way in WAYS}
    table = {way: found for way, found in table.items() if found}
    if not table:
        print("nothing is measured yet")
        return
    about = "pre-training: {steps} steps of {rows} rows, {patches:.0%} of the patches masked; fine-tuning: {tune_steps} steps of {batch}; "
    print((about + "{tested} pairs of the unseen half").format(**runs[0]))
    print_tables(table, COLUMNS, f"`{next(iter(table))}`", digits=4)


if __name__ == "__main__":
    main()
