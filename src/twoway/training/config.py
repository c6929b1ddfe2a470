"""What every training stage can be told; the stages add their own."""

from __future__ import annotations

import math
from typing import Literal

from twoway.config import Field, settings
from twoway.errors import UsageError

TrackerName = Literal["none", "tensorboard", "wandb", "mlflow", "comet_ml", "clearml", "aim", "dvclive", "swanlab", "trackio"]
# What may differ between the commands of one run: it changes how fast or how loud it is, and no number that it computes.
_SPEED = (
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "parallel",
    "device",
    "nproc",
    "ddp_timeout",
    "attn_implementation",
    "cache_dir",
    "prepared_only",
    "dataloader_pin_memory",
    "worker_type",
    "decoded_bytes",
)
_SEEN = (
    "save_steps",
    "save_minutes",
    "save_total_limit",
    "logging_steps",
    "report_to",
    "eval_steps",
    "eval_data",
    "eval_rows",
    "max_bad_share",
    "limits",
)
FREE = frozenset((*_SPEED, *_SEEN))


@settings
class TrainConfig:
    """What every training stage has. The defaults are those of the MoCa paper where it says one."""

    seed: int = Field(default=0, ge=0, description="seed of everything that is drawn at random")
    learning_rate: float = Field(default=2e-6, gt=0, lt=math.inf, description="learning rate at its peak")
    warmup_steps: float = Field(
        default=0.1, ge=0, lt=math.inf, description="steps in which the learning rate rises; below 1, a share of all steps"
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup", "warmup_stable_decay"] = Field(
        default="linear", description="what the learning rate does after its warm-up: fall over all steps, stay, or fall at the end alone"
    )
    decay_steps: float = Field(
        default=0.2, gt=0, lt=math.inf, description="with warmup_stable_decay, the last steps, in which the rate falls; below 1, a share"
    )
    max_grad_norm: float = Field(default=5.0, ge=0, description="largest norm of a step's gradient; 0: no limit")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay of AdamW")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="beta1 of AdamW")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="beta2 of AdamW")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="type of the arithmetic, beside float32 weights. auto: bfloat16 where the machine is fast in it",
    )
    parallel: Literal["auto", "ddp", "fsdp"] = Field(
        default="auto", description="how ranks share a model. auto: fsdp where a rank's memory does not hold what ddp keeps on it"
    )
    device: Literal["auto", "cpu"] = Field(default="auto", description="device to train on")
    gradient_checkpointing: bool = Field(default=False, description="recompute activations in the backward pass, to save memory")
    torch_compile: bool = Field(default=False, description="compile the model with torch.compile")
    save_steps: int = Field(default=200, ge=1, description="steps between checkpoints")
    save_minutes: float = Field(default=30.0, ge=0, description="minutes between checkpoints at most; 0: save_steps alone decides")
    save_total_limit: int = Field(default=2, ge=1, description="checkpoints that are kept")
    logging_steps: int = Field(default=1, ge=1, description="steps between lines of the log")
    eval_steps: int = Field(default=0, ge=0, description="steps between evaluations; 0: at the start and at the end alone")
    report_to: TrackerName = Field(default="none", description="tracker that is logged to besides")
    ddp_timeout: float = Field(default=900.0, gt=0, le=24 * 3600, description="seconds that ranks wait for one another in a step")

    def __post_init__(self) -> None:
        """Refuse a part of a step."""
        for name in ("warmup_steps", "decay_steps"):
            steps = getattr(self, name)
            if steps > 1 and steps % 1:
                raise UsageError(f"{name} is a whole number of steps, or a share of them below 1, not {steps}")
