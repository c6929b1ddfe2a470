"""What every training stage can be told; the stages add their own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from twoway.errors import UsageError

TrackerName = Literal["none", "tensorboard", "wandb", "mlflow", "comet_ml", "clearml", "aim", "dvclive", "swanlab", "trackio"]
# What may differ between the commands of one run: it changes how fast or how loud it is, and no number that it computes.
_SPEED = (
    "workers",
    "prefetch",
    "parallel",
    "device",
    "nproc",
    "timeout_minutes",
    "attn_implementation",
    "cache_dir",
    "prepared_only",
    "pin_memory",
    "worker_type",
    "decoded_bytes",
)
_SEEN = ("save_steps", "save_minutes", "save_total", "log_steps", "log", "eval_steps", "eval_data", "eval_rows", "max_bad_share", "limits")
FREE = frozenset((*_SPEED, *_SEEN))


@dataclass(frozen=True)
class TrainConfig:
    """What every training stage has. The defaults are those of the MoCa paper where it says one."""

    seed: int = 0
    lr: float = 2e-6
    warmup: float = 0.1  # share of the steps
    clip: float = 5.0  # largest norm of a step's gradient; 0 for none
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the arithmetic (`precision`); weights and optimizer are float32
    # auto: fsdp where the plan says that a rank's memory does not hold what ddp keeps on it
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    device: Literal["auto", "cpu"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    save_steps: int = 200
    save_minutes: float = 30.0  # a checkpoint at least this often, whatever the steps take; 0 for by steps alone
    save_total: int = 2
    log_steps: int = 1
    eval_steps: int = 0  # 0 for at the start and at the end alone
    log: TrackerName = "none"
    timeout_minutes: float = 15.0  # how long ranks wait for one another in a step

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("save_steps", "save_total", "log_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("clip", "weight_decay", "eval_steps", "seed", "save_minutes"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} may not be negative: {getattr(self, name)}")
        if not 0 < self.timeout_minutes <= 24 * 60:
            raise UsageError(f"timeout_minutes is above 0 and at most a day, not {self.timeout_minutes}")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr must be above 0, not {self.lr}")
        if not 0 <= self.warmup <= 1:
            raise UsageError(f"warmup is a share of the steps from 0 to 1, not {self.warmup}")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise UsageError(f"beta1 and beta2 are from 0 to below 1, not {self.beta1} and {self.beta2}")
