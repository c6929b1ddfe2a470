"""A toy task whose steps are a function of their number, with what makes resuming hard: dropout, unequal counts, unreached parts."""

from __future__ import annotations

import json
import os
import signal
import threading
from datetime import timedelta
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from twoway.losses import Loss
from twoway.training import checkpointing
from twoway.training.config import TrainConfig
from twoway.training.distributed import Ranks
from twoway.training.module import TrainingModule
from twoway.training.trainer import Callback, Trainer

ROWS, WIDTH, SHARDS = 4, 6, 2


class Toy(TrainingModule):
    """Words and patches from a shared layer; only patches reach the tower."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__({"mlm": 1.0, "mae": 0.5})
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(2)])
        self.tower, self.words, self.unused = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3), nn.Linear(2, 2)
        self.dropout = nn.Dropout(dropout)

    def count_targets(self, batch):
        return {"mlm": int((batch["labels"] >= 0).sum()), "mae": int(batch["patch_mask"].sum())}

    def compute_losses(self, batch):
        states = batch["inputs"]["x"]
        for layer in self.layers:
            states = self.dropout(torch.tanh(layer(states)))
        losses = {}
        chosen = batch["labels"] >= 0
        if chosen.any():
            losses["mlm"] = Loss(nn.functional.cross_entropy(self.words(states[chosen]), batch["labels"][chosen], reduction="sum"), 0)
        if batch["patch_mask"].any():
            losses["mae"] = Loss(self.tower(states[batch["patch_mask"]]).square().mean(-1).sum(), 0)
        return losses, states

    def dummy_batch(self):
        return toy_batch(0, 0, rows=1, words=False, patches=False)

    def fsdp_units(self):
        return list(self.layers)


def toy_batch(step, shard, *, rows=ROWS, words=True, patches=True):
    """One batch, a function of its number."""
    draw = torch.Generator().manual_seed(1000 * step + shard)
    labels = torch.randint(-2, 3, (rows, 5), generator=draw).clamp(min=-1)
    mask = torch.rand(rows, 5, generator=draw) < 0.5
    return {
        "inputs": {"x": torch.randn(rows, 5, WIDTH, generator=draw), "attention_mask": torch.ones(rows, 5, dtype=torch.long)},
        "labels": labels if words else torch.full_like(labels, -1),
        "patch_mask": mask if patches else torch.zeros_like(mask),
        "identities": [f"toy#{step}.{shard}.{row}" for row in range(rows)],
    }


class ToyData:
    """Global batches of two shards; some have no patches, some no words, some nothing, and one shard no rows at all."""

    def __init__(self, poison: int | None = None) -> None:
        self.poison = poison

    def steps(self, start, stop, rank, ranks):
        each = SHARDS // ranks
        for step in range(start, stop):
            yield [self.batch(step, shard) for shard in range(rank * each, (rank + 1) * each)]

    def batch(self, step, shard):
        if step % 5 == 3 and shard == 1:
            return None
        kind = (step + shard) % 4
        made = toy_batch(step, shard, rows=ROWS + shard, words=kind != 1, patches=kind not in (2, 1))
        if self.poison == step and shard == 1:
            made["inputs"]["x"][0] = float("nan")
        return made


class Slow(Callback):
    """Takes a little time at each logged step, so that a kill from outside can meet it."""

    def on_evaluate(self, trainer):
        return {"seen": trainer.step}


def train_toy(out, steps=12, *, stop=None, poison=None, dropout=0.2, die_at=None, task=None, **options):
    """Train in `out`; with `die_at` the process kills itself at that write, half-way through."""
    torch.set_num_threads(1)
    if die_at is not None:
        _die_at(die_at)
    settings = {"learning_rate": 0.05, "dtype": "float32", "save_steps": 3, "eval_steps": 4} | options
    config = TrainConfig(**settings)
    ranks = Ranks("auto" if not torch.accelerator.is_available() else "cpu", timedelta(seconds=config.ddp_timeout))
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(task or Toy(dropout), config, out, total_steps=steps, ranks=ranks, callbacks=[Slow()])
    trainer.train(ToyData(poison), stop=stop)
    ranks.destroy()
    return trainer


def toy_rank(out, options):
    """Be one rank."""
    train_toy(out, **options)


def stored(folder, group="weights"):
    """Read a checkpoint's tensors in one piece, whatever ranks wrote it."""
    found = {}
    for name, entry in json.loads((Path(folder) / "index.json").read_text())["tensors"].items():
        kind, _, key = name.partition(":")
        if kind == group:
            made = found[key] = torch.zeros(entry["shape"], dtype=getattr(torch, entry["dtype"]))
            for piece in entry["pieces"]:
                there = tuple(slice(start, start + size) for start, size in zip(piece["offsets"], piece["sizes"], strict=True))
                made[there] = load_file(Path(folder) / piece["file"])[key]
    return found


def _die_at(number):
    """Count the steps of writing a checkpoint (files, flushes, renames) and die at one of them, with a file half-written."""
    left, lock = [number], threading.Lock()

    def counted(function):
        def call(*args, **kwargs):
            with lock:
                left[0] -= 1
                die = left[0] == 0
            if die:
                target = next((arg for arg in args if isinstance(arg, Path) and arg.suffix == ".part"), None)
                if target is not None:
                    target.write_bytes(b"half of a file")
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("save_file", "_sync", "write_whole"):
        setattr(checkpointing, name, counted(getattr(checkpointing, name)))
    checkpointing.shutil.rmtree = counted(checkpointing.shutil.rmtree)
    for name in ("save", "finalize", "_promote"):
        setattr(checkpointing.Checkpoints, name, counted(getattr(checkpointing.Checkpoints, name)))
