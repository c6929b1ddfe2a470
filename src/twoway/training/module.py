"""What is trained: a module that turns batches into named losses, each a sum and a count, and leaves a step's gradient.

This is the whole of what the trainer knows of a method. A new method is a folder in `methods` whose step is a `TrainingModule`: it says
how many targets a batch has (`count_targets`) and what its losses are (`compute_losses`). A method whose loss looks at the whole global
batch takes `gradient_cache.GradientCachedModule` instead, which has a `training_step` of its own.

A step's gradient is that of the mean over the *global* batch: the trainer adds the counts of all ranks and accumulated batches first
and hands each forward pass the scales. So unequal batches, and batches in which one of the losses has no target, weigh what they should.

Every rank must reach the same parameters, or distributed training hangs, and a batch without pictures does not reach the tower. There are
no stand-in pictures: parameters that the graph of the loss does not reach are added to it with weight zero. The graph is walked only where
there is more than one rank.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from twoway.models.kernels import remember

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from twoway.losses import Loss

    from .distributed import Ranks

Batch = dict[str, Any]


class Seed(Protocol):
    """Seeds of one step on one rank: `seed()` is the step's, `seed(number)` that of a part of it."""

    def __call__(self, *part: int) -> int:
        """Return the seed."""


@dataclass(frozen=True)
class StepContext:
    """How one step runs on this rank."""

    wrapped: Any  # the module as it is called: itself, or what DDP or FSDP made of it
    ranks: Ranks
    targets: Mapping[str, float]  # of each loss, over the global batch
    dtype: str
    seed: Seed


@dataclass(frozen=True)
class StepResult:
    """What a step gave, on the CPU: for each of this rank's batches the sums of its losses, and further numbers over all ranks."""

    sums: list[dict[str, float]]
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class StepLosses:
    """The losses of a step while they are on the device: `finish` makes its result of `tensors`, once they are read in one copy."""

    tensors: Sequence[torch.Tensor]
    finish: Callable[[Sequence[torch.Tensor]], StepResult]


class TrainingModule(nn.Module):
    """A model with its losses. `loss_weights` says how much each counts; a loss of weight 0 is not computed."""

    has_own_masks = False  # whether the language model is called with masks of who sees whom

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.loss_weights = {name: weight for name, weight in weights.items() if weight}
        self.touch_unused_parameters = False

    def count_targets(self, batch: Batch) -> dict[str, int]:
        """Return how many targets each loss has in this batch; no model is needed for it."""
        raise NotImplementedError

    def count_tokens(self, batch: Batch) -> dict[str, float]:
        """Return how many rows, tokens and padding tokens a batch has."""
        labels, mask = batch["labels"], batch["inputs"].get("attention_mask")
        tokens = labels.numel() if mask is None else int(mask.sum())
        return {"rows": len(labels), "tokens": tokens, "padding": labels.numel() - tokens}

    def prepare_batch(self, batch: Batch) -> Batch:
        """Add what the losses have to know of a batch on the CPU, before it moves: read off a device, it would be waited for."""
        return batch

    def compute_losses(self, batch: Batch) -> tuple[dict[str, Loss], torch.Tensor]:
        """Return the losses, and something that hangs on the states, so that a batch without targets has a gradient too: zero."""
        raise NotImplementedError

    def dummy_batch(self) -> Batch:
        """Return the smallest batch without a target, for a rank that has no rows while others have."""
        raise NotImplementedError

    def fsdp_units(self) -> Iterable[nn.Module]:
        """Return modules that every batch runs; sharded training gathers them one by one and the rest at once."""
        return ()

    def training_step(self, batches: Sequence[Batch], context: StepContext) -> StepLosses:
        """Add the gradient of the global batch to the parameters, batch by batch, and return the losses."""
        ranks, device = context.ranks, context.ranks.device
        scales = {name: weight * ranks.world_size / max(context.targets[name], 1) for name, weight in self.loss_weights.items()}
        torch.manual_seed(context.seed())
        losses = []
        for number, batch in enumerate(batches):
            prepared = self.prepare_batch(batch)
            moved = to_device({key: value for key, value in prepared.items() if key != "identities"}, device)
            with ranks.no_sync(context.wrapped, last=number == len(batches) - 1):
                with autocast(device, context.dtype):
                    total, sums = context.wrapped(moved, scales)
                total.backward()
            losses.append(sums)

        def finish(values: Sequence[torch.Tensor]) -> StepResult:
            left = iter(values)
            return StepResult([{name: float(next(left)) for name in sums} for sums in losses], {})

        return StepLosses([loss for sums in losses for loss in sums.values()], finish)

    def forward(self, batch: Batch, scales: Mapping[str, float]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss to go back from, and the sums that it is made of."""
        losses, anchor = self.compute_losses(batch)
        total = anchor.float().sum() * 0.0
        for name, loss in losses.items():
            total = total + loss.total * scales[name]
        if self.touch_unused_parameters and torch.is_grad_enabled():
            total = total + self._touch_unused(total)
        return total, {name: loss.total.detach() for name, loss in losses.items()}

    def _touch_unused(self, total: torch.Tensor) -> torch.Tensor:
        """Return zero, hanging on every parameter that the loss does not reach.

        Parameters that are sharded now belong to `fsdp_units`, which every batch runs.
        """
        reached = parameters_in_graph(total)
        zero = total.new_zeros(())
        for parameter in self.parameters():
            if parameter.requires_grad and id(parameter) not in reached and not isinstance(parameter.data, DTensor):
                zero = zero + parameter.flatten()[0].float() * 0.0
        return zero


def parameters_in_graph(total: torch.Tensor) -> set[int]:
    """Return the ids of the parameters in the graph of a loss."""
    visited: set[Any] = set()
    parameters: set[int] = set()
    nodes: list[Any] = [total.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            parameters.add(id(node.variable))
        nodes += [following for following, _ in node.next_functions]
    return parameters


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[Any]:
    """Compute in bfloat16 where that is the type."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Compute in the type of the numbers, within `autocast` too."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def read_tensors(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors of any types on the CPU, the same to the bit, by one transfer: the one time that a step waits for its device."""
    flat = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
    pieces = torch.split(torch.cat(flat).cpu(), [len(one) for one in flat]) if flat else ()
    return [piece.clone().view(tensor.dtype).view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]


def to_device(value: Any, device: torch.device) -> Any:
    """Move the tensors of a batch. Its whole numbers stay known on the CPU: those that a model asks for are not read off the device."""
    if isinstance(value, torch.Tensor):
        return remember(value.to(device, non_blocking=True), value)
    return {key: to_device(item, device) for key, item in value.items()} if isinstance(value, dict) else value
