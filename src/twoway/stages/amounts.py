"""How much a stage will read: rows, tokens and steps, from the tables of its data and the plan of its first epoch; no model is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twoway.data.batching import PLAIN
from twoway.data.encode import Encoder
from twoway.data.epochs import Epochs
from twoway.data.held import held_out
from twoway.data.lengths import measure, picture_tokens
from twoway.data.mixture import open_mixture
from twoway.data.policy import Policy


@dataclass(frozen=True)
class Amount:
    """What a run of a stage reads, over all ranks and steps. `batch` is the largest number of tokens that one rank holds at a time."""

    steps: int
    rows: int
    tokens: int  # of text and pictures, without padding
    image_tokens: int
    padded: int  # tokens that are computed: with padding
    batch: int


# (config, encoder, folder that keeps tables, shards) -> Amount
Count = Callable[[Any, Encoder, Path, int], Amount]


def count_documents(config: Any, encoder: Encoder, folder: Path, shards: int) -> Amount:
    """Count for a stage that reads documents, in batches by their cost."""
    mixture = open_mixture(config.data, folder=folder, policy=Policy("skip"))
    costs, tokens = measure(mixture, encoder, config.cost), measure(mixture, encoder, PLAIN).length
    pictures = np.minimum(np.concatenate([picture_tokens(table, encoder) for table in mixture.tables]), tokens)
    held = held_out(mixture, config.held_out)
    epochs = Epochs(mixture, costs, seed=config.seed, shards=shards, budget=config.budget, batch_rows=config.batch_rows, held=held)
    plan, steps = epochs.plan(0), config.max_steps or epochs.steps(config.epochs)
    share = steps / len(plan)
    rows = mixture.columns(plan.rows)
    longest = np.maximum.reduceat(tokens[rows], plan.starts[:-1][np.diff(plan.starts) > 0])
    padded = longest * np.diff(plan.starts)[np.diff(plan.starts) > 0]
    return Amount(
        steps=steps,
        rows=round(share * len(rows)),
        tokens=round(share * float(tokens[rows].sum(dtype=np.float64))),
        image_tokens=round(share * float(pictures[rows].sum(dtype=np.float64))),
        padded=round(share * float(padded.sum(dtype=np.float64))),
        batch=int(padded.max()),
    )
