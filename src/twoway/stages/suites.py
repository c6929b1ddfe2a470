"""The suites that `evaluate` knows: where their tasks come from, and how one of them is run.

`mteb:NAME` is any benchmark or task of mteb; `vidore-v2` is one of them under a short name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.errors import TwowayError, UsageError, did_you_mean, with_extra
from twoway.evaluation import mmeb, nano, pairs
from twoway.evaluation.run import run_task

from .tables import data_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from twoway.data.mixture import SourceConfig
    from twoway.data.policy import Policy
    from twoway.evaluation.ranking import RankingTask
    from twoway.evaluation.run import Result
    from twoway.evaluation.vectors import VectorSource

    Data = Sequence[str | Path | SourceConfig]  # what was named for a suite
    Run = Callable[[Any, Policy], Result]

MTEB = "mteb:"
# What a suite needs.
FOLDER = "DIR: a folder that holds one folder a task, with Parquet inside"
PAIRS = "SPEC: pairs of a query and its answers, such as test.jsonl"


def _ranked(vectors: VectorSource, name: str) -> Run:
    del name
    return lambda task, policy: run_task(task, vectors, policy)


def _ranked_by_task(vectors: VectorSource, name: str) -> Run:
    """Rank with the prompts that the model has for a task, as fine-tuning wrote them; what the source says stands above them."""
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
    folder = mmeb.Folder.open(root)
    return [folder.task(name, policy) for name in folder.choose(names)]


def _pairs(data: Data, names: Sequence[str], policy: Policy) -> list[RankingTask]:
    return pairs.open_tasks([str(one) if isinstance(one, Path) else one for one in data], names, policy, data_folder())


def _nano(_: Data, names: Sequence[str], __: Policy) -> list[RankingTask]:
    return nano.open_tasks(names)


def _mteb(name: str, says: str) -> Suite:
    """Return a suite of mteb's; mteb is imported when its tasks are asked for."""
    return Suite(says, partial(_mteb_tasks, name), whole=True, begin=_mteb_run)


def _mteb_tasks(benchmark: str, _: Data, names: Sequence[str], __: Policy) -> Sequence[Any]:
    require_mteb()
    from twoway.evaluation.mteb_tasks import open_tasks

    return open_tasks(benchmark, names)


def _mteb_run(vectors: VectorSource, name: str) -> Run:
    from twoway.evaluation.mteb_meta import model_meta
    from twoway.evaluation.mteb_model import MtebModel
    from twoway.evaluation.mteb_run import run_task as run_mteb

    model = MtebModel(vectors, model_meta(vectors.engine, name=name, revision=vectors.fingerprint))
    return lambda task, _: run_mteb(task, model)


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
