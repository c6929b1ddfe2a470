"""What `finetune` measures on the way: retrieval on held-out rows and on sources of their own; the best weights are kept, and a report."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from typing import TYPE_CHECKING, Any

from twoway.model import backbone
from twoway.training.checkpoint import STATE, WEIGHTS, named, write_now
from twoway.training.trainer import Events, Trainer

from .finetune_report import Shown, write_report
from .retrieval_probe import measure, summary

if TYPE_CHECKING:
    from pathlib import Path

    from .contrastive_task import ContrastiveTask
    from .finetune_config import FinetuneConfig
    from .finetune_data import FinetuneData
    from .stage_model import Prepared

log = logging.getLogger(__name__)

BEST = "best"
_CASES = 2  # queries shown of each task, and as many of its worst


def chosen(out: Path, config: FinetuneConfig) -> Path | None:
    """Return the folder of the best weights, where they are to become the model."""
    return out / BEST if config.keep == "best" and (out / BEST).exists() else None


class Watch(Events):
    """Measures retrieval, keeps the best weights, and keeps `report.html` up to date."""

    def __init__(self, prepared: Prepared[ContrastiveTask], data: FinetuneData, config: FinetuneConfig, out: Path) -> None:
        self.prepared, self.data, self.config, self.out = prepared, data, config, out
        self.shown: Shown | None = None  # at the last evaluation of this process

    def evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """Measure, keep the weights where they are the best so far, and write the report."""
        found = measure(trainer.task, self.data, device=trainer.ranks.device, autocast=trainer.config.dtype == "bfloat16", cases=_CASES)
        entry: dict[str, Any] = summary(found)
        if found:
            # Sources of their own are measured for this; held-out rows are the rows of the training's own sources.
            name = found[-1].measured.name
            if trainer.step:
                self._keep(trainer, name, entry[f"mrr/{name}"])
        if trainer.ranks.first:
            self.shown = Shown(trainer.total, self.data.epochs.report(), found, backbone.versions())
            if trainer.step < trainer.total:
                write_report(self.out, self.shown, {"step": trainer.step, **entry})
        return entry

    def end(self, trainer: Trainer) -> None:
        """Write the report of the whole run, once the last step stands in the log."""
        if self.shown is not None:
            write_report(self.out, self.shown, None)

    def _keep(self, trainer: Trainer, name: str, score: float) -> None:
        """Write the weights beside the checkpoints where none that stand there did better on the same rows; every rank takes part."""
        place, none = self.out / BEST, {"score": -math.inf, "step": 0}
        best = json.loads((place / STATE).read_text(encoding="utf-8")) if (place / STATE).exists() else none
        rows = self._rows(name)
        if best is not none and best.get("rows") != rows:
            if trainer.ranks.first:
                said = (
                    "%s: the best weights so far, of step %d, were measured on other rows, so the best is looked for anew from step %d on"
                )
                log.warning(said, place, best["step"], trainer.step)
            best = none
        if not all(trainer.ranks.gather(score > best["score"] or (score == best["score"] and trainer.step <= best["step"]))):
            return
        write_now(place, named(WEIGHTS, trainer.parameters), {"step": trainer.step, "score": score, "rows": rows}, trainer.ranks)

    def _rows(self, name: str) -> str:
        """Return a hash of the rows that a set is measured on: scores on other rows are not to be compared."""
        said = [[one.task, one.rows.tolist(), one.pairs.digest()] for one in self.data.measured if one.name == name]
        return hashlib.sha256(json.dumps([name, said], default=str).encode()).hexdigest()[:16]
