"""`bridge`: a two-way model learns to put all of A into its EOS, because B is restored from nothing else (CoCoA's second stage).

What comes out is pooled at EOS: the tokenizer appends it, so `SentenceTransformer(OUT)` gives the vector with no code of ours.

Where it departs from the paper (arXiv 2603.01471): `eos_sees_target` and `sources_see_eos` are options, because as released the visible
part of B leaks into the bottleneck; plain texts serve too, cut in two; and long targets are cut and counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.data.bridge_sources import BridgeSource

from .bridge_config import BridgeConfig
from .bridge_data import open_data
from .bridge_model import prepare
from .bridge_watch import BridgeWatch
from .run_stage import Stage, StageResult, configure, run_stage
from .stage_model import require_two_way

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twoway.data.mixture import SourceConfig

STAGE = Stage("bridge", BridgeConfig, prepare, open_data, BridgeWatch, require_two_way, pooling="eos", source=BridgeSource)


def bridge(
    base: str | Path,
    out: str | Path,
    data: Sequence[str | SourceConfig] = (),
    *,
    config: BridgeConfig | None = None,
    nproc: int = 1,
    force: bool = False,
    **options: Any,
) -> StageResult:
    """Train `base` into `out` on `data` (specs of sources); `options` are the fields of `BridgeConfig`.

    The same call goes on where an earlier one stopped. `force` goes on although configuration, base or data changed.
    """
    return run_stage(STAGE, base, out, configure(STAGE, config, data, options), nproc=nproc, force=force)
