"""Checkpoints that are whole or absent, and what a run is, so that the same command goes on and another one does not.

`OUT/checkpoints/step-N` holds what trains (`weights.safetensors`), the optimizer's state (`optimizer.safetensors`) and `state.json`. Rows,
masks, dropout and the learning rate are functions of the step, so nothing else is needed, and a run that was killed ends with the same
bits as one that was not. A checkpoint is written beside its place and renamed; the older ones go only after that. Tensors are stored by
the names that parameters have in one piece, so another number of ranks can go on.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save_file

from twoway.data.policy import BAD_ROWS
from twoway.errors import TwowayError, UsageError
from twoway.files import disk_errors, fresh_folder, write_whole
from twoway.model.source import check_file, read_json

from .ranks import put

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import nn

FOLDER, RUN, WEIGHTS, OPTIMIZER, STATE = "checkpoints", "run.json", "weights.safetensors", "optimizer.safetensors", "state.json"
# What may lie there before a run is written down: tables and the list of bad rows, of a run that was refused for its data.
_OURS = ("tables", BAD_ROWS)


class Checkpoints:
    """The checkpoints of one run, in `out/checkpoints`."""

    def __init__(self, out: Path, keep: int = 2) -> None:
        self.folder = out / FOLDER
        self.keep = keep

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that stand, oldest first."""
        found = [path for path in self.folder.glob("step-*") if (path / STATE).exists()]
        return sorted(int(path.name.removeprefix("step-")) for path in found)

    def said(self) -> str:
        """Say what a run that fails now leaves."""
        steps = self.steps()
        return f"the checkpoint of step {steps[-1]} stands" if steps else "nothing was saved yet"

    def place(self, step: int) -> Path:
        """Return the folder of one."""
        return self.folder / f"step-{step}"

    def clean(self) -> None:
        """Take away what a killed run left half-written."""
        for path in self.folder.glob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, weights: Mapping[str, torch.Tensor], optimizer: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Write one, and then let go of the oldest."""
        if not self.place(step).exists():
            try:
                with fresh_folder(self.place(step)) as folder, disk_errors():
                    save_file(dict(weights), folder / WEIGHTS)
                    save_file(dict(optimizer), folder / OPTIMIZER)
                    (folder / STATE).write_text(json.dumps({"format": 1, "step": step, **state}, indent=2) + "\n", encoding="utf-8")
                    for path in folder.iterdir():
                        _sync(path)
                _sync(self.folder)
            except TwowayError as error:
                last = self.steps()
                kept = f"the checkpoint of step {last[-1]} stands, and the same command goes on from it" if last else "there is none yet"
                raise TwowayError(f"{error}; {kept}") from error
        for old in self.steps()[: -self.keep]:
            # Renamed first: half a checkpoint must not look like one.
            gone = self.folder / f".step-{old}.old.tmp"
            self.place(old).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def read_weights(folder: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put the weights of a checkpoint into the parameters that train."""
    with _open(folder / WEIGHTS) as file:
        stored = set(file.keys())
        if stored != parameters.keys():
            odd = sorted(stored ^ parameters.keys())[0]
            raise TwowayError(f"{folder} does not fit this run: {odd} is in only one of them")
        for name, parameter in parameters.items():
            value = file.get_tensor(name)
            if value.shape != parameter.shape:
                raise TwowayError(f"{folder} does not fit this run: {name} is {tuple(value.shape)} there, {tuple(parameter.shape)} here")
            put(parameter, value)


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Return the optimizer's state by name, as it lies on this rank."""
    return {f"{key}/{name}": value for name, parameter in parameters.items() for key, value in optimizer.state[parameter].items()}


def read_optimizer(folder: Path, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put the optimizer's state back."""
    with _open(folder / OPTIMIZER) as file:
        for entry in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
            key, name = entry.split("/", 1)
            value, parameter = file.get_tensor(entry), parameters[name]
            if value.dim():
                place = parameter.detach().clone()
                put(place, value)
                value = place
            # A count of steps has to lie where the weights do: a fused optimizer on an accelerator reads it there.
            optimizer.state[parameter][key] = value.to(parameter.device)


def same_run(out: Path, run: Mapping[str, Any], *, free: frozenset[str] = frozenset(), force: bool = False, write: bool = True) -> None:
    """Compare what this run is with what stands in `out`, and write it down; a difference is refused unless `force`.

    Keys in `free` (speed, logging) may change without a word. Without `write`, `run` may be a part, and nothing is made.
    """
    if (out / RUN).exists():
        old, new = _flat(read_run(out)), _flat(json.loads(json.dumps(run)))
        changed = [
            f"{key} was {_shown(old, key)} and is {_shown(new, key)}"
            for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key) and key.rpartition(".")[2] not in free and (write or key.partition(".")[0] in run)
        ]
        if changed and not force:
            raise UsageError(f"{out} holds another run: {'; '.join(changed)}; give the same command, another OUT, or --force to go on so")
    elif out.exists() and (not out.is_dir() or any(not _is_ours(path.name) for path in out.iterdir())):
        raise UsageError(f"{out} exists already and is no unfinished run; choose another folder")
    if write:
        with disk_errors():
            out.mkdir(parents=True, exist_ok=True)
        write_whole(out / RUN, json.dumps(run, indent=2, ensure_ascii=False) + "\n")


def _is_ours(name: str) -> bool:
    """Say whether something may lie there before a run is written down: a kill while that is done leaves a part of it."""
    return name in _OURS or (name.startswith(f".{RUN}.") and name.endswith(".tmp"))


def read_run(out: Path) -> dict[str, Any]:
    """Return what the run in a folder is; empty where none was begun."""
    return read_json(out / RUN) if (out / RUN).exists() else {}


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by dotted name."""
    if isinstance(tree, dict) and tree:
        return {key: value for part, below in tree.items() for key, value in _flat(below, f"{name}.{part}" if name else part).items()}
    return {name: tree}


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False) if key in leaves else "not there"


def _open(path: Path) -> Any:
    check_file(path)
    return safe_open(str(path), framework="pt")


def _sync(path: Path) -> None:
    """Bring a file to the disk, so that the rename does not come there before it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
