"""`twoway pretrain`: teach a vision-language model two-way attention on unlabelled text and images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .stage_words import configure_stage, run_words

if TYPE_CHECKING:
    import argparse

HELP = """Teach a vision-language model two-way attention: it restores masked words and masked patches (MoCa's first stage).

BASE is a hub id or a folder, a plain model or one that convert made. OUT becomes a two-way checkpoint as convert makes it, with the
heads kept beside it. Settings are key=value words over a recipe (a YAML file): max_steps, lr, seed, dtype, budget, mask.words, lora.rank
and so on; OUT/config.yaml shows them all. The same command goes on where it stopped, also after a kill, and says so when all is done.
objective=causal is the control of equal compute: plain next-token training on the same rows, and OUT stays causal."""
EXAMPLE = """twoway pretrain samples/base out --data samples:pretrain max_steps=12 save_steps=3 seed=1
  twoway pretrain Qwen/Qwen2.5-VL-3B-Instruct out --recipe recipes/moca-3b-pretrain.yaml --nproc 8
  torchrun --nproc-per-node 8 --nnodes 4 … -m twoway pretrain BASE out --recipe R   (several machines)"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    configure_stage(parser)


def run(args: argparse.Namespace) -> int:
    """Train, or go on."""
    from twoway.stages.pretrain import STAGE

    return run_words(args, STAGE)
