"""Ranks: the processes of a run, how they start, share a model, and add numbers.

accelerate finds the device and joins the ranks, whoever started them: `--nproc`, `torchrun` or `accelerate launch`. The model is shared by
torch's own DistributedDataParallel (each rank holds all of it) or by FSDP2 (each holds a piece). Both average gradients over ranks; the
trainer's losses are sums over a global count, so they are scaled up by the number of ranks first.

Ranks talk in three groups. Gradients and weights travel in the first (NCCL on GPUs). Numbers and small objects are agreed on in the second,
between CPUs: no GPU waits for them, and a rank that does not answer is noticed within minutes, in a line that can be read. In the third
ranks wait for the first one to open the base and to look through the data, for as long as that takes.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import traceback
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Literal

import torch
from accelerate import PartialState
from torch import distributed, multiprocessing, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, though not marked so
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from twoway.errors import TwowayError
from twoway.models import loading
from twoway.processes import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from multiprocessing.process import BaseProcess

    from .module import TrainingModule


Parallel = Literal["ddp", "fsdp"]
# How long ranks wait for the first one. While it looks through a large data set, or copies a stream, the others only wait, and minutes
# would end the run; a rank that dies is noticed by who started it.
PATIENCE = timedelta(days=2)
# How long they wait for one another in a step, where nobody says otherwise (`ddp_timeout`).
TIMEOUT = timedelta(minutes=15)
# What torch says where another rank is gone, or does not answer.
_SILENCE = ("timed out waiting", "application timeout", "connection closed by peer", "connection reset by peer", "broken pipe")


class PeerLost(TwowayError):  # noqa: N818 - it is another rank that did something wrong
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
        self.world_size: int = state.num_processes
        self._state, self.timeout = state, timeout
        self.cpu_group: Any = None  # between CPUs, within the time of a step
        self._patient_group: Any = None
        if self.world_size > 1:
            self.cpu_group = distributed.new_group(backend="gloo", timeout=timeout)
            self._patient_group = distributed.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def wrap(self, module: TrainingModule, parallel: Parallel, dtype: str = "float32") -> Any:
        """Put the module on the device, and share it with the other ranks; the first one's weights are everybody's.

        The others may have it on the meta device, without weights.
        """
        if self.world_size == 1:
            return module.to(self.device)
        module.touch_unused_parameters = True
        names = self.all_gather_object([name for name, _ in module.named_parameters()])
        if any(one != names[0] for one in names):
            raise TwowayError("ranks have different models; is the same version of everything installed on all machines?")
        broadcast_plain_tensors(module, self)
        if parallel == "fsdp":
            weights = named_tensors(module) if self.is_main_process else {}
            move_without_values(module, torch.device("meta"))
            shared = apply_fsdp(module, dtype)
            move_without_values(module, self.device)
            broadcast_weights(module, weights, self)
            return shared
        if not self.is_main_process:
            move_without_values(module, self.device)
        module.to(self.device)
        # It gives the first one's weights to the others itself.
        return DistributedDataParallel(
            module, device_ids=[self.device] if self.device.type != "cpu" else None, gradient_as_bucket_view=True
        )

    def no_sync(self, shared: Any, *, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one accumulated batch: gradients travel after the last one only, unless they lie in pieces.

        Added up before they travel, those of all weights would lie whole on each rank.
        """
        if isinstance(shared, DistributedDataParallel) and not last:
            return shared.no_sync()
        return nullcontext()

    def all_reduce_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Add numbers over all ranks."""
        if self.world_size == 1:
            return [float(number) for number in numbers]
        tensor = torch.tensor(list(numbers), dtype=torch.float64)
        distributed.all_reduce(tensor, group=self.cpu_group)
        summed: list[float] = tensor.tolist()
        return summed

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return what every rank holds, in the order of ranks."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        distributed.all_gather_object(found, value, group=self.cpu_group)
        return found

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return every rank's tensor; the first dimension may differ."""
        if self.world_size == 1:
            return [tensor]
        lengths = [int(number) for number in self.all_gather_object(len(tensor))]
        padded = nn.functional.pad(tensor, [0, 0] * (tensor.dim() - 1) + [0, max(lengths) - len(tensor)])
        found = [torch.empty_like(padded) for _ in lengths]
        distributed.all_gather(found, padded.contiguous())
        return [one[:length] for one, length in zip(found, lengths, strict=True)]

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Add a tensor of the same shape over all ranks, in place."""
        if self.world_size > 1:
            distributed.all_reduce(tensor)

    def barrier(self) -> None:
        """Wait for all ranks, however long one of them looks through the data."""
        if self.world_size > 1:
            distributed.barrier(group=self._patient_group)

    def peer_error(self, error: BaseException, step: int, stands: str) -> PeerLost | None:
        """Say in a line that another rank is gone or does not answer, where that is what an error means; else return nothing."""
        said = str(error).lower()
        if self.world_size == 1 or not (isinstance(error, distributed.DistError) or any(word in said for word in _SILENCE)):
            return None
        gone = "connection" in said or "broken pipe" in said
        silent = f"another rank has not answered for {self.timeout.total_seconds():g} seconds (ddp_timeout)"
        what = "another rank has ended" if gone else silent
        return PeerLost(f"rank {self.rank} of {self.world_size}, step {step}: {what}; {stands}, and the same command goes on from there")

    def destroy(self) -> None:
        """Part from the other ranks, once all of them are here."""
        if self.world_size > 1 and distributed.is_initialized():
            distributed.barrier()
            self._state.destroy_process_group()


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in one piece on the CPU; every rank must ask for it."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu().contiguous()


def copy_full_tensor(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into one that may be in pieces."""
    with torch.no_grad():
        if isinstance(target, DTensor):
            value = distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
        target.copy_(value)


