"""A tower's windows in one call beside transformers' call for each: calls of attention and reads of the device, and the time on a CPU.

The tower is a random one of Qwen2.5-VL-3B's geometry (width 1280, 16 heads, windows of 8 x 8 patches, full attention in each eighth layer).
Calls and reads are counted over all 32 layers, on a narrow tower of the same depth and windows, since neither hangs on the width. Time is
taken on the real width with four layers, three of windows and one of whole pictures, in float32, forward and there and back.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel as Tower

from twoway.models import kernels

from .side_by_side import table

if TYPE_CHECKING:
    from collections.abc import Callable

# Pictures in patches: six of 1,024 tokens each, and a page of 1700 x 2200 with a photograph of 640 x 480, within MoCa's bounds.
SIX = torch.tensor([[1, 64, 64]] * 6)
MIXED = torch.tensor([[1, 72, 54], [1, 34, 46]])
PHOTOGRAPHS = torch.tensor([[1, 34, 46]] * 2)
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    torch.ops.aten._scaled_dot_product_attention_math,
    torch.ops.aten._scaled_dot_product_efficient_attention,
}


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts calls of attention."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator as ever."""
        self.calls += func.overloadpacket in ATTENTION
        return func(*args, **(kwargs or {}))


def tower(name: str, **geometry: Any) -> Any:
    """Return a random tower that attends with a kernel of ours or of the library."""
    torch.manual_seed(0)
    made = Tower(Qwen2_5_VLVisionConfig(**geometry)).eval()
    made.config._attn_implementation = name
    return made


def reads(do: Callable[[], object]) -> int:
    """Count how often numbers are read off a tensor while something is done: each would wait for a GPU."""
    count = 0

    def counting(original: Any) -> Any:
        def read(self: torch.Tensor, *args: Any) -> Any:
            nonlocal count
            count += 1
            return original(self, *args)

        return read

    names = ("tolist", "item")
    before = {name: getattr(torch.Tensor, name) for name in names}
    try:
        for name in names:
            setattr(torch.Tensor, name, counting(before[name]))
        do()
    finally:
        for name in names:
            setattr(torch.Tensor, name, before[name])
    return count


def count() -> None:
    """Print calls and reads of whole towers."""
    print("\nCalls of attention and reads of the device in a forward pass, 32 layers (28 of windows, 4 of whole pictures)")
    print(f"  {'':34s} {'calls':>10s} {'reads':>7s}")
    narrow = {"depth": 32, "hidden_size": 32, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16}
    for title, grids in (("six pictures of 1,024 tokens", SIX), ("a page and a photograph", MIXED)):
        pixels = torch.randn(int(grids.prod(1).sum()), 1176)
        for said, name in (("transformers", "sdpa"), ("windows together", kernels.GROUPED)):
            model = tower(name, **narrow)
            with torch.no_grad(), Counted() as counted:  # type: ignore[no-untyped-call]
                found = reads(partial(model, pixels, grid_thw=grids))
            print(f"  {title + ', ' + said:46s} {counted.calls:10,d} {found:7,d}")


def seconds(do: Callable[[Any], object], models: dict[str, Any], rounds: int) -> dict[str, float]:
    """Return each model's least seconds of the processor, in turns: what else the machine does counts little there."""
    best = dict.fromkeys(models, float("inf"))
    for _ in range(rounds):
        for name, model in models.items():
            start = time.process_time()
            do(model)
            best[name] = min(best[name], time.process_time() - start)
    return best


def main() -> None:
    """Count, then time both in turns."""
    torch.set_num_threads(1)
    count()
    geometry = {"hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 2048}
    models = {
        said: tower(name, depth=4, fullatt_block_indexes=[3], **geometry)
        for said, name in (("transformers", "sdpa"), ("windows together", kernels.GROUPED))
    }
    pixels = torch.randn(int(PHOTOGRAPHS.prod(1).sum()), 1176, generator=torch.Generator().manual_seed(0))

    def forward(model: Any) -> Any:
        with torch.no_grad():
            return model(pixels, grid_thw=PHOTOGRAPHS).pooler_output

    def both_ways(model: Any) -> None:
        model.zero_grad()
        model(pixels, grid_thw=PHOTOGRAPHS).pooler_output.square().mean().backward()

    left, right = map(forward, models.values())
    apart = float((left - right).abs().max() / left.abs().max())
    what = f"Four layers of the 3B's width over two photographs of 640 x 480, float32, one thread (results within {apart:.0e})"
    for way, do, rounds in (("forward", forward, 3), ("forward and backward", both_ways, 2)):
        table(f"{what}, {way}, seconds of the processor", seconds(do, models, rounds))
