"""Muon for the matrices inside the model, AdamW for tables, convolutions and vectors, as one optimiser.

With AdamW alone a base of this size first learns the language and then, slowly, to look. Muon gives every direction of a matrix the same
step, and the picture counts from the beginning.

Muon (K. Jordan and others, 2024, https://kellerjordan.github.io/posts/muon/) is written here, because `torch.optim.Muon` orthogonalizes in
bfloat16 whatever it is given, which takes a hundred times as long on a CPU that has no bfloat16 of its own. A test holds the two together.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from .config import NanoConfig

# Muon's rate over AdamW's, with its steps scaled to AdamW's size.
MUON = 2.0
MOMENTUM = 0.95
# Of the quintic Newton-Schulz iteration, and how often it is done.
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix near 1, in the matrix's own type."""
    linear, cubic, quintic = QUINTIC
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic), wide, beta=linear)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized in `dtype` and scaled to the size that AdamW's steps have."""

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, weight_decay: float, dtype: torch.dtype) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # nothing here asks for a loss
        """Make one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - MOMENTUM)
                update = orthogonalize(parameter.grad.lerp(momentum, MOMENTUM).to(self.dtype))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-0.2 * math.sqrt(max(parameter.shape)) * group["lr"])


class MuonAndAdamW:
    """Two optimisers that share one state and one list of groups; `share` in a group multiplies its learning rate."""

    def __init__(self, model: Any, config: NanoConfig) -> None:
        tables = {id(table.weight) for table in (model.get_input_embeddings(), model.get_output_embeddings()) if table is not None}
        language = tables | {id(parameter) for parameter in model.get_decoder().parameters()}
        inner: list[dict[str, Any]] = []
        other: list[dict[str, Any]] = []
        # the tower learned in a stage of its own, where there was one: it goes on with smaller steps
        for share, inside in ((1.0, True), (config.tower_share if config.tower_rows else 1.0, False)):
            part = [parameter for parameter in model.parameters() if parameter.requires_grad and (id(parameter) in language) is inside]
            matrices = [parameter for parameter in part if parameter.dim() == 2 and id(parameter) not in tables]
            wide = [parameter for parameter in part if parameter.dim() > 1 and (parameter.dim() > 2 or id(parameter) in tables)]
            vectors = [parameter for parameter in part if parameter.dim() <= 1]
            inner += [{"params": matrices, "share": MUON * share}] if matrices else []
            other += [{"params": wide, "weight_decay": config.decay, "share": share}] if wide else []
            other += [{"params": vectors, "weight_decay": 0.0, "share": share}] if vectors else []
        adam = torch.optim.AdamW(other, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
        self.optimisers: list[torch.optim.Optimizer] = [adam]
        if inner:
            dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
            muon = Muon(inner, lr=config.lr, weight_decay=config.decay, dtype=dtype)
            muon.state = adam.state
            self.optimisers.append(muon)
        self.state = adam.state
        self.param_groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]

    def step(self, lr: float) -> None:
        """Make one step at this learning rate and forget the gradients."""
        for group in self.param_groups:
            group["lr"] = lr * group["share"]
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)


def rate(step: int, config: NanoConfig) -> float:
    """Return the learning rate of a step: a linear warm-up, a constant, then a fall by 1 - sqrt to its final share.

    Hägele and others, 2024, https://arxiv.org/abs/2405.18392: such a run ends as well as one with a cosine, and can be lengthened.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    first = max(config.warmup, config.decay_start)
    done = min(1.0, max(0, step - first) / max(1, config.steps - first))
    return config.lr * (config.final + (1 - config.final) * (1 - math.sqrt(done)))
