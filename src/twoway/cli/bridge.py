"""`twoway bridge`: teach a two-way model to put all of a row into its EOS token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .stage_words import configure_stage, run_words

if TYPE_CHECKING:
    import argparse

HELP = """Teach a two-way model to put all it reads into one token: B is restored through EOS alone (CoCoA's second stage).

Rows become A [EOS] B. Of a pair, A is the query and B its positive; of a document, B is its last text and A the rest; a row of one text is
cut in two. 70% of B's words are masked and B sees nothing of A but EOS. BASE is two-way already (pretrain and convert make such a model),
and OUT a plain checkpoint pooled at EOS, with a report of what went through it. Settings are key=value words over a recipe (a YAML file):
eos_sees_target, sources_see_eos, mask.words, max_target, lora.rank and so on; OUT/config.yaml shows them all. The same command goes on
where it stopped."""
EXAMPLE = """twoway bridge BASE out --data samples:pretrain max_steps=12
  twoway bridge BASE out --data pairs.jsonl --nproc 8 lora.rank=8 lora.dora=true"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    configure_stage(parser)


def run(args: argparse.Namespace) -> int:
    """Train, or go on."""
    from twoway.stages.bridge import STAGE

    return run_words(args, STAGE)
