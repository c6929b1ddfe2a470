"""Attention by plain products, for short rows in bfloat16 on a CPU: there it is two to three times as fast as the fused kernel.

The fused kernel never holds the scores of a whole row, which is what makes long rows possible; its backward pass on a CPU pays for that by
computing in small pieces. Rows of a few hundred tokens have scores that fit, and two large products then cost less. Query heads that share
a key head lie one after another along the length, so keys are never repeated. Everything else (long rows, other types and devices, dropout)
goes to the library's own function, and so does all of float32, whose kernel has no such cost.

Measured with `python -m benchmarks pretrain`; scores are rounded to bfloat16 as in the library's `eager` attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "twoway_short_rows_or_sdpa"
LONGEST = 512


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attend as `sdpa` does."""
    if not _suits(module, query, key, attention_mask, options):
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return found
    scaling = options.get("scaling")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask is None and _is_causal(module, options):
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    return products(query.bfloat16(), key.bfloat16(), value.bfloat16(), attention_mask, scaling).transpose(1, 2), None


def products(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, scaling: float) -> Tensor:
    """Return what each query (rows, heads, length, dim) takes from the values; `allowed` says which keys it sees."""
    rows, heads, length, dim = query.shape
    grouped = (rows, key.shape[1], -1, dim)
    scores = torch.matmul(query.reshape(grouped) * scaling, key.transpose(2, 3))
    if allowed is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.view(rows, heads, length, -1).masked_fill(~allowed, lowest).view_as(scores)
    return torch.matmul(scores.softmax(-1), value).view(rows, heads, length, -1)


def _suits(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Say whether products give the same and are faster."""
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return (
        query.device.type == "cpu"
        and (autocast or query.dtype == torch.bfloat16)
        and max(query.shape[2], key.shape[2]) <= LONGEST
        and (mask.dtype == torch.bool if mask is not None else query.shape[2] == key.shape[2])
        and not any(options.get(name) for name in ("dropout", "softcap"))
        and all(options.get(name) is None for name in ("position_bias", "cache"))
    )


def _is_causal(module: nn.Module, options: dict[str, Any]) -> bool:
    """Say, as the library does, whether a token sees those before it alone where no mask says anything."""
    said = options.get("is_causal")
    return bool(getattr(module, "is_causal", True) if said is None else said)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