def clip_grad_norm(parameters: Sequence[nn.Parameter], clip: float) -> torch.Tensor:
    """Clip the gradients together, and return what their norm was; it stays on the device."""
    found = nn.utils.clip_grad_norm_(parameters, clip or float("inf"))
    return found.full_tensor() if isinstance(found, DTensor) else found


def launched_externally() -> bool:
    """Whether this process is a rank that `torchrun` or `accelerate launch` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


# A module in pieces over ranks: FSDP2, with weights gathered in half precision where training computes in it.
#
# Every layer of the language model is a unit of its own, gathered when it runs and let go of after it; the rest (the
# tower, embeddings, head, norms, patch decoder) is one more unit, gathered once a pass: a batch without pictures does
# not run the tower, and ranks have to gather the same units in the same order. Weights at rest, gradients and the
# optimizer's states are float32 and lie in pieces, the rest's too; gathered copies are bfloat16, so autocast has
# nothing to copy. The stream between layers stays float32, as it is under autocast on one rank: inputs of a unit are
# not cast, and embeddings are brought back to float32.


def apply_fsdp(module: TrainingModule, dtype: str) -> Any:
    """Cut a module, which may be on the meta device, into units over all ranks."""
    half = dtype == "bfloat16"
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if half else None, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in module.fsdp_units():
        fully_shard(block, mp_policy=policy)
    if half:
        for table in _embeddings(module):
            table.register_forward_hook(_to_float)
    _require_input_gradients(module)
    return fully_shard(module, mp_policy=policy)


def _require_input_gradients(module: nn.Module) -> None:
    """Let the first layer's input have a gradient in every batch, where a tower trains and the token embeddings do not.

    Without it a batch of text alone ends its backward pass at the first weights that train, and one with pictures goes on to the tower:
    ranks would gather and reduce the layers in different orders.
    """
    model = next((part for part in module.modules() if isinstance(part, PreTrainedModel)), None)
    if model is None:
        return
    found = loading.parts(model)
    pictures = [*([found.tower] if found.tower else []), *found.projectors]
    trained = any(one.requires_grad for _, part in pictures for one in part.parameters())
    table = found.embeddings[1]
    if trained and not any(one.requires_grad for one in table.parameters()):
        table.register_forward_hook(_with_gradient)


def _with_gradient(_module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
    # A copy, because families write the states of pictures into it.
    return out.detach().requires_grad_().clone() if torch.is_grad_enabled() else out


def _embeddings(module: nn.Module) -> Iterable[nn.Module]:
    return (part for part in module.modules() if isinstance(part, nn.Embedding))


def _to_float(_module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
    return out.float()


def named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers by name, as they lie."""
    return {name: one.detach() for name, one in (*module.named_parameters(), *module.named_buffers())}


def move_without_values(module: nn.Module, device: torch.device) -> None:
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
    kept = [*module.parameters(), *module.buffers()]
    for part in module.modules():
        for place in (part._parameters, part._buffers):
            for key, tensor in place.items():
                if tensor is not None:
                    place[key] = moved(tensor)  # type: ignore[assignment]
    del kept


def broadcast_weights(module: nn.Module, weights: Mapping[str, torch.Tensor], ranks: Ranks) -> None:
    """Fill a module in pieces from the first rank's weights, one tensor after another; a rank gets its piece."""
    with torch.no_grad():
        for name, target in (*module.named_parameters(), *module.named_buffers()):
            value = (
                weights[name].to(ranks.device)
                if ranks.is_main_process
                else torch.empty(target.shape, dtype=target.dtype, device=ranks.device)
            )
            if isinstance(target, DTensor):
                target.copy_(distribute_tensor(value, target.device_mesh, target.placements))
            else:
                distributed.broadcast(value, 0)
                target.copy_(value)


def broadcast_plain_tensors(module: nn.Module, ranks: Ranks) -> None:
    """Give the others what modules hold beside parameters and buffers, where they have no numbers for it.

    The first rank may hold more of it: a forward pass leaves some behind, as Qwen2-VL keeps the last batch's offsets of positions.
    """
    held = {(name, key): one for name, part in module.named_modules() for key, one in vars(part).items() if isinstance(one, torch.Tensor)}
    values = ranks.all_gather_object({place: one.cpu() for place, one in held.items()} if ranks.is_main_process else None)[0]
    for (name, key), one in held.items():
        if one.is_meta:
            setattr(module.get_submodule(name), key, values[name, key])


