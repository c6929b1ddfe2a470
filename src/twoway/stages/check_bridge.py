"""`check --bridge`: prove that under the bridge mask of CoCoA's second stage B learns of A through EOS alone, whatever the backend.

The proof is `model.proof_bridge`; here it runs under each attention backend that takes such a mask, unpadded and padded on either side,
with text and with images, for each choice of the two options.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from twoway.errors import UsageError
from twoway.model import proof
from twoway.model.attention import MASKED_BACKENDS, require_two_way
from twoway.model.opened import open_model
from twoway.model.proof_bridge import probe_bridge
from twoway.model.proof_bridge_verdict import BRIDGE, BridgeCell
from twoway.model.proof_verdict import explain, merge

from .check import BACKENDS, Skipped, prove, quiet, require_known

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class BridgeReport:
    """What a check of the bridge found."""

    model: str
    family: str
    cells: tuple[BridgeCell, ...]
    skipped: tuple[Skipped, ...]
    dtype: str
    device: str

    @property
    def verdict(self) -> str:
        """Name the model: bridge, leaks, mixed or unclear."""
        return merge(cell.verdict for cell in self.cells)

    @property
    def reason(self) -> str:
        """Say what decides the verdict where that is not plain."""
        return explain(self.cells)

    @property
    def ok(self) -> bool:
        """Tell whether the bridge holds in every case."""
        return self.verdict == BRIDGE

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        head = {"model": self.model, "family": self.family, "measured": self.verdict, "ok": self.ok, "reason": self.reason}
        cells = [cell.as_json() for cell in self.cells]
        return head | {"cells": cells, "skipped": [asdict(one) for one in self.skipped], "dtype": self.dtype, "device": self.device}


def check_bridge(
    model: str | Path,
    *,
    backends: Sequence[str] | None = None,
    processor: str | Path | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> BridgeReport:
    """Prove the bridge in a two-way `model`: a folder or hub id, of transformers or sentence-transformers."""
    require_known([(backend, BACKENDS) for backend in backends or ()])
    asked = backends or BACKENDS
    possible = [backend for backend in asked if backend in MASKED_BACKENDS]
    left_out = [Skipped(backend, "takes no mask of who sees whom") for backend in asked if backend not in possible]
    if not possible:
        raise UsageError(f"{', '.join(asked)} takes no mask of who sees whom; the bridge needs one of {', '.join(MASKED_BACKENDS)}")
    with quiet():
        opened = open_model(model, dtype=dtype, device=device, processor=processor)
        require_two_way(opened.model.config)
        cells, skipped = prove(opened, possible, lambda model, processor: probe_bridge(model, processor, paddings=proof.PADDINGS))
    used = str(opened.model.dtype).removeprefix("torch.")
    return BridgeReport(str(model), opened.model.config.model_type, cells, (*skipped, *left_out), used, str(opened.model.device))
