"""The loop: steps over the batches of any task, on any number of ranks, from wherever the last checkpoint stands.

A step is a function of the weights, the optimizer's state and the step's number: its rows and masks come from the number, its random
numbers (dropout) from seed, number and rank. Gradients are those of the mean over the global batch (see `task`). A parameter that no row
of a step reaches gets a gradient of zero on one rank too, as it does on several, so that the optimizer does the same everywhere.

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
from .checkpointing import OPTIMIZER, WEIGHTS, Checkpoints, named, optimizer_tensors, read_optimizer, read_weights
from .config import settle
from .gradient_cache import CachedTask, Step
from .progress import Log, Meter
from .task import Batch, Task, autocast, read, to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from .config import TrainConfig

log = logging.getLogger(__name__)

_NAMED = 8


class Data(Protocol):
    """Where batches come from."""

    def steps(self, start: int, stop: int, rank: int, ranks: int) -> Iterator[Sequence[Batch | None]]:
        """Yield, for each step, this rank's batches; None where it has no rows while others have. Starting late costs nothing."""


class Events:
    """What may happen beside training; all ranks call it, in the same order. Override what is needed."""

    def start(self, trainer: Trainer) -> None:
        """Begin, before the first step of this process."""

    def evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """Measure at step 0, every `eval_steps` and at the end; what is returned goes into the log."""
        return {}

    def end(self, trainer: Trainer) -> None:
        """Come to the end, after the last step is saved."""


