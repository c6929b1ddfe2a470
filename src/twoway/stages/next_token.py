"""The control of pre-training: plain next-token training of a causal model on the same rows, batches and steps.

The papers ask whether restoring what is masked, with two-way attention, is worth its compute; the fair control (the baselines'
`causal-plus-continued-pretraining`) spends the same compute as the base was trained. Every word of a document is a target, said from
the position before it; nothing is masked, patches are no target, and attention stays causal. As in `reconstruction`, words of the
template and the tokens of pictures are no target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.data.corrupt import CorruptConfig

from .reconstruction import Reconstruction

if TYPE_CHECKING:
    from collections.abc import Sequence

# Every word is chosen and stays as it is: a target, and seen by what comes after it.
NOTHING_MASKED = CorruptConfig(words=1.0, keep=1.0, patches=0.0)


class NextToken(Reconstruction):
    """A causal model with its language-model head."""

    words = "clm"

    def __init__(self, model: Any, *, weight: float, pad_token: int, token_keys: Sequence[str]) -> None:
        """Take a model whose attention is causal."""
        super().__init__(model, None, mlm_weight=weight, mae_weight=0.0, shift=True, pad_token=pad_token, token_keys=token_keys)
