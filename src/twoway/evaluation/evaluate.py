"""`evaluate`: a model's scores on a suite, with chance and interval.

The steps: read the tasks of the suite, so that bad data is an error before any work; open the model; embed what the cache lacks and rank,
task by task; write results, and the outcome of every item. A `Suite` says where tasks come from and how they run.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from twoway.config import SettingPath, settings
from twoway.data.config import PairSource, SourceConfig
from twoway.data.dataset import data_folder
from twoway.data.rows import BAD_ROWS, Policy
from twoway.embedding.opening import open_engine, require_options
from twoway.errors import TwowayError, UsageError, did_you_mean, with_extra
from twoway.files import disk_errors
from twoway.limits import check_pixels

from . import nano, runner, suites
from .cache import VectorSource
from .runner import run_task
from .tasks import BASELINES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twoway.data.rows import OnBad

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
    found = runner.collect_results(suite, engine.name or str(model), vectors.fingerprint, settings, done)
    if beside:
        found["baselines"] = beside
    if output is not None:
        runner.write_results(output, found, done)
    return Evaluation(found, tuple(done), vectors.embedded, vectors.taken)


def _baselines(folder: Path) -> dict[str, VectorSource]:
    return {name: VectorSource(engine, folder) for name, engine in BASELINES.items()}


def _alone(task: RankingTask, vectors: VectorSource, policy: Policy) -> float:
    """Return the score of a model that cannot know."""
    return float(run_task(task, vectors, policy).scores().mean())


# The suites that `evaluate` knows: where their tasks come from, and how one of them is run.
#
# `mteb:NAME` is any benchmark or task of mteb; `vidore-v2` is one of them under a short name.

MTEB = "mteb:"
# What a suite needs.
FOLDER = "DIR: a folder that holds one folder a task, with Parquet inside"
PAIRS = "SPEC: pairs of a query and its answers, such as test.jsonl"


def _ranked(vectors: VectorSource, name: str) -> Run:
    del name
    return lambda task, policy: run_task(task, vectors, policy)


def _ranked_by_task(vectors: VectorSource, name: str) -> Run:
    """Rank with the model's prompts for a task, as fine-tuning wrote them; instructions of the source override them."""
    del name
    known = getattr(getattr(vectors.engine, "sentence", None), "prompts", {})

    def run(task: RankingTask, policy: Policy) -> Result:
        query, document = (
            known.get(f"{task.name}-{side}") if said is None else said for side, said in zip(task.sides, task.instructions, strict=True)
        )
        return run_task(replace(task, instructions=(query, document)), vectors, policy)

    return run


@dataclass(frozen=True)
class Suite:
    """What a suite is: `open(data, names, policy)` returns its tasks, and `begin(vectors, model's name)` what runs one of them."""

    says: str
    open: Callable[[Data, Sequence[str], Policy], Sequence[Any]]
    data: str = ""  # what it needs: FOLDER, PAIRS, or nothing
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # with their group and marks, where they are known beforehand
    baselines: bool = False  # whether models that cannot know are scored beside
    whole: bool = False  # whether a task is scored whole or not at all, so that no row can be left out
    begin: Callable[[VectorSource, str], Run] = _ranked


def _mmeb(data: Data, names: Sequence[str], policy: Policy) -> list[RankingTask]:
    (root,) = data
    assert isinstance(root, str | Path)
    folder = suites.MmebFolder.open(root)
    return [folder.task(name, policy) for name in folder.choose(names)]


def _pairs(data: Data, names: Sequence[str], policy: Policy) -> list[RankingTask]:
    return suites.open_pair_tasks([str(one) if isinstance(one, Path) else one for one in data], names, policy, data_folder())


def _nano(_: Data, names: Sequence[str], __: Policy) -> list[RankingTask]:
    return nano.open_nano_tasks(names)


def _mteb(name: str, says: str) -> Suite:
    """Return a suite of mteb's; mteb is imported when its tasks are opened."""
    return Suite(says, partial(_mteb_tasks, name), whole=True, begin=_mteb_run)


def _mteb_tasks(benchmark: str, _: Data, names: Sequence[str], __: Policy) -> Sequence[Any]:
    require_mteb()
    from .mteb import open_mteb_tasks

    return open_mteb_tasks(benchmark, names)


def _mteb_run(vectors: VectorSource, name: str) -> Run:
    from .mteb import MtebModel, model_meta, run_mteb_task

    model = MtebModel(vectors, model_meta(vectors.engine, name=name, revision=vectors.fingerprint))
    return lambda task, _: run_mteb_task(task, model)


def require_mteb() -> None:
    """Say how mteb is installed where it is not."""
    try:
        import mteb  # noqa: F401
    except ModuleNotFoundError as error:
        raise TwowayError(f"this needs mteb ({error}); {with_extra('eval')}") from error


