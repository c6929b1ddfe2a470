"""The first stage: the tower learns to see before a language model reads it.

A picture is the mean of its tokens, a concept the mean of the token embeddings of one of its names or of some keywords, and every picture
is to find its own concept among all of them. No language model runs, so a row costs a third of one of the next stage, and all of the loss
is about the picture. The next stage begins with this tower and these token embeddings; most vision-language models begin so, with a tower
that has learned pictures and their words by contrast.
"""

from __future__ import annotations

import dataclasses
import math
import random
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from .loop import run_steps
from .optimiser import MuonAndAdamW, rate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from .base import Nano
    from .config import NanoConfig
    from .table import Concept

NAME = "tower.safetensors"
NAMES = 3  # how often the English name stands among a concept's words
KEYWORDS = 4


class Matching:
    """Which concept a picture shows, by the mean of its tokens and the mean of the concepts' words."""

    def __init__(self, nano: Nano) -> None:
        self.rows, self.forward, self.config = nano.rows, nano.forward, nano.config
        self.words = [[self.rows.encode(said) for said in words_of(concept)] for concept in nano.world.concepts]

    def loss(self, step: int) -> Tensor:
        """Return the loss of one step's batch: over all concepts, each in words drawn anew."""
        rng = random.Random(f"{self.config.seed}/tower/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        concepts, pixels = self.rows.pictures(step, self.config.tower_batch, rng, generator)
        logits = self.seen(pixels) @ self.said([rng.choice(words) for words in self.words]).T
        return functional.cross_entropy(logits / self.config.tower_temperature, torch.tensor(concepts))

    def seen(self, pixels: Tensor) -> Tensor:
        """Return the unit vectors of pictures."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.forward.dtype == "bfloat16"):
            tokens = self.forward.pictures(pixels)
        return functional.normalize(tokens.float().view(len(pixels), -1, tokens.shape[-1]).mean(1), dim=-1)

    def said(self, words: list[tuple[int, ...]]) -> Tensor:
        """Return the unit vectors of texts."""
        table = self.forward.model.get_input_embeddings().weight
        table = table if self.config.tower_words else table.detach()
        firsts = torch.tensor([0, *(len(tokens) for tokens in words[:-1])]).cumsum(0)
        flat = torch.tensor([token for tokens in words for token in tokens])
        return functional.normalize(functional.embedding_bag(flat, table, firsts, mode="mean"), dim=-1)


def words_of(concept: Concept) -> list[str]:
    """Return what a concept is called: its names in every language that is not held out, the English one more often, and its keywords."""
    names, keywords = concept["names"], concept["keywords"].get("en", [])
    other = [name for language, name in names.items() if language != "en"]
    return [*[names["en"]] * NAMES, *other, *([", ".join(keywords[:KEYWORDS])] if keywords else [])]


def train_tower(nano: Nano, folder: Path, *, seen: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Train the tower, and the token embeddings where they learn too, to the end of their stage, going on from what `folder` holds."""
    config, model = stage(nano.config), nano.forward.model
    optimiser, matching = MuonAndAdamW(model, config), Matching(nano)

    def make_step(step: int) -> float:
        loss = matching.loss(step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step(rate(step, config))
        return float(loss.detach())

    def note(entry: dict[str, Any]) -> None:
        if seen:
            seen(entry | {"stage": "tower", "steps": config.steps})

    for _ in run_steps(model, optimiser, config, folder, make_step, note, name=NAME):
        pass


def stage(config: NanoConfig) -> NanoConfig:
    """Return the settings of this stage: its own length and batch, the rate falling over the last third."""
    rows = config.tower_rows
    return dataclasses.replace(config, rows=rows, batch=config.tower_batch, decay_rows=math.ceil(rows / 3), tower_share=1.0)
