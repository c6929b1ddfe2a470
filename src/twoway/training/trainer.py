"""The loop: steps over the batches of any method, on any number of ranks, from wherever the last checkpoint stands.

`Trainer.train` goes through the steps, and `Trainer.train_step` is one of them: gradient, clipping, optimizer. How a method computes its
gradient is the method's own (`module.TrainingModule.training_step`). What is measured beside training is a `Callback`.

A step is a function of the weights, the optimizer's state and the step's number: its rows and masks come from the number, its random
numbers (dropout) from seed, number and rank. A parameter that no row of a step reaches gets a gradient of zero on one rank too, as it
does on several, so that the optimizer does the same everywhere.

Deviation: the learning rate falls to zero in a line, as transformers' schedule does, but its first step is above zero.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
import sys
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol

import torch

from twoway.errors import TwowayError, UsageError
from twoway.processes import Stopped, listening

from . import distributed as between
from .checkpointing import OPTIMIZER, WEIGHTS, Checkpoints, optimizer_tensors, read_optimizer, read_weights, with_group
from .module import Batch, StepContext, TrainingModule, read_tensors
from .precision import resolve_dtype
from .progress import Meter, TrainingLog

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from .config import TrainConfig

log = logging.getLogger(__name__)

_NAMED = 8


class BatchSource(Protocol):
    """Where batches come from."""

    def steps(self, start: int, stop: int, rank: int, ranks: int) -> Iterator[Sequence[Batch | None]]:
        """Yield, for each step, this rank's batches; None where it has no rows while others have. Starting late costs nothing."""


class Callback:
    """What happens beside training; all ranks call it, in the same order. Override what is needed."""

    def on_train_begin(self, trainer: Trainer) -> None:
        """Run before the first step of this process."""

    def on_evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """Run at step 0, every `eval_steps` and at the end; what is returned goes into the log."""
        return {}

    def on_train_end(self, trainer: Trainer) -> None:
        """Run after the last step is saved."""


