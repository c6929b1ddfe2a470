"""What one run of the nano base is: every number in one frozen dataclass, so that a run is a pure function of it and of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from twoway.data.sources.samples import HELD_LANGUAGES, HELD_SOURCES, HELD_STYLES


@dataclass(frozen=True)
class NanoConfig:
    """Sizes, data mix and schedule of a nano base; the defaults make the shipped one."""

    # what the text part is made of, what the card says of it, and the type that the result is saved in
    lm: ClassVar[str] = "own"
    origin: ClassVar[str] = "trained from nothing"
    saved_dtype: ClassVar[str] = "bfloat16"
    family: str = "qwen2_vl"
    seed: int = 1
    # language model
    vocabulary: int = 4000
    width: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 768
    # tower
    tower_width: int = 192
    tower_layers: int = 4
    tower_heads: int = 4
    patch: int = 8
    merge: int = 2
    picture: int = 64
    largest: int = 160
    # rows: `rows` counts pictures of `picture` pixels a side; larger ones count by their patches
    rows: int = 450_000
    batch: int = 64
    text_rows: int = 16
    text_weight: float = 0.5
    longest: int = 48
    bare_rows: int = 16_000  # of the first rows, most captions are bare names
    bare_share: float = 0.8
    questions: float = 0.10
    pairs: float = 0.03
    canvases: float = 0.03
    scenes: float = 0.04
    large: float = 0.02
    pages: float = 0.08
    # the first stage, of the tower alone: pictures among all concepts
    tower_rows: int = 345_600
    tower_batch: int = 192
    tower_temperature: float = 0.05
    tower_words: bool = True  # the token embeddings learn in it, too
    # optimiser
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.98
    decay: float = 0.05
    clip: float = 1.0
    warmup: int = 150
    final: float = 0.03
    tower_share: float = 0.2  # of the rate, for the tower once it has learned
    decay_rows: int = 40_000  # the last rows, in which the rate falls
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the arithmetic, as in `training`
    # what it is trained on, and what never
    tables: tuple[str, ...] = ("concepts", "pictures", "texts", "pages")
    unseen_styles: tuple[str, ...] = HELD_STYLES
    held_sources: tuple[str, ...] = HELD_SOURCES
    held_languages: tuple[str, ...] = HELD_LANGUAGES
    # what the result must reach, in nats a token
    gate_trained: float = 2.0
    gate_unseen: float = 1.3

    @property
    def steps(self) -> int:
        """Return the number of optimiser steps that `rows` makes."""
        return max(1, -(-self.rows // self.batch))

    @property
    def decay_start(self) -> int:
        """Return the step at which the rate begins to fall: before it, a run does not depend on how long it will be."""
        return max(0, self.steps - -(-self.decay_rows // self.batch))
