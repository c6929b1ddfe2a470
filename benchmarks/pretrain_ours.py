"""Our side of the pre-training benchmark: the task, the loader and the trainer's own step, without checkpoints and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.data.config import MaskingConfig, SourceConfig
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.pretrain.data import open_data
from twoway.methods.pretrain.method import prepare
from twoway.training.distributed import Ranks
from twoway.training.trainer import Trainer

if TYPE_CHECKING:
    from pathlib import Path

_NEVER = 10**9


class Ours:
    """A run that only steps; batches are made in this process, so that their time counts."""

    def __init__(self, base: Path, data: Path, out: Path, **options: Any) -> None:
        """Prepare a run on `data`; `out` takes its tables."""
        options["mask"] = MaskingConfig(**options.get("mask", {}))
        self.config = PretrainConfig(
            data=(SourceConfig(str(data)),),
            dataloader_num_workers=0,
            held_out=0,
            device="cpu",
            save_steps=_NEVER,
            logging_steps=_NEVER,
            **options,
        )
        self.prepared = prepare(base, self.config)
        out.mkdir()
        self.data = open_data(self.config, self.prepared, out, shards=1, bad_rows=None)
        self.trainer = Trainer(self.prepared.module, self.config, out, total_steps=_NEVER, ranks=Ranks("cpu"))
        self.trainer.log = None
        self.task = self.prepared.module.train()
        self.at = 0

    def batches(self, epoch: int) -> list[int]:
        """Return the numbers of an epoch's steps."""
        before = self.data.epochs.steps(epoch)
        return list(range(before, before + len(self.data.epochs.plan(epoch))))

    def make(self, number: int) -> Any:
        """Make the batches of a step."""
        return next(iter(self.data.loader.steps(number, number + 1)))

    def step(self, number: int) -> None:
        """Make the batches of a step and train on them."""
        batches = self.make(number)
        self.trainer.train_step(batches, self.trainer.count_targets(batches))