class Trainer:
    """Trains a module in `out`. `wrapped` is the module as it is called on several ranks, `step` the number of steps done."""

    def __init__(
        self,
        module: TrainingModule,
        config: TrainConfig,
        out: Path,
        *,
        total_steps: int,
        ranks: between.Ranks,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """Share the module with the other ranks and resume from the last checkpoint."""
        if total_steps < 1:
            raise UsageError(f"there is nothing to train: {total_steps} steps")
        self.module, self.config, self.out = module, resolve_dtype(config, ranks), out
        self.total_steps, self.ranks, self.callbacks = total_steps, ranks, tuple(callbacks)
        self.checkpoints = Checkpoints(out, config.save_total_limit)
        self.wrapped = ranks.wrap(module, "fsdp" if config.parallel == "fsdp" else "ddp", self.config.dtype)
        self.parameters = {name: one for name, one in module.named_parameters() if one.requires_grad}
        if not self.parameters:
            raise UsageError("nothing trains: every part of the model is frozen")
        self.optimizer = _optimizer(list(self.parameters.values()), config)
        self.step = self._resume()
        self._saved, self._saved_at = self.step, time.monotonic()
        self.meter = Meter(ranks.device, config.dtype, ranks.world_size)

    def train(self, data: BatchSource, *, stop: int | None = None) -> None:
        """Train to the end (or to step `stop`, for tests), saving on the way; SIGTERM and Ctrl-C save and raise `Stopped`."""
        last = min(stop or self.total_steps, self.total_steps)
        self.module.train()
        self.log: TrainingLog | None = None
        if self.ranks.is_main_process:
            self.log = TrainingLog(self.out, start=self.step, total=self.total_steps, tracker=self.config.report_to)
        try:
            with listening() as signals:
                for callback in self.callbacks:
                    callback.on_train_begin(self)
                if self.step == 0:
                    self._log({"step": 0}, evaluated=True)
                for given in data.steps(self.step, last, self.ranks.rank, self.ranks.world_size):
                    batches = [self.module.dummy_batch() if batch is None else batch for batch in given]
                    counts = self.count_targets(batches, [batch is None for batch in given], signals)
                    self._save_or_stop(counts, signals)
                    self._run_step(batches, counts)
                if self.step < last:
                    raise TwowayError(f"the data ended after {self.step} of {last} steps")
                self.checkpoints.wait(self.ranks)
                for callback in self.callbacks:
                    callback.on_train_end(self)
        except RuntimeError as error:
            self.checkpoints.abandon(first=self.ranks.is_main_process)
            lost = self.ranks.peer_error(error, self.step + 1, self.checkpoints.describe_last())
            if lost is None:
                raise
            raise lost from error
        finally:
            self.checkpoints.abandon(first=self.ranks.is_main_process)
            if self.log is not None:
                self.log.close()

    def train_step(self, batches: Sequence[Batch], counts: Mapping[str, float]) -> None:
        """Make one step: the gradient of the global batch, clipped, and the optimizer. `counts` are those of `count_targets`."""
        config, names = self.config, tuple(self.module.loss_weights)
        context = StepContext(
            wrapped=self.wrapped,
            ranks=self.ranks,
            targets={name: counts[f"count {name}"] for name in names},
            dtype=config.dtype,
            seed=partial(_seed, config.seed, self.step, self.ranks.rank),
        )
        losses = self.module.training_step(batches, context)
        parameters = list(self.parameters.values())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        # The one place where a step waits for its device.
        norm, *values = read_tensors([between.clip_grad_norm(parameters, config.max_grad_norm), *losses.tensors])
        self.norm, result = float(norm), losses.finish(values)
        sums = self.ranks.all_reduce_numbers([sum(batch.get(name, 0.0) for batch in result.sums) for name in names])
        if not math.isfinite(self.norm) or not all(map(math.isfinite, sums)):
            raise self._not_finite(batches, result.sums)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.total_steps, config)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.meter.add({**counts, **result.numbers} | {f"sum {name}": value for name, value in zip(names, sums, strict=True)})
        self.step += 1

    def count_targets(self, batches: Sequence[Batch], empty: Sequence[bool] = (), signals: Sequence[int] = ()) -> dict[str, float]:
        """Count the step's targets and tokens over all ranks, before anything is computed; and hear whether any rank is to stop.

        `empty` says which batches stand in for none, because other ranks have more; by default all are real.
        """
        names = (*(f"count {name}" for name in self.module.loss_weights), "rows", "tokens", "padding", "work")
        counts = dict.fromkeys((*names, *(f"work {rank}" for rank in range(self.ranks.world_size))), 0.0)
        for batch, is_empty in zip(batches, empty or [False] * len(batches), strict=True):
            if is_empty:
                continue
            for name, count in self.module.count_targets(batch).items():
                counts[f"count {name}"] += count
            for name, size in self.module.count_tokens(batch).items():
                counts[name] += size
        counts[f"work {self.ranks.rank}"], counts["stop"] = counts["work"], float(bool(signals))
        counts["written"], counts["due"] = float(self.checkpoints.written), float(self._due())
        summed = dict(zip(counts, self.ranks.all_reduce_numbers(list(counts.values())), strict=True))
        most = max(summed.pop(f"work {rank}") for rank in range(self.ranks.world_size))
        return summed | {"longest": most * self.ranks.world_size}

    def _save_or_stop(self, counts: Mapping[str, float], signals: Sequence[int]) -> None:
        """Save what is due before a step, and stop where any rank caught a signal."""
        if counts["written"] == self.ranks.world_size:
            self.checkpoints.finalize(self.ranks)
        if counts["due"]:
            self.save()
        if counts["stop"]:
            self.save()
            self.checkpoints.wait(self.ranks)
            number = int(max(self.ranks.all_gather_object(signals[0] if signals else 0)))
            raise Stopped(number, f"after step {self.step} of {self.total_steps}, which is saved" if self.step else "before the first step")

    def _run_step(self, batches: Sequence[Batch], counts: Mapping[str, float]) -> None:
        """Make a step, and after it log, evaluate and save where it is time."""
        try:
            self.train_step(batches, counts)
        except torch.OutOfMemoryError as error:
            self.checkpoints.abandon(first=self.ranks.is_main_process)
            way = "take a smaller budget, or gradient_checkpointing=true"
            raise TwowayError(
                f"the device's memory does not hold step {self.step + 1}: {way}; {self.checkpoints.describe_last()}"
            ) from error
        release_free_memory(self.step)
        config, done = self.config, self.step == self.total_steps
        evaluated = done or bool(config.eval_steps and self.step % config.eval_steps == 0)
        if self.step % config.logging_steps == 0 or evaluated:
            entry = self.meter.entry(self.step, self.total_steps, self.module.loss_weights)
            entry |= {"learning_rate": self.optimizer.param_groups[0]["lr"], "grad_norm": round(self.norm, 6)}
            self._log(entry, evaluated=evaluated)
        if self.step % config.save_steps == 0 or done:
            self.save()

    def _not_finite(self, batches: Sequence[Batch], sums: Sequence[Mapping[str, float]]) -> TwowayError:
        """Name the rows: those of the batches whose loss is not finite, or all of the step where only the gradient is not."""
        bad = [not all(map(math.isfinite, losses.values())) for losses in sums]
        guilty = [row for batch, is_bad in zip(batches, bad, strict=True) if is_bad for row in batch.get("identities", [])]
        every = [row for batch in batches for row in batch.get("identities", [])]
        gathered = self.ranks.all_gather_object((guilty, every))
        rows = [row for one, _ in gathered for row in one] or [row for _, one in gathered for row in one]
        what = "loss" if any(one for one, _ in gathered) else "gradient"
        self.checkpoints.wait(self.ranks)
        self._log({"step": self.step + 1, "not_finite": what, "identities": rows}, evaluated=False)
        more = f" and {len(rows) - _NAMED} more (all in log.jsonl)" if len(rows) > _NAMED else ""
        named = f"{', '.join(rows[:_NAMED])}{more}"
        return TwowayError(f"the {what} of step {self.step + 1} is not finite; its rows: {named}; {self.checkpoints.describe_last()}")

    def _log(self, entry: dict[str, Any], *, evaluated: bool) -> None:
        """Log an entry, with what the callbacks measure."""
        if evaluated:
            for callback in self.callbacks:
                entry |= callback.on_evaluate(self)
            self.module.train()
        if self.log is not None and len(entry) > 1:
            self.log.write(entry)

    def save(self) -> None:
        """Begin to write a checkpoint beside training; every rank takes part, and one that is being written is waited for."""
        self.checkpoints.wait(self.ranks)
        if self.step == self._saved:
            return
        self._saved, self._saved_at = self.step, time.monotonic()
        tensors = with_group(WEIGHTS, self.parameters) | with_group(OPTIMIZER, optimizer_tensors(self.optimizer, self.parameters))
        self.checkpoints.save(self.step, tensors, {"total": self.total_steps, "ranks": self.ranks.world_size}, self.ranks)

    def _due(self) -> bool:
        """Whether the first rank finds that a checkpoint is due by the clock; the next one waits for the one being written."""
        seconds = 60 * self.config.save_minutes
        asked = bool(seconds) and self.ranks.is_main_process and not self.checkpoints.saving
        return asked and time.monotonic() - self._saved_at > seconds

    def _resume(self) -> int:
        """Take up the last checkpoint and return its step."""
        if self.ranks.is_main_process:
            self.checkpoints.recover()
        self.ranks.barrier()
        steps = self.checkpoints.steps()
        if any(other != steps for other in self.ranks.all_gather_object(steps)):
            raise TwowayError(f"ranks see different checkpoints in {self.out}; it has to lie on a disk that all machines share")
        if not steps:
            return 0
        if steps[-1] > self.total_steps:
            raise UsageError(f"{self.out} has done {steps[-1]} steps already, more than the {self.total_steps} asked for")
        folder = self.checkpoints.path(steps[-1])
        read_weights(folder, self.parameters)
        read_optimizer(folder, self.optimizer, self.parameters)
        log.info("going on from step %d of %d", steps[-1], self.total_steps)
        return steps[-1]


