"""What every training stage can be told beside how it trains: its data, how batches are made, and which weights train."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003 - read at run time
from typing import Literal

from twoway.data.mixture import SourceConfig  # noqa: TC001 - read at run time
from twoway.data.sampler import CostWeights
from twoway.errors import UsageError
from twoway.images import ReadLimits, check_pixels
from twoway.models.kernels import AttnImplementation, by_part
from twoway.training.config import TrainConfig


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA: rank 0 trains the weights themselves."""

    rank: int = 0
    alpha: int = 64
    dropout: float = 0.1
    dora: bool = False
    parts: tuple[Literal["language", "tower", "projector"], ...] = ("language",)
    target_modules: tuple[str, ...] = ()  # linear layers of these parts by name, such as q_proj; default: all of them
    init_lora_weights: Literal["default", "gaussian"] = "default"  # peft's own start, or N(0, 1 / rank); both leave the model as it is

    def covers(self, name: str) -> bool:
        """Say whether a linear layer of a chosen part gets an adapter."""
        return not self.target_modules or name.rpartition(".")[2] in self.target_modules

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.rank < 0 or not 0 <= self.dropout < 1:
            raise UsageError(f"an adapter's rank is 0 or more and its dropout a share below 1, not {self.rank} and {self.dropout}")
        if self.rank and not self.parts:
            raise UsageError("an adapter needs a part to be put on: language, tower or projector")


@dataclass(frozen=True)
class MethodConfig(TrainConfig):
    """What the stages have in common; each adds what it alone has."""

    data: tuple[SourceConfig, ...] = ()
    max_steps: int | None = None  # default: as many as `num_train_epochs` make
    num_train_epochs: int = 1
    max_length: int = 2048
    min_pixels: int | None = None  # smaller pictures are enlarged to this area, larger than max_pixels are shrunk to that;
    max_pixels: int | None = None  # both are saved with the processor. Default: as the base's processor has it
    template: Literal["chat", "plain"] = "chat"
    budget: float = 12_800.0  # cost of a rank's batch, in text tokens
    cost: CostWeights = field(default_factory=CostWeights)  # of an image token and of a picture, for the budget
    batch_rows: int | None = None  # rows of a batch, instead of the budget
    shards: int | None = None  # batches of a step, over all ranks; a rank adds its own up. Default: one for each rank
    # A kernel's name, or one for each of tower, language and decoder; auto: flash_attention_2 where it is installed and can be used.
    attn_implementation: str | AttnImplementation = "auto"
    freeze_tower: bool = False
    train_layers: int = 0  # only the last N layers of the language model; 0 for all
    lora: AdapterConfig = field(default_factory=AdapterConfig)
    held_out: int = 128  # rows kept out of training to measure on (no more than a twentieth of all)
    on_bad: Literal["fail", "skip"] = "fail"
    limits: ReadLimits = field(default_factory=ReadLimits)  # what is longer, or takes more to read, is a bad row
    max_bad_share: float = 0.1  # a source of 1,000 rows or more that would lose more of them stops the run before its first step
    dataloader_num_workers: int = 2
    dataloader_prefetch_factor: int = 2
    dataloader_pin_memory: bool = True  # batches for a CUDA device lie in page-locked memory, so that they travel while it computes
    cache_dir: Path | None = None  # where what is found out about data is kept for all runs; default: twoway's cache (`files.cache_home`)
    prepared_only: bool = False  # refuse data that was not prepared before (`twoway data prepare`), instead of looking through it now

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        super().__post_init__()
        by_part(self.attn_implementation)
        for name in ("num_train_epochs", "max_length", "dataloader_prefetch_factor"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("max_steps", "batch_rows", "shards"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("train_layers", "dataloader_num_workers", "held_out"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is 0 or more, not {getattr(self, name)}")
        if not 0 <= self.max_bad_share <= 1:
            raise UsageError(f"max_bad_share is a share from 0 to 1, not {self.max_bad_share}")
        check_pixels(self.min_pixels, self.max_pixels)
        if not 0 < self.budget < math.inf:
            raise UsageError(f"budget is above 0, not {self.budget}")
