"""Muon here is torch's, but for the type that it orthogonalizes in."""

from __future__ import annotations

import pytest
import torch
from tools.nano_base.optimiser import MOMENTUM, Muon, orthogonalize


@pytest.mark.parametrize(("dtype", "apart"), [(torch.bfloat16, 0.0), (torch.float32, 0.05)])
@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_a_few_steps_are_those_of_torch(shape, dtype, apart):
    draw = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(shape, generator=draw), torch.randn(4, *shape, generator=draw)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    options = {"lr": 0.1, "weight_decay": 0.05}
    both = (
        Muon([{"params": [ours]}], dtype=dtype, **options),
        torch.optim.Muon([theirs], momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw", **options),
    )
    for gradient in gradients:
        for parameter, optimiser in zip((ours, theirs), both, strict=True):
            parameter.grad = gradient.clone()
            optimiser.step()
    assert (ours - theirs).norm() <= apart * (theirs - start).norm()


def test_singular_values_come_near_one():
    found = torch.linalg.svdvals(orthogonalize(torch.randn(20, 30, generator=torch.Generator().manual_seed(0))))
    assert 0.5 < found.min() < found.max() < 1.3
