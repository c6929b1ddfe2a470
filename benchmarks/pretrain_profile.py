"""Where a step of pre-training goes: each part run alone, forward and backward, on the inputs that it has in the step."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from twoway.models import loading
from twoway.training.distributed import clip_grad_norm

if TYPE_CHECKING:
    from collections.abc import Callable

    from .pretrain_ours import Ours

ROUNDS = 2


def counted(work: Callable[[], Any]) -> int:
    """Return the floating-point operations of some work, counted one by one."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def seconds(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the least processor time of a few rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def profile(ours: Ours, number: int) -> dict[str, tuple[float, int]]:
    """Return seconds and operations of each part of one step, and of the whole."""
    task, trainer = ours.task, ours.trainer
    batch = next(one for one in ours.make(number) if one is not None)
    batch = {key: value for key, value in batch.items() if key != "identities"}
    scales = {name: weight / max(task.count_targets(batch)[name], 1) for name, weight in task.loss_weights.items()}
    found = loading.parts(ours.prepared.start.model)
    modules: dict[str, Any] = {
        "tower": found.tower[1] if found.tower else None,
        "language model": found.language[1],
        "patch decoder": task.decoder,
    }
    calls: dict[str, tuple[Any, Any]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _module, args, given, name=name: calls.update({name: (args, given)}), with_kwargs=True)
        for name, module in modules.items()
        if module is not None
    ]
    half = trainer.config.dtype == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        states = task.states(batch).hidden.detach()
        task(batch, scales)
    for hook in hooks:
        hook.remove()

    def alone(name: str) -> None:
        args, given = calls[name]
        args = [_leaf(one) for one in args]
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out: Any = modules[name](*args, **{key: _leaf(one) for key, one in given.items()})
        out = getattr(out, "pooler_output", None) if name == "tower" else getattr(out, "last_hidden_state", out)
        out.sum().backward()

    def words() -> None:
        from twoway.losses.masked_lm import word_loss

        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            mask = batch["inputs"].get("attention_mask")
            word_loss(_leaf(states), batch["labels"], task.head, shift=task.shift, mask_BL=mask).total.backward()  # type: ignore[no-untyped-call]

    def update() -> None:
        clip_grad_norm(list(trainer.parameters.values()), ours.config.max_grad_norm)
        trainer.optimizer.step()

    def model() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            total, _ = task(batch, scales)
        total.backward()

    parts: dict[str, Callable[[], Any]] = {f"{name}, forward and backward": partial(alone, name) for name in calls}
    parts |= {"head and cross-entropy": words, "optimizer": update, "data": lambda: ours.make(number)}
    trainer.optimizer.zero_grad(set_to_none=True)
    whole = seconds(model), counted(model)
    taken = {name: (seconds(work), counted(work)) for name, work in parts.items()}
    trainer.optimizer.zero_grad(set_to_none=True)
    aside = taken["optimizer"][0] + taken["data"][0]
    rest = whole[0] + aside - sum(part[0] for part in taken.values())
    taken["the rest: positions, masks, embeddings"] = (rest, whole[1] - sum(part[1] for part in taken.values()))
    return taken | {"a step": (whole[0] + aside, whole[1])}


def _leaf(value: Any) -> Any:
    """Return a state as a leaf that takes a gradient, where it has one in the step; what is no state, as it is."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().requires_grad_(value.requires_grad)
    return value
