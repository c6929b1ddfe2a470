"""Checkpoints that are whole or absent, and what a run is, so that the same command goes on and another one does not.

`OUT/checkpoints/step-N` holds what trains and the optimizer's state as safetensors, `index.json` (which file has which piece of which
tensor) and `state.json`. Rows, masks, dropout and the learning rate are functions of the step, so nothing else is needed, and a run that
was killed ends with the same bits as one that was not.

They are written by torch's distributed checkpointing: every rank writes its own pieces (what all ranks have is shared out among them), from
a copy, beside training. torch's own storage keeps its index as pickle, so the storage here is ours: JSON beside safetensors. Ranks agree
beforehand on who writes what, so no rank waits for another while it writes, and a rank that dies leaves nobody hanging.

A checkpoint counts once its folder has its name. It is written in a hidden folder, its index first and each file under its name only
when it is whole on the disk; so what is complete can be told by the names alone, by the ranks that wrote it or by the run that comes
after a kill. Another number of ranks can go on: each reads the pieces that it needs.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties, TensorStorageMetadata
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.distributed.tensor import DTensor
from torch.futures import Future

from twoway.data.rows import BAD_ROWS
from twoway.errors import TwowayError, UsageError
from twoway.files import disk_errors, fresh_folder, write_errors, write_whole
from twoway.models.loading import check_file, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Future as Promise
    from pathlib import Path

    from torch import nn
    from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner, WriteItem

    from .distributed import Ranks

FOLDER, RUN, STATE, INDEX = "checkpoints", "run.json", "state.json", "index.json"
WEIGHTS, OPTIMIZER = "weights", "optimizer"  # groups of tensors; a tensor's full name is GROUP:NAME
_FORMAT = 2
_POLL = 0.02  # seconds between two looks at what is still being written
# What may lie there before a run is written down: tables and the list of bad rows, of a run that was refused for its data.
_OURS = ("tables", BAD_ROWS)
# A rank writes and reads by itself here, and that is meant; what goes wrong is said in one line, by whoever asked.
logging.getLogger("c10d-NullHandler-dcp_logger").propagate = False
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized, assuming the intent")


@dataclass
class _Saving:
    """A checkpoint that is being written."""

    step: int
    promise: Promise[Any]
    writer: _PieceWriter

    @property
    def written(self) -> bool:
        """Whether this rank has written its pieces, or failed to."""
        return self.promise.done()

    def failure(self) -> Exception | None:
        """Wait for this rank's pieces, and return what went wrong."""
        error = self.promise.exception()
        return self.writer.failure if error is None else RuntimeError(f"writing step {self.step}: {error}")


class Checkpoints:
    """The checkpoints of one run, in `out/checkpoints`; at most one is being written at a time."""

    def __init__(self, out: Path, keep: int = 2) -> None:
        self.folder = out / FOLDER
        self.keep = keep
        self._saving: _Saving | None = None
        self._stager: DefaultStager | None = None

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
            if not self.path(_step_of(path)).exists() and is_complete(path):
                self._promote(_step_of(path))
            else:
                shutil.rmtree(path, ignore_errors=True)

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any], ranks: Ranks) -> None:
        """Begin to write one; every rank takes part. What trains may change as soon as this returns."""
        self.wait(ranks)
        beside = self._partial(step)
        plan, index, metadata = _agree(tensors, ranks)
        failure: Exception | None = None
        if ranks.is_main_process:
            try:
                with write_errors(beside):
                    shutil.rmtree(beside, ignore_errors=True)
                    beside.mkdir(parents=True)
                    write_whole(beside / STATE, json.dumps({"format": _FORMAT, "step": step, **state}, indent=2) + "\n")
                    write_whole(beside / INDEX, json.dumps({"format": _FORMAT, "tensors": index}) + "\n")
            except Exception as error:  # the other ranks have to hear of it, whatever it is
                failure = error
        self._raise_first(ranks.all_gather_object(failure))
        writer, own = (
            _PieceWriter(beside, ranks.rank, ranks.world_size),
            {item.index.fqn: _local(tensors[item.index.fqn]) for item in plan.items},
        )
        planner = _Agreed(plan, metadata)
        self._stager = self._stager or _stager()
        promise: Any = async_save(
            own, storage_writer=writer, planner=planner, async_stager=self._stager, process_group=ranks.cpu_group, no_dist=True
        )
        self._saving = _Saving(step, promise, writer)

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written; all ranks say the same."""
        return self._saving is not None

    @property
    def written(self) -> bool:
        """Whether this rank has done its part of the checkpoint that is being written."""
        return self._saving is not None and self._saving.written

    def wait(self, ranks: Ranks) -> None:
        """Wait until all ranks have written what is being written, and let it count; every rank takes part."""
        # Asked for again and again, so that a slow disk is waited for and a rank that does not answer is not.
        while self._saving is not None and ranks.all_reduce_numbers([float(self.written)])[0] < ranks.world_size:
            time.sleep(_POLL)
        self.finalize(ranks)

    def finalize(self, ranks: Ranks) -> None:
        """Let the checkpoint count that all ranks have written, or say why it could not be; every rank takes part."""
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        failures = ranks.all_gather_object(saving.failure())
        failure: Exception | None = None
        if ranks.is_main_process:
            try:
                if any(failures):
                    shutil.rmtree(self._partial(saving.step), ignore_errors=True)
                else:
                    with write_errors(self.path(saving.step)):
                        self._promote(saving.step)
            except Exception as error:
                failure = error
        self._raise_first([*failures, *ranks.all_gather_object(failure)])

    def abandon(self, *, first: bool) -> None:
        """End what this rank writes, where the run ends early and ranks may not answer any more; what is complete counts."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            if saving.failure() is None and first and is_complete(self._partial(saving.step)):
                self._promote(saving.step)

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

    def _raise_first(self, failures: list[Exception | None]) -> None:
        """Raise the first failure, with what stands."""
        for error in failures:
            if error is None:
                continue
            if not isinstance(error, TwowayError):
                raise error
            last = self.steps()
            kept = f"the checkpoint of step {last[-1]} stands, and the same command goes on from it" if last else "there is none yet"
            raise TwowayError(f"{error}; {kept}") from error


