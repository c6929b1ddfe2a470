"""`finetune`: pairs teach a model which texts and pictures belong together (MoCa's second stage, CoCoA's third, and the baselines)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twoway.data.pair_mixture import PairSource

from .finetune_config import FinetuneConfig
from .finetune_data import open_data
from .finetune_model import prepare, require
from .finetune_watch import Watch, chosen
from .run_stage import Stage, StageResult, configure, run_stage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STAGE = Stage("finetune", FinetuneConfig, prepare, open_data, Watch, require, source=PairSource, weights=chosen)


def finetune(
    base: str | Path,
    out: str | Path,
    data: Sequence[str | PairSource] = (),
    *,
    config: FinetuneConfig | None = None,
    nproc: int = 1,
    force: bool = False,
    **options: Any,
) -> StageResult:
    """Fine-tune `base` into `out` on `data` (specs of pairs); `options` are the fields of `FinetuneConfig`.

    The same call goes on where an earlier one stopped. `force` goes on although configuration, base or data changed.
    """
    return run_stage(STAGE, base, out, configure(STAGE, config, data, options), nproc=nproc, force=force)
