"""What `pretrain` looks at beside training: the probes on held-out rows, and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError
from twoway.model import backbone
from twoway.training.pairs import Pair, pair
from twoway.training.probes import Prober, measure
from twoway.training.report import Shown, write_report
from twoway.training.report_examples import collect
from twoway.training.trainer import Events, Trainer

from .next_token import NOTHING_MASKED

if TYPE_CHECKING:
    from pathlib import Path

    from .pretrain_config import PretrainConfig
    from .pretrain_data import RowData
    from .reconstruction import Reconstruction
    from .stage_model import Prepared


class Watch(Events):
    """Measures whether words and pictures help each other, and keeps `report.html` up to date."""

    def __init__(self, prepared: Prepared[Reconstruction], data: RowData, config: PretrainConfig, out: Path) -> None:
        self.prepared, self.data, self.config, self.out = prepared, data, config, out
        self.pairs: list[Pair] = []

    def start(self, trainer: Trainer) -> None:
        """Read the held-out rows and pair them up."""
        rows = []
        for row in self.data.held:
            try:
                identity, document = self.data.mixture.read(int(row))
                document.fingerprint()  # opens every file
            except ContentError:
                continue
            rows.append((identity, document))
        self.pairs = pair(rows)
        # A share of 0 or 1 says what is trained; what is measured needs something masked and something left.
        shares = {name: share if 0 < share < 1 else default for name, share, default in self._shares()}
        if self.config.objective == "causal":
            shares = {"words": NOTHING_MASKED.words, "keep": NOTHING_MASKED.keep}
        self.prober = Prober(
            self.data.encode,
            self.data.collate,
            self.prepared.geometry,
            self.prepared.token.id,
            seed=self.config.seed,
            device=str(trainer.ranks.device),
            autocast=self.config.dtype == "bfloat16",
            **shares,
        )

    def evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """Measure, and write the report as far as the run has come."""
        found = measure(trainer.task, self.pairs, self.prober)
        if found and trainer.step < trainer.total:
            self._report(trainer, {"step": trainer.step, **found})
        return found

    def end(self, trainer: Trainer) -> None:
        """Write the report of the whole run."""
        self._report(trainer, None)

    def _report(self, trainer: Trainer, latest: dict[str, Any] | None) -> None:
        # All ranks look, because parts of the model may lie on each; the first writes.
        examples = collect(trainer.task, self.pairs, self.prober, self.prepared.processor)
        if not trainer.ranks.first:
            return
        write_report(self.out, Shown(trainer.total, source_rows(self.data), examples, backbone.versions()), latest)

    def _shares(self) -> tuple[tuple[str, float, float], ...]:
        return ("words", self.config.mask.words, 0.4), ("patches", self.config.mask.patches, 0.5)


def source_rows(data: RowData) -> list[tuple[str, float, int, int]]:
    """Return each source's name and weight, and its rows, all and held out."""
    mixture, held = data.mixture, data.held
    counts = np.bincount(mixture.source_of(held), minlength=len(mixture.sources)) if len(held) else [0] * len(mixture.sources)
    rows = zip(mixture.sources, mixture.tables, counts, strict=True)
    return [(source.label, source.weight, len(table), int(count)) for source, table, count in rows]
