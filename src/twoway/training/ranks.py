"""The processes of a run: what they are, how they share a model, and how they add numbers.

accelerate finds the device and joins the ranks, whoever started them: `--nproc`, `torchrun` or `accelerate launch`. The model is
shared by torch's own DistributedDataParallel (each rank holds all of it) or by FSDP2 (each holds a piece). Both average gradients
over ranks; the trainer's losses are sums over a global count, so they are scaled up by the number of ranks first.

Ranks talk in three groups. Gradients and weights travel in the first (NCCL on GPUs). Numbers and small objects are agreed on in the second,
between CPUs: no GPU waits for them, and a rank that does not answer is noticed within minutes, in a line that can be read. In the third
ranks wait for the first one to open the base and to look through the data, for as long as that takes.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate import PartialState
from torch import distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from twoway.errors import TwowayError

from . import sharding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from .task import Task

Parallel = Literal["ddp", "fsdp"]
# How long ranks wait for the first one. While it looks through a large data set, or copies a stream, the others only wait, and minutes
# would end the run; a rank that dies is noticed by who started it.
PATIENCE = timedelta(days=2)
# How long they wait for one another in a step, where nobody says otherwise (`timeout_minutes`).
TIMEOUT = timedelta(minutes=15)
# What torch says where another rank is gone, or does not answer.
_SILENCE = ("timed out waiting", "application timeout", "connection closed by peer", "connection reset by peer", "broken pipe")


class Silence(TwowayError):  # noqa: N818 - it is another rank that did something wrong
    """Another rank is gone, or does not answer; what it says itself, if it does, comes first."""


class Ranks:
    """This process among the others."""

    def __init__(self, device: str = "auto", timeout: timedelta = TIMEOUT) -> None:
        """Join the other ranks, if there are any; `timeout` is how long they wait for one another in a step."""
        # Without an accelerator accelerate must be told so, or it leaves each rank alone, in silence.
        state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available(), timeout=timeout)
        expected = int(os.environ.get("WORLD_SIZE", "1"))
        if state.num_processes != expected:
            raise TwowayError(
                f"{expected} ranks were started and this one sees {state.num_processes}; is torch.distributed to be had here?"
            )
        self.device: torch.device = state.device
        self.rank: int = state.process_index
        self.count: int = state.num_processes
        self._state, self.timeout = state, timeout
        self.talk: Any = None  # between CPUs, within the time of a step
        self._patient: Any = None
        if self.count > 1:
            self.talk = distributed.new_group(backend="gloo", timeout=timeout)
            self._patient = distributed.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, task: Task, parallel: Parallel, dtype: str = "float32") -> Any:
        """Put the task on the device, and share it with the other ranks; the first one's weights are everybody's.

        The others may have it on the meta device, without weights.
        """
        if self.count == 1:
            return task.to(self.device)
        task.tie = True
        names = self.gather([name for name, _ in task.named_parameters()])
        if any(one != names[0] for one in names):
            raise TwowayError("ranks have different models; is the same version of everything installed on all machines?")
        sharding.give_plain_tensors(task, self)
        if parallel == "fsdp":
            weights = sharding.take_weights(task) if self.first else {}
            sharding.empty(task, torch.device("meta"))
            shared = sharding.shard(task, dtype)
            sharding.empty(task, self.device)
            sharding.give_weights(task, weights, self)
            return shared
        if not self.first:
            sharding.empty(task, self.device)
        task.to(self.device)
        # It gives the first one's weights to the others itself.
        return DistributedDataParallel(task, device_ids=[self.device] if self.device.type != "cpu" else None, gradient_as_bucket_view=True)

    def more(self, shared: Any, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one accumulated batch: gradients travel after the last one only, unless they lie in pieces.

        Added up before they travel, those of all weights would lie whole on each rank.
        """
        if isinstance(shared, DistributedDataParallel) and not last:
            return shared.no_sync()
        return nullcontext()

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Add numbers over all ranks."""
        if self.count == 1:
            return [float(number) for number in numbers]
        tensor = torch.tensor(list(numbers), dtype=torch.float64)
        distributed.all_reduce(tensor, group=self.talk)
        summed: list[float] = tensor.tolist()
        return summed

    def gather(self, value: Any) -> list[Any]:
        """Return what every rank holds, in the order of ranks."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value, group=self.talk)
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
        """Wait for all ranks, however long one of them looks through the data."""
        if self.count > 1:
            distributed.barrier(group=self._patient)

    def silence(self, error: BaseException, step: int, stands: str) -> Silence | None:
        """Say in a line that another rank is gone or does not answer, where that is what an error means; else return nothing."""
        said = str(error).lower()
        if self.count == 1 or not (isinstance(error, distributed.DistError) or any(word in said for word in _SILENCE)):
            return None
        minutes = self.timeout.total_seconds() / 60
        gone = "connection" in said or "broken pipe" in said
        what = "another rank has ended" if gone else f"another rank has not answered for {minutes:g} minutes (timeout_minutes)"
        return Silence(f"rank {self.rank} of {self.count}, step {step}: {what}; {stands}, and the same command goes on from there")

    def leave(self) -> None:
        """Part from the other ranks, once all of them are here."""
        if self.count > 1 and distributed.is_initialized():
            distributed.barrier()
            self._state.destroy_process_group()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in one piece on the CPU; every rank must ask for it."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu().contiguous()


def put(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into one that may be in pieces."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
        target.copy_(value)


def norm(parameters: Sequence[nn.Parameter], clip: float) -> torch.Tensor:
    """Clip the gradients together, and return what their norm was; it stays on the device."""
    found = nn.utils.clip_grad_norm_(parameters, clip or float("inf"))
    return found.full_tensor() if isinstance(found, DTensor) else found


def started_by_others() -> bool:
    """Whether this process is a rank that `torchrun` or `accelerate launch` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
