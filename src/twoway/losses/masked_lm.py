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

from twoway.losses import Loss

if TYPE_CHECKING:
    from collections.abc import Callable

NO_TARGET = -100


def word_places(labels_BL: torch.Tensor, *, shift: bool = True, mask_BL: torch.Tensor | None = None) -> torch.Tensor:
    """Return the positions that have a word to say, counted over the whole batch; `mask_BL` says which positions are real.

    With `shift`, a row's first real token has no position before it and so no target, whichever side the padding is on.
    """
    chosen_BL = labels_BL != NO_TARGET
    if shift:
        chosen_BL = functional.pad(chosen_BL[:, 1:], (0, 1))
        if mask_BL is not None:
            chosen_BL = chosen_BL & mask_BL.bool()
    return chosen_BL.flatten().nonzero()[:, 0]


def word_loss(
    hidden_BLD: torch.Tensor,
    labels_BL: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    *,
    shift: bool = True,
    mask_BL: torch.Tensor | None = None,
    places_N: torch.Tensor | None = None,
    chunk: int = 1024,
) -> Loss:
    """Return the summed cross-entropy of the labels that are not `NO_TARGET`.

    `places_N` is what `word_places` says of the batch before it moves to a device: found there, it would be waited for.
    """
    if places_N is None:
        places_N = word_places(labels_BL, shift=shift, mask_BL=mask_BL)
    hidden_ND = hidden_BLD.flatten(0, 1).index_select(0, places_N)
    targets_N = labels_BL.flatten().index_select(0, places_N + int(shift))
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
