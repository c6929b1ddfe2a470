"""Initialisation by fan-in.

At this width the usual normal of 0.02 gives layers that hardly pass a signal on, and the model learns far slower. Matrices here get a
standard deviation of 1/sqrt(fan-in), 0.7 of that in the language model, and outputs into the residual stream 0.4 of theirs, so that the
stream does not grow with depth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

LANGUAGE = 0.7
RESIDUAL = 0.4
RESIDUAL_OUTPUTS = ("o_proj", "out_proj", "down_proj", "attn.proj", "projection_layer", "fc2")


def initialise(model: nn.Module, language_model: nn.Module, seed: int) -> None:
    """Give every matrix of `model` its fan-in scale, biases zero; norms keep their ones."""
    generator = torch.Generator().manual_seed(seed)
    inside = {id(parameter) for parameter in language_model.parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                if name.endswith("bias"):
                    parameter.zero_()
                continue
            is_table = "embed" in name and parameter.dim() == 2
            fan_in = parameter.shape[-1] if is_table else parameter[0].numel()
            scale = (LANGUAGE if id(parameter) in inside else 1.0) / fan_in**0.5
            if name.removesuffix(".weight").endswith(RESIDUAL_OUTPUTS):
                scale *= RESIDUAL
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
