"""The stages that a recipe may name: one entry each, with its configuration, what runs it, and what says that it is done.

A stage on the shared skeleton (`run_stage.Stage`) enters `KINDS` by one line, `training(STAGE)`. Raise `revision` where a stage comes to
compute something else from the same settings: what was done before is then done again, and no release has to be waited for.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.model import card
from twoway.model.source import read_json
from twoway.training.config import FREE
from twoway.training.progress import read_log
from twoway.training.report_parts import REPORT

from . import bridge, convert, evaluate, finetune, mine, pretrain
from .amounts import count_pairs, count_rows
from .evaluate_config import EvaluateConfig
from .mine_config import MineConfig
from .run_stage import run_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .amounts import Amount, Count
    from .run_stage import Stage


@dataclass(frozen=True)
class Kind:
    """A stage that a recipe may name."""

    name: str
    config: type[Any]
    run: Callable[[str, Path, Any, int], Mapping[str, Any]]  # (base, out, config, ranks); goes on where it stopped; returns key figures
    count: Callable[[Any, Any, Path, int], Amount] | None = None  # (config, reader, folder for tables, shards): what a run reads
    marker: str = card.FILE  # the file that is there once all is done
    makes_model: bool = True  # so that a later stage may start from it
    rows: Callable[[Path], tuple[str, Path | None]] | None = None  # (folder): spec and root of the rows that it makes
    report: str | None = None  # page within the stage's folder
    free: frozenset[str] = frozenset()  # settings that change no result
    # Settings that came when there were results without them. What was written before means what it meant: at their default they are in no
    # fingerprint, and a key of the whole recipe is not about them.
    later: frozenset[str] = frozenset()
    opening: frozenset[str] = frozenset()  # settings that are for a model that does not say it itself; the model of a stage does
    revision: int = 1

    @property
    def keys(self) -> frozenset[str]:
        """The settings that the stage has."""
        return frozenset(field.name for field in dataclasses.fields(self.config) if field.init)

    @property
    def shared(self) -> frozenset[str]:
        """The settings that a key of the whole recipe sets."""
        return self.keys - self.later


def training(stage: Stage[Any], *, count: Count = count_rows, revision: int = 1) -> Kind:
    """Return the entry of a stage on the shared skeleton."""
    return Kind(
        stage.name, stage.config, partial(_train, stage), count=partial(count, stage.open_data), report=REPORT, free=FREE, revision=revision
    )


def _train(stage: Stage[Any], base: str, out: Path, config: Any, nproc: int) -> Mapping[str, Any]:
    result = run_stage(stage, base, out, config, nproc=nproc)
    numbers: dict[str, Any] = {"steps": result.steps}
    for entry in read_log(out):
        numbers |= {name: value for name, value in entry.items() if isinstance(value, int | float) and name != "step"}
    return numbers


def _convert(base: str, out: Path, config: convert.ConvertConfig, _nproc: int) -> Mapping[str, Any]:
    written = convert.run(base, out, config).card
    return {"family": written.family, "attention": written.attention["measured"], "pooling": written.pooling, "width": written.width}


def _evaluate(base: str, out: Path, config: EvaluateConfig, _nproc: int) -> Mapping[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    found = evaluate.evaluate(base, output=out / RESULTS, **config.options()).found
    return {"mean": found["mean"], **{task: entry["score"] for task, entry in found["tasks"].items()}}


def _mine(base: str, out: Path, config: MineConfig, _nproc: int) -> Mapping[str, Any]:
    found = mine.mine(
        base, config.data, out, corpus=config.corpus, choice=config.choice, on_bad=config.on_bad, limits=config.limits, **config.opening()
    )
    return {key: value for key, value in dataclasses.asdict(found).items() if isinstance(value, int)}


def _mined(folder: Path) -> tuple[str, Path | None]:
    root = read_json(folder / mine.MANIFEST)["root"]
    return f"parquet:{folder}", None if root is None else Path(root)


RESULTS = "results.json"
CONVERT = Kind("convert", convert.ConvertConfig, _convert)
EVALUATE = Kind(
    "evaluate",
    EvaluateConfig,
    _evaluate,
    marker=RESULTS,
    makes_model=False,
    free=frozenset({"device", "cache", "processes"}),
    later=frozenset({"attention", "min_pixels", "max_pixels"}),
    opening=frozenset({"pooling", "attention", "template"}),
)
MINE = Kind(
    "mine",
    MineConfig,
    _mine,
    marker=mine.MANIFEST,
    makes_model=False,
    rows=_mined,
    free=frozenset({"device", "processes", "limits"}),
    opening=frozenset({"pooling"}),
)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        CONVERT,
        training(pretrain.STAGE),
        training(bridge.STAGE),
        MINE,
        training(finetune.STAGE, count=count_pairs),
        EVALUATE,
    )
}
