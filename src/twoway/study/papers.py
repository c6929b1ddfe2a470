"""The papers' claims by number, and the figures that they give for them, so that results stand beside what they test.

MoCa is arXiv 2506.23115, CoCoA arXiv 2603.01471. MMEB is precision@1 over 36 tasks, ViDoRe-v2 is nDCG@5, both in points of a hundred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Paper:
    """One claim: its title, and lines of (what, figures)."""

    title: str
    figures: tuple[tuple[str, str], ...] = ()
    without: str = ""  # for what no figures are listed, as a sentence


CLAIMS: dict[int, Paper] = {
    1: Paper(
        "Two-way attention and mean pooling, without pre-training",
        (("MoCa, contrastive on MMEB-train alone, MMEB", "3B causal 66.4, 3B two-way 65.4, 7B two-way 67.1"),),
        "Attention and pooling one at a time: no figures.",
    ),
    2: Paper(
        "MLM + MAE pre-training against none, and against as much next-token training",
        (("MoCa 3B, MMEB / ViDoRe-v2", "with pre-training 67.5 / 59.8, without 65.8 / 56.2"),),
        "As many rows of next-token training: a control that the papers lack.",
    ),
    3: Paper(
        "MLM, MAE, both; mask shares; the weight of MAE",
        (
            ("MoCa 3B, MMEB / ViDoRe-v2", "both 67.5 / 59.8, no MLM 66.2 / 57.2, no MAE 66.8 / 56.9"),
            ("share of masked words, MMEB", "0.1 66.1, 0.3 66.9, 0.4 67.5, 0.5 67.3, 0.7 67.1"),
            ("share of masked patches, MMEB", "0.2 66.8, 0.4 67.2, 0.5 67.5, 0.6 66.9, 0.9 65.8"),
            ("weight of MAE, MMEB", "0.2 66.7, 0.4 67.1, 0.5 67.5, 0.8 67.2, 1 66.9"),
        ),
    ),
    4: Paper(
        "More pre-training helps more",
        (
            (
                "MoCa 3B, steps of pre-training, MMEB",
                "200 65.7, 500 66.0, 1,000 66.5, 1,500 66.7, 2,000 67.0, 2,500 67.2, 3,000 67.4, 3,311 67.5",
            ),
        ),
    ),
    5: Paper(
        "Long documents, text pairs, task batches, hard negatives, denominators",
        (
            (
                "MoCa 3B, MMEB / ViDoRe-v2",
                "all 67.5 / 59.8, no text pairs 67.1 / 59.2, no long documents 66.9 / 45.7, no task batches 67.2 / 58.8",
            ),
        ),
        "Hard negatives and denominators: no figures.",
    ),
    6: Paper(
        "CoCoA's bridge against MoCa's mean pooling",
        (
            ("MMEB, Qwen2.5-VL-3B", "CoCoA 67.5, MoCa 67.5"),
            ("MMEB, Qwen2.5-VL-7B", "CoCoA 70.6, MoCa 71.5"),
            ("CoCoA, Qwen2-VL-2B, MMEB", "66.0 (classification 63.0, VQA 57.4, retrieval 69.6, grounding 85.8)"),
        ),
        "Both at equal rows, and what the leak of the bridge's mask does: no figures.",
    ),
    7: Paper("Cheaper pre-training: patches that skip the tower", (), "Patches that skip the tower: no figures."),
    8: Paper("Out of domain: which arm loses least on an unseen style and source", (), "A held-out style or source: no figures."),
}


def listed(numbers: Iterable[int]) -> dict[int, Paper]:
    """Return the papers' claims by number, and behind them those of these numbers that are a study's own."""
    return CLAIMS | {number: Paper("A claim of the study's own") for number in sorted(set(numbers) - CLAIMS.keys())}