def is_complete(folder: Path) -> bool:
    """Say whether all files of a checkpoint are there; a file has its name only when it is whole."""
    if not (folder / INDEX).exists() or not (folder / STATE).exists():
        return False
    return all((folder / piece["file"]).exists() for entry in _index(folder).values() for piece in entry["pieces"])


def _step_of(beside: Path) -> int:
    """Return the step that a hidden folder is for: `.step-7.tmp`, or `.step-7.old.tmp` of one that is being removed."""
    return int(beside.name.split(".")[1].removeprefix("step-"))


def write_checkpoint(folder: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any], ranks: Ranks) -> None:
    """Write tensors as a checkpoint has them into a folder, in place of what it held, before training goes on; every rank takes part."""
    plan, index, metadata = _agree(tensors, ranks)
    with ExitStack() as stack:
        beside = ranks.all_gather_object(stack.enter_context(fresh_folder(folder, overwrite=True)) if ranks.is_main_process else None)[0]
        if ranks.is_main_process:
            (beside / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")
            (beside / INDEX).write_text(json.dumps({"format": _FORMAT, "tensors": index}) + "\n", encoding="utf-8")
        writer, planner = _PieceWriter(beside, ranks.rank, ranks.world_size), _Agreed(plan, metadata)
        planner.set_up_planner({item.index.fqn: _local(tensors[item.index.fqn]).cpu() for item in plan.items})
        writer.write_data(plan, planner)
        for failure in ranks.all_gather_object(writer.failure):
            if failure is not None:
                raise failure


def with_group(group: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors by their full names."""
    return {f"{group}:{name}": tensor.detach() for name, tensor in tensors.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Return the optimizer's state by name, as it lies on this rank."""
    return {f"{key}/{name}": value for name, parameter in parameters.items() for key, value in optimizer.state[parameter].items()}


def read_weights(folder: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put the weights of a checkpoint into the parameters that train."""
    stored = {name.removeprefix(f"{WEIGHTS}:"): entry for name, entry in _index(folder).items() if name.startswith(f"{WEIGHTS}:")}
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
    for name, entry in _index(folder).items():
        if not name.startswith(f"{OPTIMIZER}:"):
            continue
        key, parameter = name.removeprefix(f"{OPTIMIZER}:").split("/", 1)
        like = parameters[parameter]
        # A count of steps has to lie where the weights do: a fused optimizer on an accelerator reads it there.
        value = torch.zeros_like(like) if entry["shape"] else torch.zeros((), dtype=_dtype(entry), device=like.device)
        optimizer.state[like][key] = wanted[name] = value.detach()
    _read(folder, wanted)


def _index(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what a checkpoint holds: of each tensor its type, shape and pieces."""
    tensors: dict[str, dict[str, Any]] = read_json(folder / INDEX)["tensors"]
    return tensors


def _dtype(entry: Mapping[str, Any]) -> torch.dtype:
    found = getattr(torch, entry["dtype"])
    assert isinstance(found, torch.dtype)
    return found


def _file(group: str, rank: int, ranks: int) -> str:
    """Return what the file of one rank's tensors is called."""
    return f"{group}.safetensors" if ranks == 1 else f"{group}-{rank + 1:05}-of-{ranks:05}.safetensors"


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what of a tensor lies on this rank."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def _stager() -> DefaultStager:
    """Return what copies tensors for writing: into page-locked memory, kept from one checkpoint to the next, where there is a GPU."""
    pinned = torch.cuda.is_available()
    return DefaultStager(StagingOptions(pinned, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=pinned))


def _agree(tensors: Mapping[str, torch.Tensor], ranks: Ranks) -> tuple[SavePlan, dict[str, Any], Metadata]:
    """Agree on who writes what: return this rank's plan, the index of all files, and torch's own description."""
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(tensors), is_coordinator=ranks.is_main_process)
    local = planner.create_local_plan()
    # A tensor with fewer rows than there are ranks has no piece on some of them.
    own = replace(local, items=[item for item in local.items if 0 not in _chunk(item).sizes])
    plans, metadata = planner.create_global_plan(ranks.all_gather_object(own))
    index: dict[str, Any] = {}
    for rank, plan in enumerate(plans):
        for item in plan.items:
            data, name = item.tensor_data, item.index.fqn
            assert data is not None
            entry = index.setdefault(
                name, {"dtype": str(data.properties.dtype).removeprefix("torch."), "shape": list(data.size), "pieces": []}
            )
            chunk = _chunk(item)
            file = _file(name.partition(":")[0], rank, ranks.world_size)
            entry["pieces"].append({"file": file, "offsets": list(chunk.offsets), "sizes": list(chunk.sizes)})
    return plans[ranks.rank], index, metadata


def _chunk(item: WriteItem) -> ChunkStorageMetadata:
    assert item.tensor_data is not None
    return item.tensor_data.chunk


class _Agreed(DefaultSavePlanner):
    """Follows a plan that the ranks have agreed on, over this rank's own tensors."""

    def __init__(self, plan: SavePlan, metadata: Metadata) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.plan, self._metadata = plan, metadata

    def create_local_plan(self) -> SavePlan:
        """Return the plan."""
        return self.plan

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Change nothing."""
        return all_plans, self._metadata

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        """Return a tensor of this rank."""
        found = self.state_dict[write_item.index.fqn]
        assert isinstance(found, torch.Tensor)
        return found


class _PieceWriter(StorageWriter):
    """Writes one rank's tensors, a file for each group; what goes wrong is kept for the ranks to hear together."""

    def __init__(self, folder: Path, rank: int, ranks: int) -> None:
        self.folder, self.rank, self.ranks = folder, rank, ranks
        self.failure: Exception | None = None

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the files; each gets its name when it is whole on the disk."""
        done: Future[list[WriteResult]] = Future()
        try:
            self._write(plan, planner)
        except Exception as error:
            self.failure = error
        done.set_result([WriteResult(item.index, item.tensor_storage_size() or 0, None) for item in plan.items])
        return done

    def _write(self, plan: SavePlan, planner: SavePlanner) -> None:
        groups: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for item in plan.items:
            group, _, name = item.index.fqn.partition(":")
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, torch.Tensor)
            groups[group][name] = tensor.contiguous()
        with write_errors(self.folder):
            for group, tensors in groups.items():
                path = self.folder / _file(group, self.rank, self.ranks)
                part = path.with_suffix(".part")
                with disk_errors():
                    save_file(tensors, part)
                part.chmod(0o644)
                _sync(part)
                part.rename(path)
            _sync(self.folder)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Have nothing to reset."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Have nothing to set up."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Change nothing."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Change nothing."""
        return plans

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Leave the end to all ranks together (`Checkpoints.close`)."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Take any."""
        return True


class _PieceReader(StorageReader):
    """Reads pieces of tensors out of a checkpoint's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the index."""
        index = _index(self.folder)
        self.files: dict[MetadataIndex, str] = {}
        found: dict[str, Any] = {}
        for name, entry in index.items():
            chunks = [ChunkStorageMetadata(torch.Size(one["offsets"]), torch.Size(one["sizes"])) for one in entry["pieces"]]
            found[name] = TensorStorageMetadata(TensorProperties(dtype=_dtype(entry)), torch.Size(entry["shape"]), chunks)
            self.files |= {MetadataIndex(name, torch.Size(one["offsets"])): one["file"] for one in entry["pieces"]}
        return Metadata(found)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read each piece, file by file."""
        by_file: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            by_file[self.files[item.storage_index]].append(item)
        for name, items in by_file.items():
            check_file(self.folder / name)
            with safe_open(str(self.folder / name), framework="pt") as file:
                for item in items:
                    key = item.storage_index.fqn.partition(":")[2]
                    places = tuple(slice(start, start + size) for start, size in zip(item.storage_offsets, item.lengths, strict=True))
                    value = file.get_slice(key)[places] if places else file.get_tensor(key)
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(value)
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Have nothing to reset."""

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Have nothing to set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Change nothing."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Change nothing."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Take any."""
        return True


def _read(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fill tensors, whole ones or this rank's pieces, from a checkpoint."""
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    try:
        load(tensors, storage_reader=_PieceReader(folder), planner=planner, no_dist=True)
    except CheckpointException as error:
        for cause, _ in error.failures.values():
            raise cause from None
        raise


def require_same_run(
    out: Path, run: Mapping[str, Any], *, free: frozenset[str] = frozenset(), force: bool = False, write: bool = True
) -> None:
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


def _sync(path: Path) -> None:
    """Bring a file to the disk, so that the rename does not come there before it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
