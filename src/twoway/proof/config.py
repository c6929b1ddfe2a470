"""What a proof can be told."""

from __future__ import annotations

from typing import Literal

from twoway.config import Field, settings
from twoway.models.config import Attention

Backend = Literal["sdpa", "eager", "flex_attention", "flash_attention_2"]
BACKENDS: tuple[Backend, ...] = ("sdpa", "eager", "flex_attention", "flash_attention_2")


@settings
class BridgeCheckConfig:
    """How the proof of the bridge is run."""

    backends: tuple[Backend, ...] = Field(
        default=(), metavar="NAME", description="attention backends to try (default: all; on a CPU flex_attention runs unfused)"
    )
    processor: str | None = Field(default=None, metavar="DIR", description="where the processor is (default: with the model)")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(default="float32", description="precision to run in")
    device: str = Field(default="cpu", metavar="NAME", description="device to run on")


@settings
class CheckConfig(BridgeCheckConfig):
    """How the proof of a model's attention is run."""

    expect: Attention | None = Field(default=None, description="what the model must be (default: what it declares)")