def _optimizer(parameters: list[torch.nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW; vectors (norms, biases) do not decay."""
    matrices = [one for one in parameters if one.dim() > 1]
    vectors = [one for one in parameters if one.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2), fused=True
    )


def _seed(*numbers: int) -> int:
    """Mix numbers into the seed of one step on one rank, or of a chunk of it."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()[:7], "little")


# The learning rate as a pure function of the step, so that a resumed run needs no state for it.


def learning_rate_at(step: int, total: int, config: TrainConfig) -> float:
    """Return the rate of step `step` of `total`: up in a line for `warmup_steps`, then as `lr_scheduler_type` says.

    The first step has a rate above zero, and so has the last: a step at rate zero is work for nothing.
    """
    peak, rising = config.learning_rate, _steps(config.warmup_steps, total)
    if step < rising:
        return peak * (step + 1) / rising
    match config.lr_scheduler_type:
        case "constant_with_warmup":
            return peak
        case "cosine":
            return peak * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising))) / 2
        case "warmup_stable_decay":
            return peak * min(1.0, (total - step) / max(1, min(_steps(config.decay_steps, total), total - rising)))
        case _:
            return peak * (total - step) / max(1, total - rising)


def _steps(asked: float, total: int) -> int:
    """Return a number of steps that may be given as a share of all, below 1."""
    return round(total * asked) if asked < 1 else int(asked)


# Memory that a process holds and does not use goes back to the system.
#
# Batches of ever new shapes leave holes in the heap of the C library, and a run on a CPU grows by gigabytes although
# nothing is kept. Asking glibc to give free pages back, every few steps, keeps it at what is used; elsewhere there is
# nothing to ask.

RELEASE_EVERY = 8  # steps; pages that come back have to be cleared again, so each step would be too often


def release_free_memory(step: int) -> None:
    """Give free pages back to the system, now and then."""
    trim = _malloc_trim()
    if trim is not None and step % RELEASE_EVERY == 0:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """Return glibc's function, or None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
