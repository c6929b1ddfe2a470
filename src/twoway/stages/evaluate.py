"""`evaluate`: a model's scores on a suite, with chance and interval.

The recipe: read the tasks of the suite, so that bad data is met before any work; open the model; embed what the cache lacks and rank,
task by task; write results, and the outcome of every item beside them. What a suite is stands in `suites`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.data.mixture import SourceConfig
from twoway.data.policy import BAD_ROWS, Policy
from twoway.embedding.opening import require_options
from twoway.errors import UsageError
from twoway.evaluation import results
from twoway.evaluation.baselines import BASELINES
from twoway.evaluation.engines import open_engine
from twoway.evaluation.run import run_task
from twoway.evaluation.vectors import VectorSource
from twoway.files import disk_errors

from .suites import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twoway.data.policy import OnBad
    from twoway.evaluation.ranking import RankingTask
    from twoway.evaluation.run import Result

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What came out: what `results.json` holds, and the outcomes that it is made of."""

    found: dict[str, Any]
    results: tuple[Result, ...]
    embedded: int  # documents that the model was asked for
    cached: int  # documents whose vectors were there


def evaluate(
    model: Any,
    suite: str,
    *,
    data: str | Path | Sequence[str | Path | SourceConfig] | None = None,
    tasks: Sequence[str] = (),
    output: str | Path | None = None,
    subset: int | None = None,
    cache: str | Path | None = None,
    on_bad: OnBad = "fail",
    **opening: Any,
) -> Evaluation:
    """Evaluate `model` (anything that `open_embedder` takes, with its options, or a server) on a suite.

    `data` is the folder of the suite `mmeb`, or pairs for the suite `pairs`: specs, or `PairSource` with a root, a template, a cap.
    """
    require_options(evaluate, opening, also=("processes",))
    named = [] if data is None else [data] if isinstance(data, str | Path) else list(data)
    chosen_suite = require(suite, data=named, tasks=tasks, on_bad=on_bad, called="--data")
    if subset is not None and subset < 1:
        raise UsageError(f"--subset is a number of queries of each task, at least 1, not {subset}")
    if output is not None:
        output = Path(output)
        with disk_errors():
            output.parent.mkdir(parents=True, exist_ok=True)
    policy = Policy(on_bad, None if output is None else output.with_name(f"{output.stem}.{BAD_ROWS}"))
    policy.start()
    chosen = chosen_suite.open(named, tasks, policy)
    if subset is not None:
        chosen = [task.subset(subset) for task in chosen]
    engine = open_engine(model, **opening)
    opening.pop("processes", None)  # how many there were changes no result
    vectors = VectorSource(engine, None if cache is None else Path(cache))
    try:
        beside = {}
        if chosen_suite.baselines:
            beside = {
                name: {task.name: _alone(task, vectors, policy) for task in chosen} for name, vectors in _baselines(vectors.folder).items()
            }
        done = []
        run = chosen_suite.begin(vectors, engine.name or str(model))
        for number, task in enumerate(chosen, 1):
            done.append(run(task, policy))
            log.info("%d of %d: %s %.4f", number, len(chosen), task.name, done[-1].score)
    finally:
        engine.close()
    names = ", ".join(one.label if isinstance(one, SourceConfig) else Path(one).name for one in named)
    settings = {"data": names or None, "subset": subset, "on_bad": on_bad, "dimension": engine.dimension}
    settings |= {name: str(value) for name, value in opening.items() if value is not None} | getattr(engine, "read_as", {})
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
