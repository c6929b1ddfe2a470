"""The data of `pretrain`: sources become rows, rows become plans by what they cost, plans become masked batches.

A step's rows are a function of seed, step and what rows cost: the plan of an epoch is made anew, and nothing is walked through.
What a row costs is estimated from its characters and the sizes of its pictures (`data.lengths`), once, and kept in the run's folder, too:
another machine may round it in another way, and would plan other batches.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.data.collators import collate
from twoway.data.config import CostWeights
from twoway.data.dataset import data_folder
from twoway.data.lengths import estimate_costs
from twoway.data.loader import Loader
from twoway.data.masking import mask_inputs
from twoway.data.mixture import Mixture, held_out, open_mixture
from twoway.data.processing import Encoder, ordinary_ids
from twoway.data.rows import Policy
from twoway.data.sampler import CostBatchSampler, RowCosts
from twoway.files import write_whole
from twoway.limits import Limits
from twoway.methods.counting import known_work
from twoway.methods.tables import TABLES, LostRows, for_cuda, lost_rows, opening_data, table_path

from .step import NOTHING_MASKED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from twoway.data.lengths import RowEncoder
    from twoway.methods.config import MethodConfig
    from twoway.methods.model import PreparedModel

    from .config import PretrainConfig
    from .step import Reconstruction

_EPOCH = -2  # of rows that are tried, and trained on by nobody


@dataclass(frozen=True)
class RowData:
    """The data of a run: `loader` gives the batches of any step; the rest is for looking at rows one by one."""

    mixture: Mixture
    encode: Any  # encode(identity, document)
    mask: Callable[..., Any]  # mask(example, epoch=…)
    collate: Callable[..., Any]
    epochs: CostBatchSampler
    loader: Loader
    held: NDArray[np.int64]  # rows of the mixture that no epoch has
    lost: tuple[LostRows, ...] = ()  # sources that lose many rows

    def total(self, config: MethodConfig) -> int:
        """Return the number of steps of the run."""
        return config.max_steps or self.epochs.steps(config.num_train_epochs)

    def digest(self) -> Any:
        """Return what tells this data from other data."""
        return self.mixture.digest()


def open_data(
    config: PretrainConfig, prepared: PreparedModel[Reconstruction], out: Path, *, shards: int, bad_rows: Path | None, keep: bool = False
) -> RowData:
    """Open the sources of a run; with `keep` the list of bad rows is kept."""
    policy = Policy(config.on_bad, bad_rows, keep=keep)
    with opening_data(config) as kept:
        mixture = open_mixture(config.data, folder=kept, policy=policy, limits=Limits.reading(config.limits))
    parts, geometry = prepared.processor, prepared.geometry
    masks = NOTHING_MASKED if config.objective == "causal" else config.mask
    whole_words = masks.unit == "word"
    encode = Encoder(parts, geometry, max_length=prepared.max_length, template=config.template, whole_words=whole_words)
    lost = lost_rows(mixture, encode, most=config.max_bad_share)
    ordinary = ordinary_ids(parts) if masks.random else None
    mask = partial(mask_inputs, config=masks, seed=config.seed, mask_token=prepared.token.id, geometry=geometry, ordinary=ordinary)
    together = partial(collate, pad_token=prepared.pad_token, padding_side=parts.tokenizer.padding_side)
    weights = _work(config, prepared, lambda name, document: together([mask(encode(name, document), epoch=_EPOCH)]), out / TABLES)
    costs = row_costs(mixture, encode, config, prepared, out / TABLES, weights)
    return batches_of(config, mixture, (encode, mask, together), costs, lost, shards=shards, policy=policy)


def batches_of(
    config: MethodConfig,
    mixture: Mixture,
    makers: tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]],
    costs: RowCosts,
    lost: tuple[LostRows, ...],
    *,
    shards: int,
    policy: Policy,
    loader: type[Loader] = Loader,
) -> RowData:
    """Return the data of a run whose batches are of equal cost; `makers` encode a row, mask it, and put rows together."""
    held = held_out(mixture, config.held_out)
    epochs = CostBatchSampler(
        mixture, costs, seed=config.seed, shards=shards, budget=config.budget, batch_rows=config.per_device_train_batch_size, held_out=held
    )
    workers = {"workers": config.dataloader_num_workers, "prefetch": config.dataloader_prefetch_factor, **for_cuda(config)}
    return RowData(mixture, *makers, epochs, loader(epochs, *makers, policy=policy, **workers), held, lost)


def _work(config: PretrainConfig, prepared: PreparedModel[Reconstruction], make: Callable[..., Any], folder: Path) -> CostWeights:
    """Count the work of batches on the model, for the log, and return what image tokens and pictures cost."""
    if config.calibrate == "none" or getattr(prepared, "module", None) is None:
        return config.cost  # a forecast has no model to count on
    found = known_work(config, prepared, make, folder)
    if any(found.line):
        prepared.module.count_work = lambda batch: found.of(batch, prepared.module, prepared.geometry)
    return found.cost if config.cost == CostWeights() else config.cost


def row_costs(
    mixture: Mixture,
    encode: RowEncoder,
    config: MethodConfig,
    prepared: PreparedModel[Any],
    folder: Path,
    weights: CostWeights | None = None,
) -> RowCosts:
    """Estimate what every row costs, or read what was estimated when the run began."""
    weights = weights or config.cost
    bounds = [config.min_pixels, config.max_pixels]
    said = [mixture.digest(), encode.max_length, config.template, vars(weights), *([bounds] if any(bounds) else [])]
    path = table_path(folder, "costs", said, prepared, ".npy")
    if not path.exists():
        made, content = estimate_costs(mixture, encode, weights, folder=data_folder(config.cache_dir)), io.BytesIO()
        np.save(content, np.stack([made.length, made.extra]), allow_pickle=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getvalue())
    length, extra = np.load(path, allow_pickle=False)
    return RowCosts(length, extra)
