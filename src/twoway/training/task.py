"""What is trained: a module that turns a batch into named losses, each a sum and a count.

A step's gradient is that of the mean over the *global* batch: the trainer adds the counts of all ranks and accumulated batches first
and hands each forward pass the scales. So unequal batches, and batches in which one of the losses has no target, weigh what they should.

Every rank must reach the same parameters, or distributed training hangs, and a batch without pictures does not reach the tower. There are
no stand-in pictures: parameters that the graph of the loss does not reach are added to it with weight zero. The graph is walked only where
there is more than one rank.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from twoway.models.kernels import remember

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from twoway.losses import Loss

Batch = dict[str, Any]


class Task(nn.Module):
    """A model with its losses. `weights` says how much each counts; a loss of weight 0 is not computed."""

    own_masks = False  # whether the language model is called with masks of who sees whom

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self.tie = False

    def counts(self, batch: Batch) -> dict[str, int]:
        """Return how many targets each loss has in this batch; no model is needed for it."""
        raise NotImplementedError

    def sizes(self, batch: Batch) -> dict[str, float]:
        """Return how many rows, tokens and padding tokens a batch has."""
        labels, mask = batch["labels"], batch["inputs"].get("attention_mask")
        tokens = labels.numel() if mask is None else int(mask.sum())
        return {"rows": len(labels), "tokens": tokens, "padding": labels.numel() - tokens}

    def prepare_batch(self, batch: Batch) -> Batch:
        """Add what the losses have to know of a batch on the CPU, before it moves: read off a device, it would be waited for."""
        return batch

    def parts(self, batch: Batch) -> tuple[dict[str, Loss], torch.Tensor]:
        """Return the losses, and something that hangs on the states, so that a batch without targets has a gradient too: zero."""
        raise NotImplementedError

    def placeholder(self) -> Batch:
        """Return the smallest batch without a target, for a rank that has no rows while others have."""
        raise NotImplementedError

    def blocks(self) -> Iterable[nn.Module]:
        """Return modules that every batch runs; sharded training gathers them one by one and the rest at once."""
        return ()

    def forward(self, batch: Batch, scales: Mapping[str, float]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss to go back from, and the sums that it is made of."""
        parts, anchor = self.parts(batch)
        total = anchor.float().sum() * 0.0
        for name, loss in parts.items():
            total = total + loss.total * scales[name]
        if self.tie and torch.is_grad_enabled():
            total = total + self._unreached(total)
        return total, {name: loss.total.detach() for name, loss in parts.items()}

    def _unreached(self, total: torch.Tensor) -> torch.Tensor:
        """Return zero, hanging on every parameter that the loss does not reach.

        Parameters that are sharded now belong to `blocks`, which every batch runs.
        """
        reached = leaves(total)
        tied = total.new_zeros(())
        for parameter in self.parameters():
            if parameter.requires_grad and id(parameter) not in reached and not isinstance(parameter.data, DTensor):
                tied = tied + parameter.flatten()[0].float() * 0.0
        return tied


def leaves(total: torch.Tensor) -> set[int]:
    """Return the ids of the parameters in the graph of a loss."""
    seen: set[Any] = set()
    found: set[int] = set()
    waiting: list[Any] = [total.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return found


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Compute in bfloat16 where that is the type."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()


def read(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors of any types on the CPU, the same to the bit, by one transfer: the one time that a step waits for its device."""
    flat = [one.detach().contiguous().reshape(-1).view(torch.uint8) for one in tensors]
    pieces = torch.split(torch.cat(flat).cpu(), [len(one) for one in flat]) if flat else ()
    return [piece.clone().view(one.dtype).view(one.shape) for piece, one in zip(pieces, tensors, strict=True)]


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors of a batch. Its whole numbers stay known on the CPU: those that a model asks for are not read off the device."""
    if isinstance(value, torch.Tensor):
        return remember(value.to(device, non_blocking=True), value)
    return {key: to_device(item, device) for key, item in value.items()} if isinstance(value, dict) else value
