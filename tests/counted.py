"""Operations as torch counts them while they are computed, for comparing with what is counted on shapes alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def computed(module: Any, run: Callable[[], torch.Tensor]) -> int:
    """Count while it is computed; `eager` attention, because a fused kernel's way back computes the scores once more."""
    module.model.set_attn_implementation("eager")
    if getattr(module, "decoder", None) is not None:
        module.decoder.body.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter:
        out = run()
        if out.requires_grad:
            out.backward()
    module.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def computed_batch(module: Any, batch: dict[str, Any]) -> int:
    """Count one batch of a module with losses."""
    given = {key: value for key, value in batch.items() if key != "identities"}
    return computed(module, lambda: module(given, module.loss_weights)[0])
