"""Does it matter that EOS sees the target? CoCoA's bridge with each mask, measured on concepts that it never saw (arXiv 2603.01471).

    python -m benchmarks.leak OUT                  all seeds, one after the other
    python -m benchmarks.leak OUT --seeds 1        one of them (several commands may share an OUT, each with its own seeds)
    python -m benchmarks.leak OUT --show           the tables of what is there

From the shipped base: one warm-up (two-way, masked words 0.2, masked patches 0.5) on all concepts, as the base has seen them all; then for
each seed and each mask the bridge on a fixed number of rows of one half of the concepts; then contrastive training on the same half, and
once without any bridge. Everything is measured on the other half: pictures and their names in four languages.

- `through EOS`: nats a masked word that the right A saves over EOS cut off from A; once under the mask of training, and once as at
  inference, where EOS sees no B.
- `zero-shot`: the mean of one over the place of the right name, straight from EOS after the bridge; `tuned`: after contrastive training.

Intervals are 95% (Student's t over seeds). A run that is done is not done again.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from .over_seeds import COMMON, TEST, options, print_tables, recall, tested

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

MASKS = {
    "EOS sees B, A sees EOS (as published)": {"eos_sees_target": True, "sources_see_eos": True},
    "EOS sees B": {"eos_sees_target": True, "sources_see_eos": False},
    "A sees EOS": {"eos_sees_target": False, "sources_see_eos": True},
    "neither": {"eos_sees_target": False, "sources_see_eos": False},
}
NONE = "no bridge"
TRAIN = "samples:train"
COLUMNS = {
    "loss of B": "words_right",
    "through EOS": "words_gap_none",
    "as at inference": "alone_words_gap_none",
    "first word": "alone_first_right_accuracy",
    "zero-shot": "zero",
    "zero-shot, mean": "zero_mean",
    "tuned": "tuned",
}
SAID = ("warm_steps", "steps", "rows", "tune_steps", "batch", "tested")


def main() -> None:
    """Do what is left to do and print the tables."""
    parser = options("leak", __doc__)
    parser.add_argument("--warm-steps", type=int, default=100)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--rows", type=int, default=32, help="rows of a step of the bridge (default: 32)")
    parser.add_argument("--tune-steps", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64, help="rows of a step of contrastive training (default: 64)")
    parser.add_argument("--tested", type=int, default=128, help="pairs that are measured (default: 128)")
    args = parser.parse_args()
    if not args.show:
        warm = args.out / "warm-up"
        warm_up(args, warm)
        for seed in args.seeds:
            for number, name in enumerate([*MASKS, NONE]):
                one(args, warm, name, args.out / f"{number}-{seed}.json", seed)
    show(args.out)


def warm_up(args: argparse.Namespace, out: Path) -> None:
    """Make the base two-way."""
    from twoway.methods.pretrain.method import pretrain

    masks = {"mask": _masks(words=0.2, patches=0.5), "learning_rate": 6e-4, "max_steps": args.warm_steps, "logging_steps": 25}
    pretrain(args.base, out, ["samples:pretrain"], **COMMON | masks)


def _masks(**shares: Any) -> Any:
    from twoway.data.config import MaskingConfig

    return MaskingConfig(**shares)


def one(args: argparse.Namespace, warm: Path, name: str, result: Path, seed: int) -> None:
    """Train with one mask and one seed, and measure."""
    from twoway.methods.bridge.method import bridge
    from twoway.methods.finetune.method import finetune

    if result.exists():
        return
    began = time.process_time()
    found: dict[str, Any] = {"mask": name, "seed": seed} | {key: vars(args)[key] for key in SAID}
    home, start = result.with_suffix(""), warm
    if name != NONE:
        start = home / "bridge"
        steps = {"max_steps": args.steps, "per_device_train_batch_size": args.rows, "learning_rate": 6e-4, "logging_steps": 10}
        bridge(warm, start, [TRAIN], seed=seed, on_bad="skip", **COMMON | steps | MASKS[name])
    found |= probe(start, MASKS.get(name, next(iter(MASKS.values()))), args.tested)
    tuned = home / "tuned"
    loss = {
        "global_batch_size": args.batch,
        "max_steps": args.tune_steps,
        "learning_rate": 3e-4,
        "logging_steps": 10,
        "small_tasks": "keep",
        "pooling": "eos",
    }
    finetune(start, tuned, [TRAIN], seed=seed, loss=_loss(), **COMMON | loss)
    found |= {"tuned": recall(tuned, args.tested)}
    found["cpu_seconds"] = round(time.process_time() - began, 1)
    result.write_text(json.dumps(found, indent=2) + "\n")


def _loss() -> Any:
    from twoway.methods.finetune.config import ContrastiveConfig

    return ContrastiveConfig(temperature=0.05)


def probe(model: Path, mask: dict[str, Any], count: int) -> dict[str, float]:
    """Measure what goes through EOS, under the mask of training and as at inference, and what it finds zero-shot."""
    from functools import partial

    from twoway.methods.bridge.config import BridgeConfig
    from twoway.methods.bridge.method import prepare
    from twoway.methods.bridge.probes import BridgeProber, measure_bridge
    from twoway.methods.bridge.rows import BridgeEncoder, collate_bridge, cut_in_two, mask_target
    from twoway.training.probes import pair_rows

    config = BridgeConfig(dtype="float32", max_length=512, **mask)
    made = prepare(model, config)
    encode = BridgeEncoder(made.processor, made.geometry, max_length=made.max_length)
    words = partial(mask_target, config=config.mask, seed=0, mask_token=made.token.id, geometry=made.geometry)
    together = partial(collate_bridge, pad_token=made.pad_token, padding_side=made.processor.tokenizer.padding_side)
    prober = BridgeProber(encode, words, together, made.geometry, made.token.id)
    pairs = pair_rows([(f"{TEST}#{number}", cut_in_two(row).joined) for number, row in enumerate(tested(count))])
    found = measure_bridge(made.module, pairs, prober)
    made.module.eos_sees_target = False
    found |= {f"alone_{key}": value for key, value in measure_bridge(made.module, pairs, prober, vectors=False).items()}
    return found | {"zero": found["reciprocal_eos"], "zero_mean": found["reciprocal_mean"]}


def show(out: Path) -> None:
    """Print means with 95% intervals over seeds, and differences to the published mask seed by seed."""
    runs = [json.loads(path.read_text()) for path in sorted(out.glob("*-*.json"))]
    names = [name for name in [*MASKS, NONE] if any(run["mask"] == name for run in runs)]
    if not runs:
        print("nothing is measured yet")
        return
    about = "bridge: {steps} steps of {rows} rows; contrastive: {tune_steps} steps of {batch}; {tested} pairs of unseen concepts"
    print(about.format(**runs[0]))
    table = {name: {run["seed"]: run for run in runs if run["mask"] == name} for name in names}
    print_tables(table, COLUMNS, "the published mask")


if __name__ == "__main__":
    main()
