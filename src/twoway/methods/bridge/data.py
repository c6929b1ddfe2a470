"""The data of `bridge`: rows A [EOS] B by what they cost, masked in B."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from twoway.data.loader import Batch, Loader
from twoway.data.processing import ordinary_ids
from twoway.data.rows import Policy
from twoway.limits import Limits
from twoway.methods.pretrain.data import RowData, batches_of, row_costs
from twoway.methods.tables import TABLES, lost_rows, opening_data

from .rows import BridgeEncoder, collate_bridge, mask_target, open_bridge_mixture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from twoway.methods.model import PreparedModel

    from .config import BridgeConfig
    from .step import Bridge

# What is counted of the rows that were trained on, and what it is called in the log.
COUNTED = {"rows": "seen", "targets_cut": "targets_cut", "sources_cut": "sources_cut"}


class CountingLoader(Loader):
    """A loader that counts what was cut in the rows it gave."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.counts: Counter[str] = Counter()

    def steps(self, start: int, stop: int, rank: int = 0, ranks: int = 1) -> Iterator[tuple[Batch | None, ...]]:
        """See `Loader`."""
        for batches in super().steps(start, stop, rank, ranks):
            for batch in batches:
                self.counts.update({name: batch["counts"][name] for name in COUNTED} if batch is not None else {})
            yield batches


def open_data(
    config: BridgeConfig, prepared: PreparedModel[Bridge], out: Path, *, shards: int, bad_rows: Path | None, keep: bool = False
) -> RowData:
    """Open the sources of a run; with `keep` the list of bad rows is kept."""
    policy = Policy(config.on_bad, bad_rows, keep=keep)
    with opening_data(config) as kept:
        mixture = open_bridge_mixture(config.data, folder=kept, policy=policy, limits=Limits.reading(config.limits))
    parts, geometry = prepared.processor, prepared.geometry
    encode = BridgeEncoder(
        parts,
        geometry,
        max_length=prepared.max_length,
        max_target=config.max_target,
        template=config.template,
        whole_words=config.mask.unit == "word",
        text_cut=config.text_cut,
    )
    lost = lost_rows(mixture, encode, most=config.max_bad_share)
    ordinary = ordinary_ids(parts) if config.mask.random else None
    mask = partial(mask_target, config=config.mask, seed=config.seed, mask_token=prepared.token.id, geometry=geometry, ordinary=ordinary)
    together = partial(collate_bridge, pad_token=prepared.pad_token, padding_side=parts.tokenizer.padding_side)
    costs = row_costs(mixture, encode, config, prepared, out / TABLES)
    return batches_of(config, mixture, (encode, mask, together), costs, lost, shards=shards, policy=policy, loader=CountingLoader)
