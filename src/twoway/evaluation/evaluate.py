"""`evaluate`: a model's scores on a suite, with chance and interval.

The steps: read the tasks of the suite, so that bad data is an error before any work; open the model; embed what the cache lacks and rank,
task by task; write results, and the outcome of every item. What is known of each suite beforehand stands in `config`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.config import gather, takes
from twoway.content import KINDS
from twoway.data.config import PairSource, SourceConfig
from twoway.data.dataset import data_folder
from twoway.data.rows import BAD_ROWS, Policy
from twoway.embedding.config import OpenManyConfig
from twoway.embedding.opening import open_engine
from twoway.embedding.reranker import open_reranker
from twoway.errors import TwowayError, with_extra
from twoway.files import disk_errors
from twoway.models.config import AUTO

from . import mmeb_v2, nano, runner, suites
from .cache import VectorSource
from .config import MTEB, EvaluateConfig, find_suite, vectors_folder
from .runner import SecondStep, run_task
from .tasks import BASELINES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .runner import Result
    from .tasks import RankingTask

    Data = Sequence[str | Path | SourceConfig]  # what was named for a suite
    Run = Callable[[Any, Policy], Result]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What came out: what `results.json` holds, and the outcomes that it is made of."""

    found: dict[str, Any]
    results: tuple[Result, ...]
    embedded: int  # documents that the model was asked for
    cached: int  # documents whose vectors were there


@takes(EvaluateConfig)
def evaluate(
    model: Any,
    suite: str | None = None,
    *,
    data: str | Path | Sequence[str | Path | SourceConfig] | None = None,
    out: str | Path | None = None,
    config: EvaluateConfig | None = None,
    **options: Any,
) -> Evaluation:
    """Evaluate `model` (anything that `open_embedder` takes, or a server) on a suite; `options` are the settings of `EvaluateConfig`.

    `data` is the folder of the suite `mmeb`, or pairs for the suite `pairs`: specs, or `PairSource` with a root, a template, a cap.
    """
    if data is not None:
        named = [data] if isinstance(data, str | Path) else data
        options["data"] = [one if isinstance(one, SourceConfig) else PairSource(str(one)) for one in named]
    config = gather(EvaluateConfig, config, options if suite is None else {**options, "suite": suite}, evaluate)
    if out is not None:
        out = Path(out)
        with disk_errors():
            out.parent.mkdir(parents=True, exist_ok=True)
    policy = Policy(config.on_bad, None if out is None else out.with_name(f"{out.stem}.{BAD_ROWS}"))
    policy.start()
    runner_of = _runner_of(config.suite)
    chosen = runner_of.open(config.named(), config.tasks, policy)
    if config.subset is not None:
        chosen = [task.subset(config.subset) for task in chosen]
    engine = open_engine(model, config=OpenManyConfig(**config.opening()), late_interaction=config.suite in _RUNNERS)
    _require_shown(config.suite, engine, model)
    vectors = VectorSource(engine, vectors_folder(config.cache_dir))
    second = None
    if config.rerank is not None:
        scores = VectorSource(open_reranker(config.rerank, device=config.device), vectors.folder)
        second = SecondStep(scores, config.rerank_top)
    try:
        beside = {}
        if find_suite(config.suite).baselines:
            beside = {
                name: {task.name: _alone(task, vectors, policy) for task in chosen} for name, vectors in _baselines(vectors.folder).items()
            }
        done = []
        run = runner_of.begin(vectors, engine.name or str(model), second)
        for number, task in enumerate(chosen, 1):
            done.append(run(task, policy))
            log.info("%d of %d: %s %.4f", number, len(chosen), task.name, done[-1].score)
    finally:
        engine.close()
    found = runner.collect_results(config.suite, engine.name or str(model), vectors.fingerprint, _conditions(config, engine), done)
    if second is not None:
        found["reranker"] = {"model": config.rerank, "fingerprint": second.scores.fingerprint, "top": second.top}
    if beside:
        found["baselines"] = beside
    if out is not None:
        runner.write_results(out, found, done)
    return Evaluation(found, tuple(done), vectors.embedded, vectors.taken)


def _require_shown(suite: str, engine: Any, model: Any) -> None:
    """Refuse a model that takes nothing of what the whole suite shows."""
    shows = find_suite(suite).shows
    taken = engine.inputs.single if hasattr(engine, "inputs") else {"text", "image"}
    if shows and shows not in taken:
        said = ", ".join(sorted(taken & set(KINDS)))
        raise TwowayError(f"the suite {suite} shows {shows}s, and {engine.name or model} takes none (it takes: {said})")


