"""A device that is not here: tensors that stand for a GPU's, and a note of each time that a program waits for it.

`Far` is a tensor whose device is called `meta` and whose numbers are kept on the CPU; whatever is made of one is one. Inside `Waits` every
operator that would let the host wait for a GPU is written down with the place it was called from: numbers read off the device, copies to
the CPU, copies to the device that are not `non_blocking`, and operators whose result has a size that only the device knows.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

HERE = Path(__file__).parent
DEVICE = torch.device("meta")
aten = torch.ops.aten
SIZED = {aten.nonzero, aten.masked_select, aten._unique2, aten.unique_consecutive, aten.unique_dim, aten.bincount, aten.is_nonzero}


class Far(torch.Tensor):
    """A tensor of the device."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Far:
        """Wrap numbers."""
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=DEVICE, requires_grad=False
        )
        made.here = here
        return made

    def __tensor_flatten__(self) -> Any:
        return ["here"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, *_: Any) -> Far:
        return Far(inner["here"])

    def tolist(self) -> Any:
        """Read all numbers; torch refuses to do so for a class of its tensors that is not its own."""
        if Waits.open is not None:
            Waits.open.note("numbers are read")
        return self.here.tolist()

    def __repr__(self, *_: Any, **__: Any) -> str:
        return f"Far({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        _note(func, args, kwargs)
        bare = tree_map(lambda one: one.here if isinstance(one, Far) else one, (args, kwargs))
        given = dict(bare[1])
        target = kwargs.get("device")
        if target is not None:
            given["device"] = torch.device("cpu")
        out = func(*bare[0], **given)
        if target is not None and torch.device(target).type == "cpu":
            return out
        wrapped = tree_map(lambda one: Far(one) if isinstance(one, torch.Tensor) else one, out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


class Made(TorchFunctionMode):
    """Makes what `torch.tensor` makes of Python's numbers for the device, which torch leaves without numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func not in (torch.tensor, torch.as_tensor, torch.scalar_tensor) or torch.device(kwargs.get("device") or "cpu") != DEVICE:
            return func(*args, **kwargs)
        if Waits.open is not None:
            Waits.open.note("a copy to the device that is waited for")
        bare = tree_map(lambda one: one.item() if isinstance(one, Far) else one, args)
        return Far(torch.tensor(*bare, **kwargs | {"device": "cpu"}))


class Waits(TorchDispatchMode):
    """Makes tensors of the device where they are asked for, and remembers waits: (where, operator) -> times."""

    open: Waits | None = None

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()
        self.made = Made()

    def __enter__(self) -> Any:
        Waits.open = self
        self.made.__enter__()
        return super().__enter__()

    def __exit__(self, *said: Any) -> None:
        Waits.open = None
        super().__exit__(*said)
        self.made.__exit__(*said)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        far = any(issubclass(one, Far) for one in types)
        target = kwargs.get("device")
        if far or target is None or torch.device(target).type != DEVICE.type:
            if far and func.overloadpacket in (aten.copy_, aten._to_copy):
                return Far.__torch_dispatch__(func, types, args, kwargs)
            return func(*args, **kwargs)
        if func.overloadpacket is aten._to_copy and not kwargs.get("non_blocking"):
            self.note("a copy to the device that is waited for")
        made = func(*args, **kwargs | {"device": torch.device("cpu")})
        return tree_map(lambda one: Far(one) if isinstance(one, torch.Tensor) else one, made)

    def note(self, what: str) -> None:
        """Write down a wait, with the nearest place in this project or, where a library was called from one, in the library."""
        frame: Any = sys._getframe()
        torch_own = (str(Path(torch.__file__).parent), str(HERE))
        while frame is not None and frame.f_code.co_filename.startswith((*torch_own, "<")):
            frame = frame.f_back
        where = frame.f_code.co_filename if frame is not None else "?"
        for root in ("/src/twoway/", "/site-packages/"):
            if root in where:
                where = ("twoway/" if "twoway" in root else "") + where.split(root, 1)[1]
        name = frame.f_code.co_qualname.partition(".<locals>")[0] if frame is not None else "?"
        self.found[f"{where}:{name}", what] += 1

    def ours(self) -> Counter[tuple[str, str]]:
        """Return the waits of this project."""
        return Counter({key: count for key, count in self.found.items() if key[0].startswith("twoway/")})

    def theirs(self) -> Counter[tuple[str, str]]:
        """Return the waits of libraries."""
        return self.found - self.ours()


def moved(module: Any) -> Any:
    """Put a module's parameters and buffers on the device, in place; shared ones stay shared."""
    done: dict[int, Any] = {}
    for name, one in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]:
        owner, _, leaf = name.rpartition(".")
        place = module.get_submodule(owner)
        if id(one) not in done:
            far = Far(one.detach())
            done[id(one)] = (one, torch.nn.Parameter(far, requires_grad=one.requires_grad) if isinstance(one, torch.nn.Parameter) else far)
        (place._parameters if isinstance(one, torch.nn.Parameter) else place._buffers)[leaf] = done[id(one)][1]
    return module


def _note(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Write a wait down, if this is one."""
    if Waits.open is None:
        return
    packet = func.overloadpacket
    what = ""
    if packet is aten._local_scalar_dense or packet is aten.equal:
        what = "a number is read"
    elif packet in SIZED or (packet is aten.repeat_interleave and not any(isinstance(kwargs.get(name), int) for name in ("output_size",))):
        what = f"{func} has a size that the device knows"
    elif packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
        if any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]):
            what = "a choice by a mask"
    elif packet is aten._to_copy and kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu":
        what = "a copy to the CPU"
    elif packet is aten.copy_ and isinstance(args[0], Far) != isinstance(args[1], Far):
        waits = len(args) < 3 or not args[2]
        what = "a copy between devices that is waited for" if waits or not isinstance(args[0], Far) else ""
    if what:
        Waits.open.note(what)
