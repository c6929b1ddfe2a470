"""The processes of a run: what they are, how they share a model, and how they add numbers.

accelerate finds the device and joins the ranks, whoever started them: `--nproc`, `torchrun` or `accelerate launch`. The model is
shared by torch's own DistributedDataParallel (each rank holds all of it) or by FSDP2 (each holds a piece). Both average gradients
over ranks; the trainer's losses are sums over a global count, so they are scaled up by the number of ranks first.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate import PartialState
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from twoway.errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from .task import Task

Parallel = Literal["ddp", "fsdp"]
# How long ranks wait for one another. While the first one looks through a large data set, or copies a stream, the others only wait, and
# torch's own minutes would end the run; a rank that dies is noticed by who started it.
PATIENCE = timedelta(days=2)


class Ranks:
    """This process among the others."""

    def __init__(self, device: str = "auto") -> None:
        """Join the other ranks, if there are any."""
        # Without an accelerator accelerate must be told so, or it leaves each rank alone, in silence.
        state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available(), timeout=PATIENCE)
        expected = int(os.environ.get("WORLD_SIZE", "1"))
        if state.num_processes != expected:
            raise TwowayError(
                f"{expected} ranks were started and this one sees {state.num_processes}; is torch.distributed to be had here?"
            )
        self.device: torch.device = state.device
        self.rank: int = state.process_index
        self.count: int = state.num_processes
        self._state = state

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, task: Task, parallel: Parallel) -> Any:
        """Put the task on the device, and share it with the other ranks."""
        task.to(self.device)
        if self.count == 1:
            return task
        task.tie = True
        if parallel == "fsdp":
            for block in task.blocks():
                fully_shard(block)
            return fully_shard(task)
        return DistributedDataParallel(task, device_ids=[self.device] if self.device.type != "cpu" else None, gradient_as_bucket_view=True)

    def more(self, shared: Any, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one accumulated batch: gradients travel after the last one only."""
        if isinstance(shared, FSDPModule):
            shared.set_requires_gradient_sync(last)
        if isinstance(shared, DistributedDataParallel) and not last:
            return shared.no_sync()
        return nullcontext()

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Add numbers over all ranks."""
        if self.count == 1:
            return [float(number) for number in numbers]
        tensor = torch.tensor(list(numbers), dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def gather(self, value: Any) -> list[Any]:
        """Return what every rank holds, in the order of ranks."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def pieces(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return every rank's tensor; the first dimension may differ."""
        if self.count == 1:
            return [tensor]
        lengths = [int(number) for number in self.gather(len(tensor))]
        padded = nn.functional.pad(tensor, [0, 0] * (tensor.dim() - 1) + [0, max(lengths) - len(tensor)])
        found = [torch.empty_like(padded) for _ in lengths]
        distributed.all_gather(found, padded.contiguous())
        return [one[:length] for one, length in zip(found, lengths, strict=True)]

    def add(self, tensor: torch.Tensor) -> None:
        """Add a tensor of the same shape over all ranks, in place."""
        if self.count > 1:
            distributed.all_reduce(tensor)

    def wait(self) -> None:
        """Wait for all ranks."""
        self._state.wait_for_everyone()

    def leave(self) -> None:
        """Part from the other ranks, once all of them are here."""
        if self.count > 1 and distributed.is_initialized():
            distributed.barrier()
            self._state.destroy_process_group()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in one piece on the CPU; every rank must ask for it."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu().contiguous()


def gathered(tensors: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Return tensors in one piece on the CPU. Every rank must ask; one that does not `keep` them has one at a time, and gets none.

    Eight ranks that each held all of a model with its optimizer would want eight times the machine's memory.
    """
    found = {}
    for name, one in tensors.items():
        if keep:
            found[name] = whole(one)
        else:
            whole(one)
    return found


def put(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into one that may be in pieces."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
        target.copy_(value)


def norm(parameters: Sequence[nn.Parameter], clip: float) -> float:
    """Clip the gradients together, and return what their norm was."""
    found = nn.utils.clip_grad_norm_(parameters, clip or float("inf"))
    return float(found.full_tensor() if isinstance(found, DTensor) else found)


def started_by_others() -> bool:
    """Whether this process is a rank that `torchrun` or `accelerate launch` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
