"""How much a stage will read: rows, tokens and steps, from its own tables and plan of batches; the weights of no model are read.

A stage's data is opened as training opens it, for a model of which only the processor is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twoway.content import ContentError
from twoway.data.lengths import picture_tokens

_SAMPLE = 48


@dataclass(frozen=True)
class Amount:
    """What a run of a stage reads, over all ranks and steps. `batch` is the largest number of tokens that one rank holds at a time.

    Of these `batch_images` are of pictures.
    """

    steps: int
    rows: int
    tokens: int  # of text and pictures, without padding
    image_tokens: int
    padded: int  # tokens that are computed: with padding
    batch: int
    passes: int = 0  # forward beside the one that gradients come from
    batch_images: int = 0


# (open_data of the stage, config, what stands for a prepared model, folder that keeps tables, shards) -> Amount
Count = Callable[[Callable[..., Any], Any, Any, Path, int], Amount]


def count_rows(open_data: Callable[..., Any], config: Any, reader: Any, folder: Path, shards: int) -> Amount:
    """Count for a stage whose rows go through the model in batches of equal cost."""
    data = open_data(config, reader, folder, shards=shards, bad_rows=None)
    tokens, plan, steps = data.epochs.costs.length, data.epochs.plan(0), data.total(config)
    pictures = np.minimum(np.concatenate([picture_tokens(table, data.encode) for table in data.mixture.tables]), tokens)
    share, rows, sizes = steps / len(plan), data.mixture.columns(plan.rows), np.diff(plan.starts)
    padded = np.maximum.reduceat(tokens[rows], plan.starts[:-1][sizes > 0]) * sizes[sizes > 0]
    shown = np.add.reduceat(pictures[rows], plan.starts[:-1][sizes > 0])
    return Amount(
        steps=steps,
        rows=round(share * len(rows)),
        tokens=round(share * float(tokens[rows].sum(dtype=np.float64))),
        image_tokens=round(share * float(pictures[rows].sum(dtype=np.float64))),
        padded=round(share * float(padded.sum(dtype=np.float64))),
        batch=int(padded.max()),
        batch_images=int(shown[padded.argmax()]),
    )


def count_pairs(open_data: Callable[..., Any], config: Any, reader: Any, folder: Path, shards: int) -> Amount:
    """Count for a stage of pairs: lengths from a sample of encoded rows, because a pair has several contents of unknown length."""
    data = open_data(config, reader, folder, shards=shards, bad_rows=None)
    steps, epoch = data.total(config), data.epochs.plan(0)
    rows = round(sum(len(data.epochs.whole(step)[1]) for step in range(len(epoch))) * steps / len(epoch))
    lengths, images, tried = [], [], 0
    for row in epoch.rows[np.linspace(0, len(epoch.rows) - 1, _SAMPLE).astype(int)]:
        try:
            example = data.encode(data.pairs.read(int(row)), epoch=0)
        except ContentError:
            continue
        tried += 1
        for content in (example.query, example.positive, *example.negatives):
            lengths.append(len(content.example.words))
            images.append(int(content.example.image_tokens.sum()))
    each = len(lengths) / max(tried, 1)
    tokens = round(rows * each * float(np.mean(lengths or [0])))
    shown = round(rows * each * float(np.mean(images or [0])))
    # Chunks are cut by cost from rows sorted by length: little of them is padding. A pass without a graph comes first (gradient caching).
    batch = int(config.budget)
    return Amount(steps, rows, tokens, shown, tokens, batch, passes=1, batch_images=round(batch * shown / max(tokens, 1)))