NANO = {name: (kind.group, kind.mark) for name, kind in nano.TASKS.items()}
SUITES: dict[str, Suite] = {
    "mmeb": Suite("MMEB's own protocol over a folder in its layout: precision@1 among each query's candidates", _mmeb, data=FOLDER),
    "nano": Suite(
        "19 tasks over the shipped samples, of things that contrastive training has not seen: MRR", _nano, baselines=True, tasks=NANO
    ),
    "pairs": Suite("your own pairs: each query among all answers of the files: MRR", _pairs, data=PAIRS, begin=_ranked_by_task),
    "vidore-v2": _mteb("ViDoRe(v2)", "pages of reports and lectures, asked for in words, through mteb: nDCG@5"),
}


def find_suite(name: str) -> Suite:
    """Return a suite by its name."""
    if name.startswith(MTEB) and name != MTEB:
        return _mteb(name.removeprefix(MTEB), "a benchmark or task of mteb")
    if name not in SUITES:
        raise UsageError(f"unknown suite {name!r}{did_you_mean(name, SUITES)} (there are: {', '.join(SUITES)}, and {MTEB}NAME)")
    return SUITES[name]


def require(name: str, *, data: Data, tasks: Sequence[str], on_bad: str, called: str) -> Suite:
    """Return a suite that can be run so, as far as that is known before it is opened; `called` is what names its data."""
    suite = find_suite(name)
    if suite.data and not data:
        raise UsageError(f"the suite {name} needs {called} {suite.data}")
    if suite.data == FOLDER and not (len(data) == 1 and isinstance(data[0], str | Path)):
        raise UsageError(f"the suite {name} reads one folder, as it is; name it alone ({called} {suite.data})")
    if not suite.data and data:
        raise UsageError(f"the suite {name} brings its own data; leave {called} out")
    if suite.whole and on_bad != "fail":
        raise UsageError(f"the suite {name} scores its tasks whole, so no row can be left out; leave on-bad out")
    for task in tasks if suite.tasks else ():
        if task not in suite.tasks:
            raise UsageError(f"the suite {name} has no task {task!r}{did_you_mean(task, suite.tasks)} (it has {', '.join(suite.tasks)})")
    return suite


# What the stage `evaluate` of a recipe can be told: the options of `twoway evaluate`.


@settings
class EvaluateConfig:
    """A suite and how it is run."""

    suite: str = Field(default="nano", description="the suite of tasks")
    # `data` of a recipe is what its stages train on.
    suite_data: SettingPath | tuple[PairSource, ...] | None = Field(
        default=None, description="the folder of the suite's tasks, or the pairs that are scored"
    )
    tasks: tuple[str, ...] = Field(default=(), description="only these tasks; default: all that are there")
    subset: int | None = Field(default=None, ge=1, description="queries of each task, at most")
    pooling: Literal["mean", "last", "eos"] | None = Field(default=None, description="how a vector is made; default: as the model says")
    attention: Literal["two-way", "causal", "mixed"] | None = Field(default=None, description="who sees whom; default: as the model says")
    template: Literal["chat", "plain", "bare"] | None = Field(
        default=None, description="how inputs are written; default: as the model says"
    )
    device: str = Field(default="auto", description="device to compute on")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(default=None, description="type of the weights; default: the model's")
    max_length: int | None = Field(default=None, description="tokens of an input; default: as the model says")
    min_pixels: int | None = Field(default=None, ge=1, description="smaller pictures are enlarged to this area")
    max_pixels: int | None = Field(default=None, ge=1, description="larger pictures are shrunk to this area")
    processes: int | None = Field(default=None, description="processes that embed; default: one for each GPU")
    cache: SettingPath | None = Field(default=None, description="folder of vectors that earlier runs made")
    on_bad: Literal["fail", "skip"] = Field(default="fail", description="a bad row is an error, or is left out, counted and listed")

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything heavy."""
        data = () if self.suite_data is None else (self.suite_data,) if isinstance(self.suite_data, Path) else self.suite_data
        if find_suite(self.suite).data == PAIRS and isinstance(self.suite_data, Path):
            object.__setattr__(self, "suite_data", (PairSource(str(self.suite_data)),))  # a source by its spec, as wherever pairs are named
        require(self.suite, data=data, tasks=self.tasks, on_bad=self.on_bad, called="suite_data")
        check_pixels(self.min_pixels, self.max_pixels)

    def kinds(self) -> tuple[str, ...]:
        """Return the groups and marks of the tasks that are scored; none where they are not known before the suite is opened."""
        known = find_suite(self.suite).tasks
        return tuple(dict.fromkeys(kind for task, kinds in known.items() if not self.tasks or task in self.tasks for kind in kinds))

    def options(self) -> dict[str, Any]:
        """Return the arguments of `evaluate`."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return given | {"data": given.pop("suite_data")}
