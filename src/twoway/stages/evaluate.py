"""`evaluate`: a model's scores on a suite, with chance and interval.

The recipe: read the tasks of the suite, so that bad data is met before any work; open the model; embed what the cache lacks and rank,
task by task; write results, and the outcome of every item beside them. A suite is an entry of `SUITES`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.data.policy import BAD_ROWS, Policy
from twoway.errors import UsageError, did_you_mean
from twoway.evaluation import mmeb, nano, results
from twoway.evaluation.baselines import BASELINES
from twoway.evaluation.run import TaskResult, run_task
from twoway.evaluation.vectors import VectorSource
from twoway.files import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twoway.data.policy import OnBad
    from twoway.evaluation.ranking import RankingTask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Suite:
    """Where tasks come from: `open(data, names, policy)` returns them; `data` says whether a suite needs a folder."""

    says: str
    open: Callable[[Path | None, Sequence[str], Policy], list[RankingTask]]
    data: bool
    baselines: bool = False  # whether models that cannot know are scored beside


def _mmeb(data: Path | None, names: Sequence[str], policy: Policy) -> list[RankingTask]:
    if data is None:
        raise UsageError("the suite mmeb needs --data DIR: a folder that holds one folder a task, with Parquet inside")
    folder = mmeb.Folder.open(data)
    return [folder.task(name, policy) for name in folder.choose(names)]


def _nano(_: Path | None, names: Sequence[str], __: Policy) -> list[RankingTask]:
    return nano.open_tasks(names)


SUITES: dict[str, Suite] = {
    "mmeb": Suite("MMEB's own protocol over a folder in its layout: precision@1 among each query's candidates", _mmeb, data=True),
    "nano": Suite(
        "19 tasks over the shipped samples, of things that contrastive training has not seen: MRR", _nano, data=False, baselines=True
    ),
}


@dataclass(frozen=True)
class Evaluation:
    """What came out: what `results.json` holds, and the outcomes that it is made of."""

    found: dict[str, Any]
    results: tuple[TaskResult, ...]
    embedded: int  # documents that the model was asked for
    cached: int  # documents whose vectors were there


def evaluate(
    model: Any,
    suite: str,
    *,
    data: str | Path | None = None,
    tasks: Sequence[str] = (),
    output: str | Path | None = None,
    subset: int | None = None,
    cache: str | Path | None = None,
    on_bad: OnBad = "fail",
    **opening: Any,
) -> Evaluation:
    """Evaluate `model` (anything that `twoway.embedding.open_embedder` takes, with its options) on a suite."""
    if suite not in SUITES:
        raise UsageError(f"unknown suite {suite!r}{did_you_mean(suite, SUITES)} (there are: {', '.join(SUITES)})")
    if subset is not None and subset < 1:
        raise UsageError(f"--subset is a number of queries of each task, at least 1, not {subset}")
    if not SUITES[suite].data and data is not None:
        raise UsageError(f"the suite {suite} brings its own data; leave --data out")
    if output is not None:
        output = Path(output)
        with disk_errors():
            output.parent.mkdir(parents=True, exist_ok=True)
    policy = Policy(on_bad, None if output is None else output.with_name(f"{output.stem}.{BAD_ROWS}"))
    policy.start()
    chosen = SUITES[suite].open(None if data is None else Path(data), tasks, policy)
    if subset is not None:
        chosen = [task.subset(subset) for task in chosen]
    from twoway.embedding.opening import open_embedder

    engine = open_embedder(model, **opening)
    vectors = VectorSource(engine, None if cache is None else Path(cache))
    beside = {}
    if SUITES[suite].baselines:
        beside = {
            name: {task.name: _alone(task, vectors, policy) for task in chosen} for name, vectors in _baselines(vectors.folder).items()
        }
    done = []
    for number, task in enumerate(chosen, 1):
        done.append(run_task(task, vectors, policy))
        entry = done[-1].scores()
        log.info("%d of %d: %s %s %.4f (%d queries)", number, len(chosen), task.name, task.metric, entry.mean(), len(entry))
    settings = {"data": None if data is None else Path(data).name, "subset": subset, "on_bad": on_bad, "dimension": engine.dimension}
    settings |= {name: str(value) for name, value in opening.items() if value is not None}
    found = results.collect(suite, engine.name or str(model), vectors.fingerprint, settings, done)
    if beside:
        found["baselines"] = beside
    if output is not None:
        results.write(output, found, done)
    return Evaluation(found, tuple(done), vectors.embedded, vectors.taken)


def _baselines(folder: Path) -> dict[str, VectorSource]:
    return {name: VectorSource(engine, folder) for name, engine in BASELINES.items()}


def _alone(task: RankingTask, vectors: VectorSource, policy: Policy) -> float:
    """Return the score of a model that cannot know."""
    return float(run_task(task, vectors, policy).scores().mean())
