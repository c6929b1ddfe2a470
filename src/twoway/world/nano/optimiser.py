"""Muon for the matrices inside the model, AdamW for tables, convolutions and vectors, as one optimiser.

With AdamW alone a base of this size first learns the language and then, slowly, to look. Muon gives every direction of a matrix the same
step, and the picture counts from the beginning.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .config import NanoConfig

# Muon's rate over AdamW's, with its steps scaled to AdamW's size.
MUON = 2.0
MOMENTUM = 0.95


class MuonAndAdamW:
    """Two optimisers that share one state and one list of groups; `share` in a group multiplies its learning rate."""

    def __init__(self, model: Any, config: NanoConfig) -> None:
        tables = {id(table.weight) for table in (model.get_input_embeddings(), model.get_output_embeddings()) if table is not None}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        inner = [parameter for parameter in trained if parameter.dim() == 2 and id(parameter) not in tables]
        other = {id(parameter) for parameter in trained} - {id(parameter) for parameter in inner}
        matrices = [parameter for parameter in trained if id(parameter) in other and parameter.dim() > 1]
        vectors = [parameter for parameter in trained if id(parameter) in other and parameter.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": config.decay}, {"params": vectors, "weight_decay": 0.0}]
        adam = torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
        self.optimisers: list[torch.optim.Optimizer] = [adam]
        if inner:
            muon = torch.optim.Muon(inner, lr=config.lr, weight_decay=config.decay, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
            muon.param_groups[0]["share"] = MUON
            muon.state = adam.state
            self.optimisers.append(muon)
        self.state = adam.state
        self.param_groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]

    def step(self, lr: float) -> None:
        """Make one step at this learning rate and forget the gradients."""
        for group in self.param_groups:
            group["lr"] = lr * group.get("share", 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)


def rate(step: int, config: NanoConfig) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine to its final share."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
