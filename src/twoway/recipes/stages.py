"""The stages that a recipe may name: one entry each, with its configuration, what runs it, and the file that marks it as finished.

A training method (`methods.run.Method`) is added to `KINDS` by one line, `training(METHOD)`. Raise `revision` when a stage computes
something else from the same settings: earlier results are then stale at once, without a new release.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError, Pair
from twoway.data.config import SCORED_FILE
from twoway.data.lengths import picture_tokens
from twoway.evaluation import evaluate
from twoway.evaluation.config import EvaluateConfig
from twoway.evaluation.runner import search_costs
from twoway.methods import convert, merge, mine, score
from twoway.methods.bridge import method
from twoway.methods.config import ConvertConfig, MergeConfig, MineConfig, ScoreConfig
from twoway.methods.finetune import method as finetune_method
from twoway.methods.pretrain import method as pretrain_method
from twoway.methods.rerank import method as rerank_method
from twoway.methods.run import run_method
from twoway.models import checkpoint
from twoway.models.loading import read_json
from twoway.reports.page import REPORT
from twoway.training.config import FREE
from twoway.training.progress import read_log

from .config import MergeStageConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twoway.methods.run import Method


# How much a stage will read: rows, tokens and steps, from its own tables and plan of batches; the weights of no model
# are read.
#
# A stage's data is opened as training opens it, for a model of which only the processor is there.

_SAMPLE = 48


@dataclass(frozen=True)
class Amount:
    """What a run of a stage reads, over all ranks and steps. `batch` is the largest number of tokens that one rank holds at a time.

    Of these `batch_images` are of pictures.
    """

    steps: int
    rows: int
    tokens: int  # of text and pictures, without padding
    image_tokens: int
    padded: int  # tokens that are computed: with padding
    batch: int
    passes: int = 0  # forward beside the one that gradients come from
    batch_images: int = 0


# (open_data of the stage, config, what stands for a prepared model, folder that keeps tables, shards) -> Amount
Count = Callable[[Callable[..., Any], Any, Any, Path, int], Amount]


def count_rows(open_data: Callable[..., Any], config: Any, reader: Any, folder: Path, shards: int) -> Amount:
    """Count for a stage whose rows go through the model in batches of equal cost."""
    data = open_data(config, reader, folder, shards=shards, bad_rows=None)
    tokens, plan, steps = data.epochs.costs.length, data.epochs.plan(0), data.total(config)
    pictures = np.minimum(np.concatenate([picture_tokens(table, data.encode) for table in data.mixture.tables]), tokens)
    share, rows, sizes = steps / len(plan), data.mixture.table_rows(plan.rows), np.diff(plan.starts)
    padded = np.maximum.reduceat(tokens[rows], plan.starts[:-1][sizes > 0]) * sizes[sizes > 0]
    shown = np.add.reduceat(pictures[rows], plan.starts[:-1][sizes > 0])
    return Amount(
        steps=steps,
        rows=round(share * len(rows)),
        tokens=round(share * float(tokens[rows].sum(dtype=np.float64))),
        image_tokens=round(share * float(pictures[rows].sum(dtype=np.float64))),
        padded=round(share * float(padded.sum(dtype=np.float64))),
        batch=int(padded.max()),
        batch_images=int(shown[padded.argmax()]),
    )


def count_pairs(open_data: Callable[..., Any], config: Any, reader: Any, folder: Path, shards: int) -> Amount:
    """Count for a stage of pairs: lengths from a sample of encoded rows, because a pair has several contents of unknown length."""
    data = open_data(config, reader, folder, shards=shards, bad_rows=None)
    steps, epoch = data.total(config), data.epochs.plan(0)
    rows = round(sum(len(data.epochs.global_batch(step)[1]) for step in range(len(epoch))) * steps / len(epoch))
    lengths, images, tried = [], [], 0
    for row in epoch.rows[np.linspace(0, len(epoch.rows) - 1, _SAMPLE).astype(int)]:
        try:
            example = data.encode(_with_negatives(data.pairs.read(int(row)), reader.negatives), epoch=0)
        except ContentError:
            continue
        tried += 1
        for content in example.contents:
            lengths.append(len(content.example.words))
            images.append(int(content.example.image_tokens.sum()))
    each = len(lengths) / max(tried, 1)
    tokens = round(rows * each * float(np.mean(lengths or [0])))
    shown = round(rows * each * float(np.mean(images or [0])))
    # Chunks are cut by cost from rows sorted by length: little of them is padding. A pass without a graph comes first (gradient caching).
    batch = int(config.budget)
    return Amount(steps, rows, tokens, shown, tokens, batch, passes=1, batch_images=round(batch * shown / max(tokens, 1)))


def _with_negatives(row: tuple[str, Pair], count: int) -> tuple[str, Pair]:
    """Return a row as a stage that is not done yet will write it: with wrong candidates, as large as the right one, and scores."""
    if not count:
        return row
    identity, pair = row
    scores = (0.0,) * (len(pair.positives) + count)
    return identity, dataclasses.replace(pair, negatives=(pair.positive,) * count, scores=scores)


@dataclass(frozen=True)
class StageKind:
    """A stage that a recipe may name."""

    name: str
    config: type[Any]
    run: Callable[[str, Path, Any, int], Mapping[str, Any]]  # (base, out, config, ranks); goes on where it stopped; returns key figures
    count: Callable[[Any, Any, Path, int], Amount] | None = None  # (config, reader, folder for tables, shards): what a run reads
    marker: str = checkpoint.CARD_FILE  # the file that is there once all is done
    makes_model: bool = True  # so that a later stage may start from it
    named: bool = False  # whether a file has to name it, where its keys would fit another stage too
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


def training(stage: Method[Any], *, count: Count = count_rows, revision: int = 1, named: bool = False) -> StageKind:
    """Return the entry of a stage on the shared skeleton."""
    counted = partial(count, stage.open_data)
    run = partial(_train, stage)
    return StageKind(stage.name, stage.config, run, count=counted, report=REPORT, free=FREE, revision=revision, named=named)


def _train(stage: Method[Any], base: str, out: Path, config: Any, nproc: int) -> Mapping[str, Any]:
    result = run_method(stage, base, out, config, nproc=nproc)
    numbers: dict[str, Any] = {"steps": result.steps}
    for entry in read_log(out):
        numbers |= {name: value for name, value in entry.items() if isinstance(value, int | float) and name != "step"}
    return numbers


def _convert(base: str, out: Path, config: ConvertConfig, _nproc: int) -> Mapping[str, Any]:
    written = convert.convert(base, out, config=config).card
    return {"family": written.family, "attention": written.attention["measured"], "pooling": written.pooling, "width": written.width}


def _evaluate(base: str, out: Path, config: EvaluateConfig, _nproc: int) -> Mapping[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    done = evaluate.evaluate(base, out=out / RESULTS, config=config)
    scores = {task: entry["score"] for task, entry in done.found["tasks"].items()}
    return {"mean": done.found["mean"], **scores, **search_costs(done.results)}


def _mine(base: str, out: Path, config: MineConfig, _nproc: int) -> Mapping[str, Any]:
    found = mine.mine(base, config.data, out, config=config)
    return {key: value for key, value in dataclasses.asdict(found).items() if isinstance(value, int)}


def _score(base: str, out: Path, config: ScoreConfig, _nproc: int) -> Mapping[str, Any]:
    found = score.score(base, config.data, out, config=config)
    return {key: value for key, value in dataclasses.asdict(found).items() if isinstance(value, int)}


def _merge(base: str, out: Path, config: MergeStageConfig, _nproc: int) -> Mapping[str, Any]:
    chosen = MergeConfig(**{field.name: getattr(config, field.name) for field in dataclasses.fields(MergeConfig)})
    found = merge.merge([base, *config.models], out, config=chosen)
    return {"attention": found.card.attention["measured"], "weights": ", ".join(f"{one:.3g}" for one in found.weights)}


def _rows_below(manifest: str, folder: Path) -> tuple[str, Path | None]:
    root = read_json(folder / manifest)["root"]
    return f"parquet:{folder}", None if root is None else Path(root)


RESULTS = "results.json"
CONVERT = StageKind("convert", ConvertConfig, _convert)
EVALUATE = StageKind(
    "evaluate",
    EvaluateConfig,
    _evaluate,
    marker=RESULTS,
    makes_model=False,
    free=frozenset({"device", "cache_dir", "processes", "budget", "workers", "attn_implementation"}),
    # `data` of a whole recipe is what its stages train on.
    later=frozenset({"attention", "min_pixels", "max_pixels", "data", "processor", "rerank", "rerank_top"}),
    opening=frozenset({"pooling", "attention", "template", "processor"}),
)
MINE = StageKind(
    "mine",
    MineConfig,
    _mine,
    marker=mine.MANIFEST,
    makes_model=False,
    rows=partial(_rows_below, mine.MANIFEST),
    free=frozenset({"device", "processes", "limits", "budget", "workers", "attn_implementation"}),
    later=frozenset({"attention", "template", "processor"}),
    opening=frozenset({"pooling", "attention", "template", "processor"}),
)
SCORE = StageKind(
    "score",
    ScoreConfig,
    _score,
    marker=SCORED_FILE,
    makes_model=False,
    named=True,
    rows=partial(_rows_below, SCORED_FILE),
    free=frozenset({"device", "limits", "budget", "workers", "attn_implementation"}),
)
MERGE_KEYS = frozenset(field.name for field in dataclasses.fields(MergeStageConfig))
MERGE = StageKind("merge", MergeStageConfig, _merge, named=True, later=MERGE_KEYS)  # a whole recipe's `suite` is what evaluate scores

KINDS: dict[str, StageKind] = {
    kind.name: kind
    for kind in (
        CONVERT,
        training(pretrain_method.METHOD),
        training(method.METHOD),
        MINE,
        training(finetune_method.METHOD, count=count_pairs),
        training(rerank_method.METHOD, count=count_pairs, named=True),  # most of its keys are those of finetune
        SCORE,
        MERGE,
        EVALUATE,
    )
}