def _conditions(config: EvaluateConfig, engine: Any) -> dict[str, Any]:
    """Return what scores depend on; how many processes there were changes none."""
    names = ", ".join(one.label if isinstance(one, SourceConfig) else one.name for one in config.named())
    said = {"data": names or None, "subset": config.subset, "on_bad": config.on_bad, "dimension": engine.dimension}
    opening = {name: str(value) for name, value in config.opening().items() if name not in ("processes", "budget", "workers")}
    if opening["attn_implementation"] == AUTO:
        del opening["attn_implementation"]
    return said | opening | getattr(engine, "read_as", {})


def _baselines(folder: Path) -> dict[str, VectorSource]:
    return {name: VectorSource(engine, folder) for name, engine in BASELINES.items()}


def _alone(task: RankingTask, vectors: VectorSource, policy: Policy) -> float:
    """Return the score of a model that cannot know."""
    return float(run_task(task, vectors, policy).scores().mean())


# How the tasks of each suite are opened, and how one of them is run.


def _ranked(vectors: VectorSource, name: str, second: SecondStep | None) -> Run:
    del name
    return lambda task, policy: run_task(task, vectors, policy, second)


def _ranked_by_task(vectors: VectorSource, name: str, second: SecondStep | None) -> Run:
    """Rank with the model's prompts for a task, as fine-tuning wrote them; instructions of the source override them."""
    del name
    known = getattr(getattr(vectors.engine, "sentence", None), "prompts", {})

    def run(task: RankingTask, policy: Policy) -> Result:
        query, document = (
            known.get(f"{task.name}-{side}") if said is None else said for side, said in zip(task.sides, task.instructions, strict=True)
        )
        return run_task(replace(task, instructions=(query, document)), vectors, policy, second)

    return run


@dataclass(frozen=True)
class SuiteRunner:
    """How a suite is run: `open(data, names, policy)` returns its tasks, and `begin(vectors, model's name, second step)` what runs one."""

    open: Callable[[Data, Sequence[str], Policy], Sequence[Any]]
    begin: Callable[[VectorSource, str, SecondStep | None], Run] = _ranked


def _folder(data: Data) -> str | Path:
    """Return the one folder of a suite that reads one."""
    (root,) = data
    assert isinstance(root, str | Path)
    return root


def _mmeb(data: Data, names: Sequence[str], policy: Policy) -> list[RankingTask]:
    folder = suites.MmebFolder.open(_folder(data))
    return [folder.task(name, policy) for name in folder.choose(names)]


def _mmeb_v2(data: Data, names: Sequence[str], policy: Policy) -> list[RankingTask]:
    return mmeb_v2.open_tasks(_folder(data), names, policy)


def _pairs(data: Data, names: Sequence[str], policy: Policy) -> list[RankingTask]:
    return suites.open_pair_tasks([str(one) if isinstance(one, Path) else one for one in data], names, policy, data_folder())


def _nano(_: Data, names: Sequence[str], __: Policy) -> list[RankingTask]:
    return nano.open_nano_tasks(names)


def _nano_video(_: Data, names: Sequence[str], __: Policy) -> list[RankingTask]:
    return nano.open_video_tasks(names)


def _mteb_tasks(benchmark: str, _: Data, names: Sequence[str], __: Policy) -> Sequence[Any]:
    require_mteb()
    from .mteb import open_mteb_tasks

    return open_mteb_tasks(benchmark, names)


def _mteb_run(vectors: VectorSource, name: str, _: SecondStep | None) -> Run:
    from .mteb import MtebModel, model_meta, run_mteb_task

    model = MtebModel(vectors, model_meta(vectors.engine, name=name, revision=vectors.fingerprint))
    return lambda task, _: run_mteb_task(task, model)


def require_mteb() -> None:
    """Say how mteb is installed where it is not."""
    try:
        import mteb  # noqa: F401
    except ModuleNotFoundError as error:
        raise TwowayError(f"this needs mteb ({error}); {with_extra('eval')}") from error


def _runner_of(suite: str) -> SuiteRunner:
    """Return how a suite is run; mteb is imported when its tasks are opened."""
    if suite in _RUNNERS:
        return _RUNNERS[suite]
    return SuiteRunner(partial(_mteb_tasks, _BENCHMARKS.get(suite, suite.removeprefix(MTEB))), _mteb_run)


_RUNNERS = {
    "mmeb": SuiteRunner(_mmeb),
    "mmeb-v2": SuiteRunner(_mmeb_v2),
    "nano": SuiteRunner(_nano),
    "nano-video": SuiteRunner(_nano_video),
    "pairs": SuiteRunner(_pairs, _ranked_by_task),
}
_BENCHMARKS = {"vidore-v2": "ViDoRe(v2)"}  # of mteb, under a short name
