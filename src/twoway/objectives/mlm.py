"""Masked words (MoCa, arXiv 2506.23115, section 3.1): cross-entropy at masked positions, and nowhere else.

With `shift` a word is predicted from the position before it, as the causal base learned to do (the paper); without it from its own
position (the released code). Logits exist only for positions that have a target, and only `chunk` of them at a time: with a
vocabulary of 150,000 words and rows of 2,000 tokens, all of them would take gigabytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .loss import Loss

if TYPE_CHECKING:
    from collections.abc import Callable

NO_TARGET = -100


def word_loss(
    hidden_BLD: torch.Tensor,
    labels_BL: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    *,
    shift: bool = True,
    mask_BL: torch.Tensor | None = None,
    chunk: int = 1024,
) -> Loss:
    """Return the summed cross-entropy of the labels that are not `NO_TARGET`; `mask_BL` says which positions are real.

    With `shift`, a row's first real token has no position before it and so no target, whichever side the padding is on.
    """
    if shift:
        hidden_BLD, labels_BL = hidden_BLD[:, :-1], labels_BL[:, 1:]
        if mask_BL is not None:
            labels_BL = labels_BL.masked_fill(~mask_BL[:, :-1].bool(), NO_TARGET)
    chosen_BL = labels_BL != NO_TARGET
    hidden_ND, targets_N = hidden_BLD[chosen_BL], labels_BL[chosen_BL]
    count = len(targets_N)
    # The empty sum is tied to the states, so that every rank of a distributed run reaches the same parameters.
    total = hidden_BLD.sum() * 0.0
    pieces = list(zip(torch.split(hidden_ND, chunk), torch.split(targets_N, chunk), strict=True)) if count else []
    for hidden, targets in pieces:
        if len(pieces) == 1 or not torch.is_grad_enabled():
            total = total + _summed(hidden, targets, head)
        else:
            total = total + checkpoint(_summed, hidden, targets, head, use_reentrant=False)
    return Loss(total, count)


def _summed(hidden_ND: torch.Tensor, targets_N: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Cross-entropy of one chunk, summed in float32."""
    return functional.cross_entropy(head(hidden_ND).float(), targets_N, reduction="sum")
