"""A task in pieces over ranks: FSDP2, with weights gathered in half precision where training computes in it.

Every layer of the language model is a unit of its own, gathered when it runs and let go of after it; the rest (the tower, embeddings, head,
norms, patch decoder) is one more unit, gathered once a pass: a batch without pictures does not run the tower, and ranks have to gather the
same units in the same order. Weights at rest, gradients and the optimizer's states are float32 and lie in pieces, the rest's too;
gathered copies are bfloat16, so autocast has nothing to copy. The stream between layers stays float32, as it is under autocast on one
rank: inputs of a unit are not cast, and embeddings are brought back to float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .ranks import Ranks
    from .task import Task


def shard(task: Task, dtype: str) -> Any:
    """Cut a task, which may be on the meta device, into units over all ranks."""
    half = dtype == "bfloat16"
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in task.blocks():
        fully_shard(block, mp_policy=policy)
    if half:
        for table in _embeddings(task):
            table.register_forward_hook(_to_float)
    return fully_shard(task, mp_policy=policy)


def _embeddings(task: nn.Module) -> Iterable[nn.Module]:
    return (module for module in task.modules() if isinstance(module, nn.Embedding))


def _to_float(_module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
    return out.float()


def take_weights(task: nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers by name, as they lie."""
    return {name: one.detach() for name, one in (*task.named_parameters(), *task.named_buffers())}


def empty(task: nn.Module, device: torch.device) -> None:
    """Put parameters and buffers without their numbers on a device; what is one tensor stays one.

    On the meta device nothing has numbers; elsewhere those that have some already keep them.
    """
    made: dict[int, torch.Tensor] = {}

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type == device.type or (device.type != "meta" and not tensor.is_meta):
            return tensor
        if id(tensor) not in made:
            fresh = torch.empty_like(tensor.detach(), device=device)
            made[id(tensor)] = nn.Parameter(fresh, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fresh
        return made[id(tensor)]

    # What is replaced is kept until the end: a tensor made in its place could have its id.
    kept = [*task.parameters(), *task.buffers()]
    for module in task.modules():
        for place in (module._parameters, module._buffers):
            for key, tensor in place.items():
                if tensor is not None:
                    place[key] = moved(tensor)  # type: ignore[assignment]
    del kept


def give_weights(task: nn.Module, weights: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    """Fill a task in pieces from the first rank's weights, one tensor after another; a rank gets its piece."""
    with torch.no_grad():
        for name, target in (*task.named_parameters(), *task.named_buffers()):
            value = weights[name].to(ranks.device) if ranks.first else torch.empty(target.shape, dtype=target.dtype, device=ranks.device)
            if isinstance(target, DTensor):
                target.copy_(distribute_tensor(value, target.device_mesh, target.placements))
            else:
                distributed.broadcast(value, 0)
                target.copy_(value)


def give_plain_tensors(task: nn.Module, ranks: Ranks) -> None:
    """Give the others what modules hold beside parameters and buffers, where they have no numbers for it."""
    held = [(module, key) for module in task.modules() for key, one in vars(module).items() if isinstance(one, torch.Tensor)]
    values = ranks.gather([getattr(module, key).cpu() for module, key in held] if ranks.first else None)[0]
    for (module, key), value in zip(held, values, strict=True):
        if getattr(module, key).is_meta:
            setattr(module, key, value)