class Trainer:
    """Trains one task in `out`. `shared` is the task as it is called, `step` the number of steps done."""

    def __init__(
        self, task: Task, config: TrainConfig, out: Path, *, total: int, ranks: between.Ranks, events: Sequence[Events] = ()
    ) -> None:
        """Share the task with the other ranks and take up the last checkpoint."""
        if total < 1:
            raise UsageError(f"there is nothing to train: {total} steps")
        self.task, self.config, self.out, self.total, self.ranks, self.events = (
            task,
            settle(config, ranks),
            out,
            total,
            ranks,
            tuple(events),
        )
        self.checkpoints = Checkpoints(out, config.save_total_limit)
        self.shared = ranks.share(task, "fsdp" if config.parallel == "fsdp" else "ddp", self.config.dtype)
        self.parameters = {name: one for name, one in task.named_parameters() if one.requires_grad}
        if not self.parameters:
            raise UsageError("nothing trains: every part of the model is frozen")
        self.optimizer = _optimizer(list(self.parameters.values()), config)
        self.step = self._resume()
        self._saved, self._saved_at = self.step, time.monotonic()
        self.meter = Meter(ranks.device, config.dtype, ranks.count)

    def run(self, data: Data, *, stop: int | None = None) -> None:
        """Train to the end (or to step `stop`, for tests), saving on the way; SIGTERM and Ctrl-C save and raise `Stopped`."""
        last = min(stop or self.total, self.total)
        self.task.train()
        self.log = Log(self.out, start=self.step, total=self.total, tracker=self.config.report_to) if self.ranks.first else None
        try:
            with listening() as caught:
                for event in self.events:
                    event.start(self)
                if self.step == 0:
                    self._note({"step": 0}, evaluated=True)
                for batches in data.steps(self.step, last, self.ranks.rank, self.ranks.count):
                    self._one(batches, caught)
                if self.step < last:
                    raise TwowayError(f"the data ended after {self.step} of {last} steps")
                self.checkpoints.settle(self.ranks)
                for event in self.events:
                    event.end(self)
        except RuntimeError as error:
            self.checkpoints.leave(first=self.ranks.first)
            silence = self.ranks.silence(error, self.step + 1, self.checkpoints.said())
            if silence is None:
                raise
            raise silence from error
        finally:
            self.checkpoints.leave(first=self.ranks.first)
            if self.log is not None:
                self.log.close()

    def _one(self, batches: Sequence[Batch | None], caught: list[int]) -> None:
        """Make one step, with everything that follows it."""
        filled = [self.task.placeholder() if batch is None else batch for batch in batches]
        numbers = self._count(filled, [batch is None for batch in batches], caught)
        if numbers["written"] == self.ranks.count:
            self.checkpoints.close(self.ranks)
        if numbers["due"]:
            self.save()
        if numbers["stop"]:
            self.save()
            self.checkpoints.settle(self.ranks)
            number = int(max(self.ranks.gather(caught[0] if caught else 0)))
            raise Stopped(number, f"after step {self.step} of {self.total}, which is saved" if self.step else "before the first step")
        try:
            self._update(filled, numbers)
        except torch.OutOfMemoryError as error:
            way = "take a smaller budget, or gradient_checkpointing=true"
            self.checkpoints.leave(first=self.ranks.first)
            raise TwowayError(f"the device's memory does not hold step {self.step + 1}: {way}; {self.checkpoints.said()}") from error
        self.step += 1
        give_back(self.step)
        config, done = self.config, self.step == self.total
        evaluated = done or bool(config.eval_steps and self.step % config.eval_steps == 0)
        if self.step % config.logging_steps == 0 or evaluated:
            entry = self.meter.entry(self.step, self.total, self.task.weights)
            self._note(
                entry | {"learning_rate": self.optimizer.param_groups[0]["lr"], "grad_norm": round(self.norm, 6)}, evaluated=evaluated
            )
        if self.step % config.save_steps == 0 or done:
            self.save()

    def _count(self, batches: Sequence[Batch], empty: Sequence[bool], caught: list[int]) -> dict[str, float]:
        """Count the step's targets and tokens over all ranks, before anything is computed; and hear whether any rank is to stop."""
        names = (*(f"count {name}" for name in self.task.weights), "rows", "tokens", "padding", "work")
        numbers = dict.fromkeys((*names, *(f"work {rank}" for rank in range(self.ranks.count))), 0.0)
        for batch, none in zip(batches, empty, strict=True):
            if none:
                continue
            for name, count in self.task.counts(batch).items():
                numbers[f"count {name}"] += count
            for name, size in self.task.sizes(batch).items():
                numbers[name] += size
        numbers[f"work {self.ranks.rank}"], numbers["stop"] = numbers["work"], float(bool(caught))
        numbers["written"], numbers["due"] = float(self.checkpoints.ended), float(self._due())
        added = dict(zip(numbers, self.ranks.sum(list(numbers.values())), strict=True))
        most = max(added.pop(f"work {rank}") for rank in range(self.ranks.count))
        return added | {"longest": most * self.ranks.count}

    def _update(self, batches: Sequence[Batch], numbers: dict[str, float]) -> None:
        """Compute the gradient of the global batch and let the optimizer use it."""
        config = self.config
        cached: Step | None = None
        if isinstance(self.task, CachedTask):
            seed = partial(_seed, config.seed, self.step, self.ranks.rank)
            cached = Step(self.task, self.shared, self.ranks, batches, seed=seed, dtype=config.dtype)
            waiting = cached.gradients()
        else:
            losses = self._accumulate(batches, numbers)
            waiting = [part for parts in losses for part in parts.values()]
        parameters = list(self.parameters.values())
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        norm, *seen = read([between.norm(parameters, config.max_grad_norm), *waiting])
        self.norm = float(norm)
        if cached is not None:
            made = cached.finish(seen)
            sums, numbers = made.sums, numbers | made.numbers
        else:
            left = iter(seen)
            sums = [{name: float(next(left)) for name in parts} for parts in losses]
        added = self.ranks.sum([sum(part.get(name, 0.0) for part in sums) for name in self.task.weights])
        if not math.isfinite(self.norm) or not all(map(math.isfinite, added)):
            raise self._not_finite(batches, sums)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.step, self.total, config.learning_rate, config.warmup_steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.meter.add(numbers | {f"sum {name}": number for name, number in zip(self.task.weights, added, strict=True)})

    def _accumulate(self, batches: Sequence[Batch], numbers: dict[str, float]) -> list[dict[str, torch.Tensor]]:
        """Add up the gradients of the batches, and return the sums of their losses, which stay on the device."""
        config, device = self.config, self.ranks.device
        scales = {name: weight * self.ranks.count / max(numbers[f"count {name}"], 1) for name, weight in self.task.weights.items()}
        torch.manual_seed(_seed(config.seed, self.step, self.ranks.rank))
        sums = []
        for index, batch in enumerate(batches):
            known = self.task.prepare_batch(batch)
            moved = to_device({key: value for key, value in known.items() if key != "identities"}, device)
            with self.ranks.more(self.shared, last=index == len(batches) - 1):
                with autocast(device, config.dtype):
                    total, parts = self.shared(moved, scales)
                total.backward()
            sums.append(parts)
        return sums

    def _not_finite(self, batches: Sequence[Batch], sums: Sequence[dict[str, float]]) -> TwowayError:
        """Name the rows: those of the batches whose loss is not finite, or all of the step where only the gradient is not."""
        bad = [not all(map(math.isfinite, part.values())) for part in sums]
        guilty = [row for batch, is_bad in zip(batches, bad, strict=True) if is_bad for row in batch.get("identities", [])]
        every = [row for batch in batches for row in batch.get("identities", [])]
        gathered = self.ranks.gather((guilty, every))
        rows = [row for one, _ in gathered for row in one] or [row for _, one in gathered for row in one]
        what = "loss" if any(one for one, _ in gathered) else "gradient"
        self.checkpoints.settle(self.ranks)
        self._note({"step": self.step + 1, "not_finite": what, "identities": rows}, evaluated=False)
        more = f" and {len(rows) - _NAMED} more (all in log.jsonl)" if len(rows) > _NAMED else ""
        rows_said = f"{', '.join(rows[:_NAMED])}{more}"
        return TwowayError(f"the {what} of step {self.step + 1} is not finite; its rows: {rows_said}; {self.checkpoints.said()}")

    def _note(self, entry: dict[str, Any], *, evaluated: bool) -> None:
        """Log an entry, with what the events measure."""
        if evaluated:
            for event in self.events:
                entry |= event.evaluate(self)
            self.task.train()
        if self.log is not None and len(entry) > 1:
            self.log.write(entry)

    def save(self) -> None:
        """Begin to write a checkpoint beside training; every rank takes part, and one that is being written is waited for."""
        self.checkpoints.settle(self.ranks)
        if self.step == self._saved:
            return
        self._saved, self._saved_at = self.step, time.monotonic()
        tensors = named(WEIGHTS, self.parameters) | named(OPTIMIZER, optimizer_tensors(self.optimizer, self.parameters))
        self.checkpoints.save(self.step, tensors, {"total": self.total, "ranks": self.ranks.count}, self.ranks)

    def _due(self) -> bool:
        """Whether the first rank finds that a checkpoint is due by the clock; the next one waits for the one being written."""
        minutes = self.config.save_minutes
        return bool(minutes) and self.ranks.first and not self.checkpoints.saving and time.monotonic() - self._saved_at > 60 * minutes

    def _resume(self) -> int:
        """Take up the last checkpoint and return its step."""
        if self.ranks.first:
            self.checkpoints.clean()
        self.ranks.wait()
        steps = self.checkpoints.steps()
        if any(seen != steps for seen in self.ranks.gather(steps)):
            raise TwowayError(f"ranks see different checkpoints in {self.out}; it has to lie on a disk that all machines share")
        if not steps:
            return 0
        if steps[-1] > self.total:
            raise UsageError(f"{self.out} has done {steps[-1]} steps already, more than the {self.total} asked for")
        folder = self.checkpoints.place(steps[-1])
        read_weights(folder, self.parameters)
        read_optimizer(folder, self.optimizer, self.parameters)
        log.info("going on from step %d of %d", steps[-1], self.total)
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


def rate(step: int, total: int, peak: float, warmup_steps: float) -> float:
    """Return the rate of step `step` of `total`: up in a line for `warmup_steps` (below 1 a share of all), then down towards zero.

    The first step has a rate above zero, and so has the last: a step at rate zero is work for nothing.
    """
    rising = round(total * warmup_steps) if warmup_steps < 1 else int(warmup_steps)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * (total - step) / max(1, total - rising)


# Memory that a process holds and does not use goes back to the system.
#
# Batches of ever new shapes leave holes in the heap of the C library, and a run on a CPU grows by gigabytes although
# nothing is kept. Asking glibc to give free pages back, every few steps, keeps it at what is used; elsewhere there is
# nothing to ask.

EVERY = 8  # steps; pages that come back have to be cleared again, so each step would be too often


def give_back(step: int) -> None:
    """Give free pages back to the system, now and then."""
    trim = _trim()
    if trim is not None and step % EVERY == 0:
        trim(0)


@cache
def _trim() -> Any:
    """Return glibc's function, or None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
