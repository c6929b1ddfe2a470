"""What the stage `mine` of a recipe can be told: the options of `twoway mine`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from twoway.data.mixture import SourceConfig
from twoway.data.pair_mixture import PairSource  # noqa: TC001 - read at run time
from twoway.errors import UsageError
from twoway.images import ReadLimits, check_pixels

from .mine_choose import Choice


@dataclass(frozen=True)
class MineConfig:
    """Pairs that get hard negatives, and how those are chosen."""

    data: tuple[PairSource, ...] = ()
    corpus: tuple[SourceConfig, ...] = ()  # more candidates, for queries of every task
    choice: Choice = field(default_factory=Choice)
    pooling: Literal["mean", "last", "eos"] | None = None
    max_length: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    processes: int | None = None  # default: one for each GPU
    on_bad: Literal["fail", "skip"] = "fail"
    limits: ReadLimits = field(default_factory=ReadLimits)

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_pixels(self.min_pixels, self.max_pixels)
        for source in self.corpus:
            if source != SourceConfig(source.spec, cap=source.cap, template=source.template, root=source.root):
                raise UsageError(f"every row of a corpus counts once: leave weight and name of {source.spec} out")

    def opening(self) -> dict[str, Any]:
        """Return how the model is opened."""
        return {name: getattr(self, name) for name in ("pooling", "max_length", "min_pixels", "max_pixels", "device", "dtype", "processes")}
