"""What the stage `evaluate` of a recipe can be told: the options of `twoway evaluate`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from twoway.data.pair_mixture import PairSource
from twoway.errors import UsageError
from twoway.images import check_pixels

from .suites import PAIRS, find_suite, require


@dataclass(frozen=True)
class EvaluateConfig:
    """A suite and how it is run."""

    suite: str = "nano"
    # The folder of the suite's tasks, or the pairs that are scored; `data` of a recipe is what its stages train on.
    suite_data: Path | tuple[PairSource, ...] | None = None
    tasks: tuple[str, ...] = ()  # default: all that are there
    subset: int | None = None  # queries of each task
    pooling: Literal["mean", "last", "eos"] | None = None
    attention: Literal["two-way", "causal", "mixed"] | None = None
    template: Literal["chat", "plain", "bare"] | None = None
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    max_length: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    processes: int | None = None  # default: one for each GPU
    cache: Path | None = None
    on_bad: Literal["fail", "skip"] = "fail"

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything heavy."""
        data = () if self.suite_data is None else (self.suite_data,) if isinstance(self.suite_data, Path) else self.suite_data
        if find_suite(self.suite).data == PAIRS and isinstance(self.suite_data, Path):
            object.__setattr__(self, "suite_data", (PairSource(str(self.suite_data)),))  # a source by its spec, as wherever pairs are named
        require(self.suite, data=data, tasks=self.tasks, on_bad=self.on_bad, called="suite_data")
        check_pixels(self.min_pixels, self.max_pixels)
        if self.subset is not None and self.subset < 1:
            raise UsageError(f"subset is at least 1, not {self.subset}")

    def kinds(self) -> tuple[str, ...]:
        """Return the groups and marks of the tasks that are scored; none where they are not known before the suite is opened."""
        known = find_suite(self.suite).tasks
        return tuple(dict.fromkeys(kind for task, kinds in known.items() if not self.tasks or task in self.tasks for kind in kinds))

    def options(self) -> dict[str, Any]:
        """Return the arguments of `evaluate`."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return given | {"data": given.pop("suite_data")}
