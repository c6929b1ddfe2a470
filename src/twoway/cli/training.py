"""`twoway pretrain`, `bridge` and `finetune`: the verbs of training stages."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from .parser import add_settings, setting_words

if TYPE_CHECKING:
    import argparse


def configure_stage(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    """Declare the arguments, and an option for each setting."""
    parser.usage = "%(prog)s BASE OUT [options] [key=value ...]"
    parser.add_argument("base", metavar="BASE", help="hub id or folder of the model to start from")
    parser.add_argument("out", metavar="OUT", help="folder of the run; new, or a run to go on with")
    parser.add_argument("words", metavar="key=value", nargs="*", default=[], help="settings, over those of the recipe")
    parser.add_argument("--data", metavar="SPEC", action="append", default=[], help="a source; may be repeated; replaces the recipe's")
    parser.add_argument("--recipe", metavar="FILE", help="settings and data in a YAML file")
    parser.add_argument("--nproc", metavar="N", type=int, default=1, help="start N ranks on this machine")
    parser.add_argument("--force", action="store_true", help="go on although settings, base or data have changed")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    add_settings(parser, config, without=("data", "eval_data"))


def run_words(args: argparse.Namespace, stage: Any) -> int:
    """Train, or go on; 143 where SIGTERM and 130 where Ctrl-C stopped it, with everything saved. `stage` is its `Stage`."""
    from twoway.config import load
    from twoway.methods.run import configure, run_method
    from twoway.processes import Stopped

    config = configure(stage, load(stage.config, args.recipe, setting_words(args)), args.data, {})
    try:
        result = run_method(stage, args.base, args.out, config, nproc=args.nproc, force=args.force)
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


# `twoway pretrain`: teach a vision-language model two-way attention on unlabelled text and images.

PRETRAIN_HELP = """Teach a vision-language model two-way attention: it restores masked words and masked patches (MoCa's first stage).

BASE is a hub id or a folder, a plain model or one that convert made. OUT becomes a two-way checkpoint as convert makes it, with the
heads kept beside it. Settings are key=value words over a recipe (a YAML file): max_steps, learning_rate, seed, dtype, budget, mask.words,
lora.r and so on; OUT/config.yaml shows them all. The same command goes on where it stopped, also after a kill, and says so when all is
done. objective=causal is the control of equal compute: plain next-token training on the same rows, and OUT stays causal."""
PRETRAIN_EXAMPLE = """twoway pretrain samples/base out --data samples:pretrain max_steps=12 save_steps=3 seed=1
  twoway pretrain Qwen/Qwen2.5-VL-3B-Instruct out --recipe recipes/moca-3b-pretrain.yaml --nproc 8
  torchrun --nproc-per-node 8 --nnodes 4 … -m twoway pretrain BASE out --recipe R   (several machines)"""


def configure_pretrain(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from twoway.methods.pretrain.config import PretrainConfig

    configure_stage(parser, PretrainConfig)


def run_pretrain(args: argparse.Namespace) -> int:
    """Train, or go on."""
    from twoway.methods.pretrain.method import METHOD

    return run_words(args, METHOD)


# `twoway bridge`: teach a two-way model to put all of a row into its EOS token.

BRIDGE_HELP = """Teach a two-way model to put all it reads into one token: B is restored through EOS alone (CoCoA's second stage).

Rows become A [EOS] B. Of a pair, A is the query and B its positive; of a document, B is its last text and A the rest; a row of one text is
cut in two. 70% of B's words are masked and B sees nothing of A but EOS. BASE is two-way already (pretrain and convert make such a model),
and OUT a plain checkpoint pooled at EOS, with a report of what went through it. Settings are key=value words over a recipe (a YAML file):
eos_sees_target, sources_see_eos, mask.words, max_target, lora.r and so on; OUT/config.yaml shows them all. The same command goes on
where it stopped."""
BRIDGE_EXAMPLE = """twoway bridge BASE out --data samples:pretrain max_steps=12
  twoway bridge BASE out --data pairs.jsonl --nproc 8 lora.r=8 lora.use_dora=true"""


def configure_bridge(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from twoway.methods.bridge.config import BridgeConfig

    configure_stage(parser, BridgeConfig)


def run_bridge(args: argparse.Namespace) -> int:
    """Train, or go on."""
    from twoway.methods.bridge.method import METHOD

    return run_words(args, METHOD)


# `twoway finetune`: teach a model which texts and pictures belong together, from pairs.

FINETUNE_HELP = """
Teach a model which texts and pictures belong together, from pairs of a query and its answer, with or without hard negatives.

BASE is a hub id or a folder, a plain model or one that pretrain, bridge or convert made. OUT becomes an embedding model that
sentence-transformers loads. Rows have the columns query, positive and negatives (texts, pictures, or lists of parts), or a ready mapping
reads them (data: template). All rows of a step's batch belong to one task. Settings are key=value words over a recipe (a YAML file):
global_batch_size, learning_rate, loss.temperature, hard_negatives, attention, pooling, prompts.query, eval_steps and so on; OUT/config.yaml
shows them all. The same command goes on where it stopped, also after a kill, and says so when all is done."""
FINETUNE_EXAMPLE = """twoway finetune samples/base out --data samples:train --eval-data samples:test max_steps=20 global_batch_size=64
  twoway finetune moca-cpt out --recipe recipes/moca-finetune.yaml --nproc 8
  twoway finetune Qwen/Qwen2-VL-2B-Instruct out --data pairs.jsonl attention=causal pooling=last   (as VLM2Vec does)"""


def configure_finetune(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from twoway.methods.finetune.config import FinetuneConfig

    configure_stage(parser, FinetuneConfig)
    parser.add_argument("--eval-data", metavar="SPEC", action="append", default=[], help="pairs to measure retrieval on; may be repeated")


def run_finetune(args: argparse.Namespace) -> int:
    """Train, or go on."""
    from twoway.methods.finetune.method import METHOD

    if args.eval_data:
        args.words = [*args.words, f"eval_data={json.dumps([{'spec': spec} for spec in args.eval_data], ensure_ascii=False)}"]
    return run_words(args, METHOD)
