"""A training step of the nano base: the fast forward beside the library's general one, on the same batch, in one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tools.nano_base.base import prepare
from tools.nano_base.config import NanoConfig
from tools.nano_base.fast import token_losses
from tools.nano_base.finish import work
from tools.nano_base.library import LibraryForward

from twoway.data.sources.samples import samples_folder

from .side_by_side import side_by_side, table

if TYPE_CHECKING:
    from tools.nano_base.library import Forward


def main() -> None:
    """Time forward and backward of one batch both ways, beside a matrix product that says what the machine can do."""
    torch.set_num_threads(1)
    nano = prepare(NanoConfig(), samples_folder())
    batch = nano.rows.batch(0)
    general = LibraryForward(nano.forward.model, nano.processor, dtype=nano.config.dtype)

    def step(forward: Forward) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=forward.dtype == "bfloat16"):
            losses = token_losses(forward.model, forward.hidden(batch), batch)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        forward.model.zero_grad(set_to_none=True)

    size = 2048
    left, product = torch.randn(size, size, dtype=getattr(torch, nano.config.dtype)), f"{nano.config.dtype} product of 2048 x 2048"
    seconds = side_by_side(
        {
            "library's general forward": lambda: step(general),
            "fast forward": lambda: step(nano.forward),
            "batch of rows": lambda: nano.rows.batch(1),
            product: lambda: left @ left,
        },
        rounds=5,
    )
    flops = work(nano)
    rows = len(batch.ids)
    said = {
        name: f"{rows / seconds[name]:.0f} rows/s, {flops / seconds[name] / 1e9:.0f} GFLOP/s"
        for name in ("library's general forward", "fast forward")
    }
    said[product] = f"{2 * size**3 / seconds[product] / 1e9:.0f} GFLOP/s"
    table(f"A step of the nano base: {rows} rows, {flops / 1e9:.0f} GFLOP counted, one thread, {nano.config.dtype}", seconds, work=said)
