"""Checkpoints that are whole or absent, and what a run is, so that the same command goes on and another one does not.

`OUT/checkpoints/step-N` holds what trains and the optimizer's state as safetensors, `index.json` (which file has which piece of which
tensor) and `state.json`. Rows, masks, dropout and the learning rate are functions of the step, so nothing else is needed, and a run that
was killed ends with the same bits as one that was not.

Every rank writes its own pieces (what all ranks have is shared out among them), from a copy, beside training. Who has which piece, and
which pieces another number of ranks needs, is told by torch's distributed checkpointing (its planners; its stager copies). Its storage
keeps the index as pickle, so the storage is ours: JSON beside safetensors. Ranks agree beforehand on who writes what, so no rank waits for
another while it writes, and a rank that dies leaves nobody hanging.

A checkpoint counts once its folder has its name. It is written in a hidden folder, its index first and each file under its name only
when it is whole on the disk; so what is complete can be told by the names alone, by the ranks that wrote it or by the run that comes
after a kill. Another number of ranks can go on: each reads the pieces that it needs.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties, TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.tensor import DTensor

from twoway.data.rows import BAD_ROWS
from twoway.errors import TwowayError, UsageError
from twoway.files import disk_errors, fresh_folder, write_errors, write_whole
from twoway.limits import SHOWN
from twoway.models.loading import check_safetensors, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from torch import nn
    from torch.distributed.checkpoint.planner import ReadItem

    from .distributed import Ranks

FOLDER, RUN, STATE, INDEX = "checkpoints", "run.json", "state.json", "index.json"
WEIGHTS, OPTIMIZER = "weights", "optimizer"  # groups of tensors; a tensor's full name is GROUP:NAME
_FORMAT = 2
_POLL = 0.02  # seconds between two looks at what is still being written
_PLAIN = {"flatten_state_dict": False, "flatten_sharded_tensors": False}  # what is written is one dictionary of tensors
# What may lie there before a run is written down: tables and the list of bad rows, of a run that was refused for its data.
_OURS = ("tables", BAD_ROWS)


class Checkpoints:
    """The checkpoints of one run, in `out/checkpoints`; at most one is being written at a time."""

    def __init__(self, out: Path, keep: int = 2) -> None:
        self.folder = out / FOLDER
        self.keep = keep
        self._writing: tuple[int, Future[None]] | None = None  # the step, and what this rank writes of it
        self._stager: DefaultStager | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that stand, oldest first."""
        found = [path for path in self.folder.glob("step-*") if (path / STATE).exists()]
        return sorted(int(path.name.removeprefix("step-")) for path in found)

    def describe_last(self) -> str:
        """Say what a run that fails now leaves."""
        steps = self.steps()
        return f"the checkpoint of step {steps[-1]} stands" if steps else "nothing was saved yet"

    def path(self, step: int) -> Path:
        """Return the folder of one."""
        return self.folder / f"step-{step}"

    def recover(self) -> None:
        """Let a checkpoint count that a killed run left complete, and take away what it left half-written."""
        for path in self.folder.glob(".step-*.tmp"):
            step = path.name.removeprefix(".step-").removesuffix(".tmp")  # `7`, or `7.old` of one that is being removed
            if step.isdigit() and not self.path(int(step)).exists() and is_complete(path):
                self._promote(int(step))
            else:
                shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any], ranks: Ranks) -> None:
        """Begin to write one; every rank takes part. What trains may change as soon as this returns."""
        self.wait(ranks)
        beside = self._partial(step)
        own, index = _share_out(tensors, ranks)
        failure: Exception | None = None
        if ranks.is_main_process:
            try:
                with write_errors(beside):
                    shutil.rmtree(beside, ignore_errors=True)
                    beside.mkdir(parents=True)
                    _write_index(beside, index, {"format": _FORMAT, "step": step, **state})
            except Exception as error:  # the other ranks have to hear of it, whatever it is
                failure = error
        self._raise_first(ranks.all_gather_object(failure))
        self._stager = self._stager or _stager()
        copies: Any = self._stager.stage(own)
        self._writing = step, self._writer.submit(_write_pieces, beside, copies, ranks.rank, ranks.world_size)

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written; all ranks say the same."""
        return self._writing is not None

    @property
    def written(self) -> bool:
        """Whether this rank has done its part of the checkpoint that is being written."""
        return self._writing is not None and self._writing[1].done()

    def wait(self, ranks: Ranks) -> None:
        """Wait until all ranks have written what is being written, and let it count; every rank takes part."""
        # Asked for again and again, so that a slow disk is waited for and a rank that does not answer is not.
        while self.saving and ranks.all_reduce_numbers([float(self.written)])[0] < ranks.world_size:
            time.sleep(_POLL)
        self.finalize(ranks)

    def finalize(self, ranks: Ranks) -> None:
        """Let the checkpoint count that all ranks have written, or say why it could not be; every rank takes part."""
        if self._writing is None:
            return
        step, failure = self._end()
        failures = ranks.all_gather_object(failure)
        failure = None
        if ranks.is_main_process:
            try:
                if any(failures):
                    shutil.rmtree(self._partial(step), ignore_errors=True)
                else:
                    with write_errors(self.path(step)):
                        self._promote(step)
            except Exception as error:
                failure = error
        self._raise_first([*failures, *ranks.all_gather_object(failure)])

    def abandon(self, *, first: bool) -> None:
        """End what this rank writes, where the run ends early and ranks may not answer any more; what is complete counts."""
        if self._writing is not None:
            step, failure = self._end()
            if failure is None and first and is_complete(self._partial(step)):
                self._promote(step)

    def _end(self) -> tuple[int, BaseException | None]:
        """Wait for what this rank writes; return the step, and what went wrong."""
        assert self._writing is not None
        (step, future), self._writing = self._writing, None
        return step, future.exception()

    def _partial(self, step: int) -> Path:
        return self.folder / f".step-{step}.tmp"

    def _promote(self, step: int) -> None:
        """Give a complete checkpoint its name, and then let go of the oldest."""
        self._partial(step).rename(self.path(step))
        _sync(self.folder)
        for old in self.steps()[: -self.keep]:
            # Renamed first: half a checkpoint must not look like one.
            gone = self.folder / f".step-{old}.old.tmp"
            self.path(old).rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _raise_first(self, failures: Sequence[BaseException | None]) -> None:
        """Raise the first failure, with what stands."""
        for error in failures:
            if isinstance(error, TwowayError):
                goes_on = f"{self.describe_last()}, and the same command goes on from it" if self.steps() else "there is none yet"
                raise TwowayError(f"{error}; {goes_on}") from error
            if error is not None:
                raise error


def is_complete(folder: Path) -> bool:
    """Say whether all files of a checkpoint are there; a file has its name only when it is whole."""
    if not (folder / INDEX).exists() or not (folder / STATE).exists():
        return False
    return all((folder / piece["file"]).exists() for entry in _read_index(folder).values() for piece in entry["pieces"])


def write_checkpoint(folder: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any], ranks: Ranks) -> None:
    """Write tensors as a checkpoint has them into a folder, in place of what it held, before training goes on; every rank takes part."""
    own, index = _share_out(tensors, ranks)
    with ExitStack() as stack:
        beside = ranks.all_gather_object(stack.enter_context(fresh_folder(folder, overwrite=True)) if ranks.is_main_process else None)[0]
        failure: Exception | None = None
        try:
            if ranks.is_main_process:
                _write_index(beside, index, state)
            _write_pieces(beside, {name: tensor.cpu() for name, tensor in own.items()}, ranks.rank, ranks.world_size)
        except Exception as error:
            failure = error
        for one in ranks.all_gather_object(failure):
            if one is not None:
                raise one


def with_group(group: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors by their full names."""
    return {f"{group}:{name}": tensor.detach() for name, tensor in tensors.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Return the optimizer's state by name, as it lies on this rank."""
    return {f"{key}/{name}": value for name, parameter in parameters.items() for key, value in optimizer.state[parameter].items()}


def read_weights(folder: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put the weights of a checkpoint into the parameters that train."""
    stored = _read_index(folder, WEIGHTS)
    if stored.keys() != parameters.keys():
        odd = sorted(stored.keys() ^ parameters.keys())[0]
        raise TwowayError(f"{folder} does not fit this run: {odd} is in only one of them")
    for name, parameter in parameters.items():
        there = tuple(stored[name]["shape"])
        if there != tuple(parameter.shape):
            raise TwowayError(f"{folder} does not fit this run: {name} is {there} there, {tuple(parameter.shape)} here")
    _read(folder, with_group(WEIGHTS, parameters))


def read_optimizer(folder: Path, optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put the optimizer's state back, in pieces as the parameters are."""
    wanted = {}
    for name, entry in _read_index(folder, OPTIMIZER).items():
        key, parameter = name.split("/", 1)
        like = parameters[parameter]
        # A count of steps has to lie where the weights do: a fused optimizer on an accelerator reads it there.
        value = torch.zeros_like(like) if entry["shape"] else torch.zeros((), dtype=_dtype(entry), device=like.device)
        optimizer.state[like][key] = wanted[name] = value.detach()
    _read(folder, with_group(OPTIMIZER, wanted))


def _read_index(folder: Path, group: str | None = None) -> dict[str, dict[str, Any]]:
    """Return what a checkpoint holds: of each tensor its type, shape and pieces; those of one group by their own names."""
    tensors: dict[str, dict[str, Any]] = read_json(folder / INDEX)["tensors"]
    if group is None:
        return tensors
    return {name.removeprefix(f"{group}:"): entry for name, entry in tensors.items() if name.startswith(f"{group}:")}


def _write_index(folder: Path, index: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    write_whole(folder / STATE, json.dumps(state, indent=2) + "\n")
    write_whole(folder / INDEX, json.dumps({"format": _FORMAT, "tensors": index}) + "\n")


def _dtype(entry: Mapping[str, Any]) -> torch.dtype:
    found = getattr(torch, entry["dtype"])
    assert isinstance(found, torch.dtype)
    return found


def _stager() -> DefaultStager:
    """Return what copies tensors for writing: into page-locked memory, kept from one checkpoint to the next, where there is a GPU."""
    pinned = torch.cuda.is_available()
    return DefaultStager(StagingOptions(pinned, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=pinned))


def _share_out(tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Agree on who writes what: return this rank's pieces, and the index of all files."""
    planner = DefaultSavePlanner(**_PLAIN)
    planner.set_up_planner(dict(tensors), is_coordinator=ranks.is_main_process)
    local = planner.create_local_plan()
    # A tensor with fewer rows than there are ranks has no piece on some of them.
    own = replace(local, items=[item for item in local.items if item.tensor_data and 0 not in item.tensor_data.chunk.sizes])
    plans, _ = planner.create_global_plan(ranks.all_gather_object(own))
    index: dict[str, Any] = {}
    for rank, plan in enumerate(plans):
        for item in plan.items:
            data, name = item.tensor_data, item.index.fqn
            assert data is not None
            kind = {"dtype": str(data.properties.dtype).removeprefix("torch."), "shape": list(data.size), "pieces": []}
            file = _file(name.partition(":")[0], rank, ranks.world_size)
            piece = {"file": file, "offsets": list(data.chunk.offsets), "sizes": list(data.chunk.sizes)}
            index.setdefault(name, kind)["pieces"].append(piece)
    mine = {item.index.fqn: tensors[item.index.fqn] for item in plans[ranks.rank].items}
    return {name: (one.to_local() if isinstance(one, DTensor) else one).detach() for name, one in mine.items()}, index


def _file(group: str, rank: int, ranks: int) -> str:
    """Return what the file of one rank's tensors is called."""
    return f"{group}.safetensors" if ranks == 1 else f"{group}-{rank + 1:05}-of-{ranks:05}.safetensors"


def _write_pieces(folder: Path, pieces: Mapping[str, torch.Tensor], rank: int, ranks: int) -> None:
    """Write one rank's tensors, a file for each group; each gets its name when it is whole on the disk."""
    groups: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for full, tensor in pieces.items():
        group, _, name = full.partition(":")
        groups[group][name] = tensor.contiguous()
    with write_errors(folder):
        for group, tensors in groups.items():
            path = folder / _file(group, rank, ranks)
            part = path.with_suffix(".part")
            with disk_errors():
                save_file(tensors, part)
            part.chmod(0o644)
            _sync(part)
            part.rename(path)
        _sync(folder)


def _read(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fill tensors, whole ones or this rank's pieces, from a checkpoint."""
    index, stored = _read_index(folder), dict[str, Any]()
    files: dict[MetadataIndex, str] = {}
    for name in tensors:
        entry = index[name]
        chunks = [ChunkStorageMetadata(torch.Size(one["offsets"]), torch.Size(one["sizes"])) for one in entry["pieces"]]
        stored[name] = TensorStorageMetadata(TensorProperties(dtype=_dtype(entry)), torch.Size(entry["shape"]), chunks)
        files |= {MetadataIndex(name, torch.Size(one["offsets"])): one["file"] for one in entry["pieces"]}
    planner = DefaultLoadPlanner(**_PLAIN)
    planner.set_up_planner(dict(tensors), Metadata(stored), is_coordinator=True)
    by_file: dict[str, list[ReadItem]] = defaultdict(list)
    for item in planner.create_local_plan().items:
        by_file[files[item.storage_index]].append(item)
    for file, items in by_file.items():
        check_safetensors(folder / file)
        with safe_open(str(folder / file), framework="pt") as opened:
            for item in items:
                key = item.storage_index.fqn.partition(":")[2]
                places = tuple(slice(start, start + size) for start, size in zip(item.storage_offsets, item.lengths, strict=True))
                planner.resolve_tensor(item).detach().copy_(opened.get_slice(key)[places] if places else opened.get_tensor(key))


def require_same_run(
    out: Path, run: Mapping[str, Any], *, free: frozenset[str] = frozenset(), force: bool = False, write: bool = True
) -> None:
    """Compare what this run is with what stands in `out`, and write it down; a difference is refused unless `force`.

    Keys in `free` (speed, logging) and in groups of that name may change without a word, but not which frames of a video are seen. Without
    `write`, `run` may be a part, and nothing is made.
    """
    if (out / RUN).exists():
        old, new = _flat(read_run(out)), _flat(json.loads(json.dumps(run)))
        changed = [
            f"{key} was {_shown(old, key)} and is {_shown(new, key)}"
            for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key) and not _is_free(key, free) and (write or key.partition(".")[0] in run)
        ]
        if changed and not force:
            raise UsageError(f"{out} holds another run: {'; '.join(changed)}; give the same command, another OUT, or --force to go on so")
    elif out.exists() and (not out.is_dir() or any(not _is_ours(path.name) for path in out.iterdir())):
        raise UsageError(f"{out} exists already and is not an unfinished run; choose another folder")
    if write:
        with disk_errors():
            out.mkdir(parents=True, exist_ok=True)
        write_whole(out / RUN, json.dumps(run, indent=2, ensure_ascii=False) + "\n")


def _is_free(key: str, free: frozenset[str]) -> bool:
    *groups, name = key.split(".")
    return name in free or (name not in SHOWN and not free.isdisjoint(groups))


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


def _sync(path: Path) -> None:
    """Bring a file to the disk, so that the rename does not come there before it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
