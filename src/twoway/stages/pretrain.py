"""`pretrain`: a causal vision-language model learns two-way attention by restoring words and patches (MoCa's first stage)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .pretrain_config import PretrainConfig
from .pretrain_data import open_data
from .pretrain_model import prepare, require
from .pretrain_watch import Watch
from .run_stage import Stage, StageResult, configure, run_stage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twoway.data.mixture import SourceConfig

STAGE = Stage("pretrain", PretrainConfig, prepare, open_data, Watch, require)


def pretrain(
    base: str | Path,
    out: str | Path,
    data: Sequence[str | SourceConfig] = (),
    *,
    config: PretrainConfig | None = None,
    nproc: int = 1,
    force: bool = False,
    **options: Any,
) -> StageResult:
    """Pre-train `base` into `out` on `data` (specs of sources); `options` are the fields of `PretrainConfig`.

    The same call goes on where an earlier one stopped. `force` goes on although configuration, base or data changed.
    """
    return run_stage(STAGE, base, out, configure(STAGE, config, data, options), nproc=nproc, force=force)
