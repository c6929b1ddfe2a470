"""What `bridge` looks at beside training: what EOS carries in held-out rows, and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.content import ContentError
from twoway.data.bridge_rows import sides
from twoway.model import backbone
from twoway.training.bridge_probes import METHODS, BridgeProber, attention, measure
from twoway.training.pairs import Pair, match
from twoway.training.report_bridge import BridgeShown, write_bridge_report
from twoway.training.report_examples import collect
from twoway.training.trainer import Events, Trainer

from .bridge_data import COUNTED, CountingLoader
from .pretrain_watch import source_rows

if TYPE_CHECKING:
    from pathlib import Path

    from .bridge_config import BridgeConfig
    from .bridge_task import Bridge
    from .pretrain_data import RowData
    from .stage_model import Prepared


class BridgeWatch(Events):
    """Measures what went through EOS, and keeps `report.html` up to date."""

    def __init__(self, prepared: Prepared[Bridge], data: RowData, config: BridgeConfig, out: Path) -> None:
        self.prepared, self.data, self.config, self.out = prepared, data, config, out
        self.pairs: list[Pair] = []

    def start(self, trainer: Trainer) -> None:
        """Read the held-out rows and pair them up."""
        rows = []
        for row in self.data.held:
            try:
                identity, document = self.data.mixture.read(int(row))
                found = sides(document, self.config.text_cut).joined
                found.fingerprint()  # opens every file
            except ContentError:
                continue
            rows.append((identity, found))
        self.pairs = match(rows)
        self.prober = BridgeProber(
            self.data.encode,
            self.data.mask,
            self.data.collate,
            self.prepared.geometry,
            self.prepared.token.id,
            device=str(trainer.ranks.device),
            autocast=self.config.dtype == "bfloat16",
        )

    def evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """Measure, and write the report as far as the run has come."""
        found = measure(trainer.task, self.pairs, self.prober) | self._counted(trainer)
        if found and trainer.step < trainer.total:
            self._report(trainer, {"step": trainer.step, **found})
        return found

    def end(self, trainer: Trainer) -> None:
        """Write the report of the whole run."""
        self._report(trainer, None)

    def _counted(self, trainer: Trainer) -> dict[str, float]:
        """Return how many rows were read and cut since this process began, over all ranks."""
        counts = self.data.loader.counts if isinstance(self.data.loader, CountingLoader) else {}
        return dict(zip(COUNTED.values(), trainer.ranks.sum([float(counts.get(name, 0)) for name in COUNTED]), strict=True))

    def _report(self, trainer: Trainer, latest: dict[str, Any] | None) -> None:
        # All ranks look, because parts of the model may lie on each; the first writes.
        task: Any = trainer.task
        pictured = sorted(self.pairs, key=lambda pair: not pair.document.images)  # there is more to look at
        examples = collect(task, pictured, self.prober, self.prepared.processor, methods=METHODS)
        looks = attention(task, self.pairs, self.prober)
        if trainer.ranks.first:
            shown = BridgeShown(trainer.total, source_rows(self.data), examples, backbone.versions(), attention=looks)
            write_bridge_report(self.out, shown, latest)
