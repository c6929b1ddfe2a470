"""mteb's tasks by name, and the data of one made ready: loaded, looked through, a subset drawn.

mteb scores what it is given: a right page that is not in the corpus costs the score in silence, and an empty task is a division by zero.
Here the first is counted, said and written into the results, and the second is an error.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mteb
import numpy as np
from mteb.abstasks import AbsTaskRetrieval

from ..errors import TwowayError, UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VIDORE_V2 = "ViDoRe(v2)"
TAKEN = ("image", "text")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MtebTask:
    """One task of mteb, and how many of its queries are asked (None: all)."""

    task: Any
    queries: int | None = None

    @property
    def name(self) -> str:
        """Return mteb's name of the task."""
        return str(self.task.metadata.name)

    def subset(self, count: int) -> MtebTask:
        """Return the task with some of its queries; only searches have queries."""
        if not isinstance(self.task, AbsTaskRetrieval):
            kind = self.task.metadata.type
            raise UsageError(f"{self.name} is a task of mteb's kind {kind}, of which no part can be asked; leave --subset out")
        return MtebTask(self.task, count)


def open_tasks(name: str, chosen: Sequence[str] = ()) -> list[MtebTask]:
    """Return the tasks of one of mteb's benchmarks, or the task of that name; `chosen` are some of a benchmark's."""
    from mteb.benchmarks.get_benchmark import _build_aliases_registry, _build_registry
    from mteb.get_tasks import _TASKS_REGISTRY

    benchmarks = _build_registry() | _build_aliases_registry()
    if name in benchmarks:
        tasks = list(benchmarks[name].tasks)
    elif name in _TASKS_REGISTRY:
        tasks = [mteb.get_task(name)]
    else:
        known = [*benchmarks, *_TASKS_REGISTRY]
        raise UsageError(f"mteb has no benchmark or task {name!r}{did_you_mean(name, known)} (see `mteb available-benchmarks`)")
    names = [task.metadata.name for task in tasks]
    for wanted in chosen:
        if wanted not in names:
            raise UsageError(f"{name} has no task {wanted!r}{did_you_mean(wanted, names)} (it has {', '.join(names)})")
    found = [MtebTask(task) for task in tasks if not chosen or task.metadata.name in chosen]
    for one in found:
        more = sorted(set(one.task.metadata.modalities) - set(TAKEN))
        if more:
            raise UsageError(f"{one.name} is about {' and '.join(more)}, which no model here takes; name others with --tasks")
    return found


def load(found: MtebTask) -> None:
    """Load the data of a task, which mteb fetches from the hub, and look through it."""
    task = found.task
    if not isinstance(task, AbsTaskRetrieval):
        return  # mteb loads it when it evaluates
    try:
        task.load_data()
    except Exception as error:  # the hub's client and the readers of data sets raise nearly anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TwowayError(f"{found.name}: its data cannot be loaded ({reason}); mteb fetches it from the hub, or from the cache") from error
    task.convert_v1_dataset_format_to_v2(num_proc=None)
    for split, subset, data in splits(task):
        _require(found.name, split, subset, data)
        if found.queries is not None:
            _draw(found, f"{split}/{subset}", data)


def splits(task: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield (split, subset, its data) of a search, as mteb will go through them."""
    for subset in task.hf_subsets:
        of = task.dataset if subset == "default" and subset not in task.dataset else task.dataset[subset]
        for split in task.eval_splits:
            yield split, subset, of[split]


def right_of(data: Any, query: str) -> dict[str, int]:
    """Return the right candidates of a query and how right each is."""
    return {name: int(grade) for name, grade in data["relevant_docs"].get(query, {}).items() if grade > 0}


def absent(data: Any) -> int:
    """Count the queries with a right candidate that is not among the candidates."""
    names = set(data["corpus"]["id"])
    return sum(not right_of(data, query).keys() <= names for query in data["queries"]["id"])


def _require(name: str, split: str, subset: str, data: Any) -> None:
    """Refuse what cannot be scored."""
    where = f"{name} ({split}, {subset})"
    if not len(data["corpus"]):
        raise UsageError(f"{where} has no candidates; its data is empty")
    if not any(query in data["relevant_docs"] for query in data["queries"]["id"]):
        raise UsageError(f"{where} has no query with a right candidate; there is nothing to score")
    names = list(data["corpus"]["id"])
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise TwowayError(f"{where}: the candidate {twice!r} is there twice; its scores would overwrite each other")
    lost = absent(data)
    if lost:
        log.warning("%s: %d queries have a right candidate that is not in the corpus; mteb counts it as not found", where, lost)


def _draw(found: MtebTask, where: str, data: Any) -> None:
    """Keep some queries, the same for a name every time; candidates stay."""
    asked = [number for number, query in enumerate(data["queries"]["id"]) if data["relevant_docs"].get(query)]
    draw = np.random.default_rng([0, *f"{found.name}/{where}".encode()])
    kept = np.sort(draw.permutation(len(asked))[: found.queries])
    data["queries"] = data["queries"].select([asked[place] for place in kept])
