"""What `bridge` looks at beside training: what EOS carries in held-out rows, and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.data.bridge_rows import sides
from twoway.model import backbone
from twoway.training.bridge_probes import METHODS, BridgeProber, attention, measure
from twoway.training.pairs import Pair, match
from twoway.training.report_bridge import BridgeShown, write_bridge_report
from twoway.training.report_examples import collect

from .bridge_data import COUNTED, CountingLoader
from .row_watch import RowWatch

if TYPE_CHECKING:
    from pathlib import Path

    from twoway.content import Document
    from twoway.training.trainer import Trainer

    from .bridge_config import BridgeConfig
    from .bridge_task import Bridge
    from .pretrain_data import RowData
    from .stage_model import Prepared


class BridgeWatch(RowWatch):
    """Measures what went through EOS, and keeps `report.html` up to date."""

    def __init__(self, prepared: Prepared[Bridge], data: RowData, config: BridgeConfig, out: Path) -> None:
        self.prepared, self.data, self.config, self.out = prepared, data, config, out
        self.pairs: list[Pair] = []

    def start(self, trainer: Trainer) -> None:
        """Read the held-out rows and pair them up."""
        self.pairs = match(self.held_rows())
        self.prober = BridgeProber(
            self.data.encode,
            self.data.mask,
            self.data.collate,
            self.prepared.geometry,
            self.prepared.token.id,
            device=str(trainer.ranks.device),
            autocast=trainer.config.dtype == "bfloat16",
        )

    def seen(self, document: Document) -> Document:
        """Return A and B behind each other, as the bridge reads them."""
        return sides(document, self.config.text_cut).joined

    def measure(self, trainer: Trainer) -> dict[str, Any]:
        """Measure what EOS carries, and count what was cut."""
        return measure(trainer.task, self.pairs, self.prober) | self._counted(trainer)

    def _counted(self, trainer: Trainer) -> dict[str, float]:
        """Return how many rows were read and cut since this process began, over all ranks."""
        counts = self.data.loader.counts if isinstance(self.data.loader, CountingLoader) else {}
        return dict(zip(COUNTED.values(), trainer.ranks.sum([float(counts.get(name, 0)) for name in COUNTED]), strict=True))

    def report(self, trainer: Trainer, latest: dict[str, Any] | None) -> None:
        """Restore some rows and look at attention on all ranks; the first writes."""
        task: Any = trainer.task
        pictured = sorted(self.pairs, key=lambda pair: not pair.document.images)  # there is more to look at
        examples = collect(task, pictured, self.prober, self.prepared.processor, methods=METHODS)
        looks = attention(task, self.pairs, self.prober)
        if trainer.ranks.first:
            shown = BridgeShown(trainer.total, self.sources(), examples, backbone.versions(), attention=looks)
            write_bridge_report(self.out, shown, latest)