# `--nproc N`: start N ranks on this machine, watch them, pass signals on, and bring the first error back in one line.
#
# The ranks find each other at a store that this process serves, as those of `torchrun` do: its port is taken before a
# rank hears of it, so that two runs that start at once cannot take each other's.
#
# torch's `elastic_launch` is not used, because it gives ranks one time to end in, whatever ends them (30 seconds, and
# then they are killed). A run that is asked to stop has to finish its step and its checkpoint, however long they take;
# one that lost a rank must end soon.

HOST = "127.0.0.1"
START = "spawn"  # a fork of a process that has looked for GPUs cannot use them
LAUNCH_PATIENCE = 30.0  # seconds that the other ranks have to leave after one failed


def launch(nproc: int, function: Callable[..., object], *args: Any) -> None:
    """Run `function(*args)` in `nproc` new processes that know of each other; raise what the first to fail raised."""
    context: Any = multiprocessing.get_context(START)
    failures = context.SimpleQueue()
    store = _store()
    ranks = [
        context.Process(target=_rank, args=(failures, rank, nproc, store.port, function, args), name=f"rank {rank}")
        for rank in range(nproc)
    ]
    try:
        with _pass_on(ranks) as caught:
            for rank in ranks:
                rank.start()
            first = _watch(ranks)
    finally:
        for rank in ranks:
            if rank.is_alive():
                rank.kill()
    told = []
    while not failures.empty():
        told.append(failures.get())
    _raise_cause(told, caught, first, nproc)


def _raise_cause(told: list[Any], caught: list[int], first: Any, nproc: int) -> None:
    """Raise what ended the run: what a rank said of itself, how the first one died, and only then what others saw of it."""
    for failure in told:
        if isinstance(failure, TwowayError) and not isinstance(failure, PeerLost):
            raise Stopped(caught[0], failure.where) if caught and isinstance(failure, Stopped) else failure
    killed = first is not None and first.exitcode < 0
    for failure in sorted(told, key=lambda one: isinstance(one, PeerLost)):
        if not killed:
            raise failure if isinstance(failure, PeerLost) else RuntimeError(failure)
    if caught:
        raise Stopped(caught[0], "before the first step")
    if first is not None:
        how = f"was killed by signal {-first.exitcode}" if killed else f"ended with code {first.exitcode}"
        raise TwowayError(f"{first.name} of {nproc} {how}; the same command goes on from the last checkpoint")


def _store() -> TCPStore:
    """Serve the ranks' meeting place at a port that the system chooses, to this machine alone; it closes with the object."""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen()
        port = listening.getsockname()[1]
        # The store owns the socket from here on.
        return TCPStore(HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach())


def _watch(ranks: list[Any]) -> Any:
    """Wait for the ranks and return the first to fail, if one does.

    Once one has failed the others, which wait for it, have a little time to say the same and are then ended.
    """
    deadline, first = float("inf"), None
    alive = list(ranks)
    while alive and time.monotonic() < deadline:
        wait([rank.sentinel for rank in alive], timeout=1.0)
        alive = [rank for rank in alive if rank.exitcode is None]
        # Asked after it: one that ends between the two questions counts as alive once more, and is not overlooked.
        failed = next((rank for rank in ranks if rank not in alive and rank.exitcode != 0), None)
        first = first or failed
        deadline = min(deadline, time.monotonic() + LAUNCH_PATIENCE) if failed else deadline
        if failed:
            # A rank that waits in a collective for a dead one does not see a signal handler's flag.
            time.sleep(0.5)
            for rank in alive:
                if rank.exitcode is None and time.monotonic() > deadline - LAUNCH_PATIENCE + 2:
                    rank.terminate()
    for rank in ranks:
        if rank.exitcode is None and time.monotonic() >= deadline:
            rank.kill()
        rank.join()
    return first


@contextmanager
def _pass_on(ranks: Sequence[BaseProcess]) -> Iterator[list[int]]:
    """Tell the ranks to save and leave on SIGTERM and Ctrl-C. A terminal sends Ctrl-C to them too, and a second one would interrupt."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # signals are met by the main thread, which is somebody else's
        return

    def handle(number: int, _frame: object) -> None:
        caught.append(number)
        for rank in ranks:
            if rank.pid and rank.exitcode is None:
                os.kill(rank.pid, signal.SIGTERM)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _rank(failures: Any, rank: int, count: int, port: int, function: Callable[..., object], args: tuple[Any, ...]) -> None:
    """Be one rank."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    # The last one says that the store is served already: no rank is to open it.
    os.environ |= {"MASTER_ADDR": HOST, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": str(True)}
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    try:
        function(*args)
    except TwowayError as error:
        failures.put(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception:
        # Often only the echo of another rank's end, so it is told where nobody says more.
        failures.put(f"rank {rank}:\n{traceback.format_exc()}")
        raise SystemExit(1) from None
