"""What `pretrain` looks at beside training: the probes on held-out rows, and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.model import backbone
from twoway.training.pairs import Pair, pair
from twoway.training.probes import Prober, measure
from twoway.training.report import Shown, write_report
from twoway.training.report_examples import collect

from .next_token import NOTHING_MASKED
from .row_watch import RowWatch

if TYPE_CHECKING:
    from pathlib import Path

    from twoway.training.trainer import Trainer

    from .pretrain_config import PretrainConfig
    from .pretrain_data import RowData
    from .reconstruction import Reconstruction
    from .stage_model import Prepared


class Watch(RowWatch):
    """Measures whether words and pictures help each other, and keeps `report.html` up to date."""

    def __init__(self, prepared: Prepared[Reconstruction], data: RowData, config: PretrainConfig, out: Path) -> None:
        self.prepared, self.data, self.config, self.out = prepared, data, config, out
        self.pairs: list[Pair] = []

    def start(self, trainer: Trainer) -> None:
        """Read the held-out rows and pair them up."""
        self.pairs = pair(self.held_rows())
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
            autocast=trainer.config.dtype == "bfloat16",
            **shares,
        )

    def measure(self, trainer: Trainer) -> dict[str, Any]:
        """Measure what pictures and captions give each other."""
        return measure(trainer.task, self.pairs, self.prober)

    def report(self, trainer: Trainer, latest: dict[str, Any] | None) -> None:
        """Restore some rows on all ranks; the first writes."""
        examples = collect(trainer.task, self.pairs, self.prober, self.prepared.processor)
        if not trainer.ranks.first:
            return
        write_report(self.out, Shown(trainer.total, self.sources(), examples, backbone.versions()), latest)

    def _shares(self) -> tuple[tuple[str, float, float], ...]:
        return ("words", self.config.mask.words, 0.4), ("patches", self.config.mask.patches, 0.5)
