"""The data of `pretrain`: sources become rows, rows become plans by what they cost, plans become masked batches.

A step's rows are a function of seed and step: the plan of an epoch is made anew from seed and epoch, and nothing is walked through.
Lengths are estimated: a row's text by its characters, with a rate measured on a few rows spread over the data, and its pictures by
the number of tokens that the processor itself says a picture of that size gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError
from twoway.data.batching import Costs, CostWeights
from twoway.data.collate import collate
from twoway.data.corrupt import corrupt
from twoway.data.encode import Encoder
from twoway.data.epochs import Epochs
from twoway.data.loader import Loader
from twoway.data.mixture import Mixture, open_mixture
from twoway.data.policy import Policy
from twoway.errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from .pretrain_config import PretrainConfig
    from .pretrain_model import Prepared

TABLES = "tables"
_SAMPLE = 32


@dataclass(frozen=True)
class PretrainData:
    """The data of a run: `loader` gives the batches of any step; the rest is for looking at rows one by one."""

    mixture: Mixture
    encode: Encoder
    mask: Callable[..., Any]  # mask(example, epoch=…)
    collate: Callable[..., Any]
    epochs: Epochs
    loader: Loader

    def total(self, config: PretrainConfig) -> int:
        """Return the number of steps of the run."""
        return config.max_steps or self.epochs.steps(config.epochs)


def open_data(config: PretrainConfig, prepared: Prepared, out: Path, *, shards: int, bad_rows: Path | None) -> PretrainData:
    """Open the sources of a run; their tables are kept in its folder."""
    policy = Policy(config.on_bad, bad_rows)
    mixture = open_mixture(config.data, folder=out / TABLES, policy=policy)
    parts, geometry = prepared.processor, prepared.geometry
    whole_words = config.mask.unit == "word"
    encode = Encoder(parts, geometry, max_length=prepared.max_length, template=config.template, whole_words=whole_words)
    ordinary = _ordinary(parts.tokenizer) if config.mask.random else None
    mask = partial(corrupt, config=config.mask, seed=config.seed, mask_token=prepared.token.id, geometry=geometry, ordinary=ordinary)
    together = partial(collate, pad_token=prepared.task.pad_token, padding_side=parts.tokenizer.padding_side)
    costs = measure(mixture, encode, parts)
    epochs = Epochs(mixture, costs, seed=config.seed, shards=shards, budget=config.budget, batch_rows=config.batch_rows)
    loader = Loader(epochs, encode, mask, together, workers=config.workers, prefetch=config.prefetch, policy=policy)
    return PretrainData(mixture, encode, mask, together, epochs, loader)


def _ordinary(tokenizer: Any) -> NDArray[np.int64]:
    """Return the ids that a random word is drawn from: all but the special and added ones."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return np.array(sorted(set(tokenizer.get_vocab().values()) - special), np.int64)


def measure(mixture: Mixture, encoder: Encoder, processor: Any) -> Costs:
    """Estimate what every row costs."""
    characters = np.concatenate([table.characters for table in mixture.tables]).astype(np.float64)
    images = np.concatenate([table.images() for table in mixture.tables])
    tokens = _image_tokens(mixture, processor)
    sample = np.unique(np.linspace(0, len(mixture) - 1, _SAMPLE).astype(np.int64))
    lengths, shown = [], []
    for row in sample:
        try:
            example = encoder(*mixture.read(int(row)))
        except ContentError:
            continue
        lengths.append(len(example.words) - int(example.image_tokens.sum()))
        shown.append([1.0, characters[row]])
    if not lengths:
        raise TwowayError("none of a sample of rows can be encoded; look at the data with `twoway data check`")
    fit, *_ = np.linalg.lstsq(np.array(shown), np.array(lengths, np.float64), rcond=None)
    text = np.maximum(fit[0] + fit[1] * characters, 1)
    longest = float(encoder.max_length)
    return Costs.of(np.minimum(text, longest), np.minimum(tokens, np.maximum(longest - text, 0)), images, CostWeights())


def _image_tokens(mixture: Mixture, processor: Any) -> NDArray[np.float64]:
    """Return how many tokens the pictures of each row get, as the processor says for each size."""
    found: list[NDArray[np.float64]] = []
    for table in mixture.tables:
        sizes = np.asarray(table.sizes).reshape(-1, 2)
        if not len(sizes):
            found.append(np.zeros(len(table)))
            continue
        kinds, which = np.unique(sizes, axis=0, return_inverse=True)
        counted = processor._get_num_multimodal_tokens(image_sizes=[(int(height), int(width)) for width, height in kinds])
        each = np.array(counted["num_image_tokens"], np.float64)[which.reshape(-1)]
        sums = np.concatenate([[0.0], np.cumsum(each)])
        found.append(sums[table.first[1:]] - sums[table.first[:-1]])
    return np.concatenate(found)
