"""One task of mteb on one model: the score is mteb's own; for a search, what each query came to is kept beside.

Queries are only kept where their mean is the score that mteb gives, so what `compare` draws from is what the table shows. mteb averages
over the subsets of a task (languages mostly), and so do the interval and chance.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import datasets
import mteb
import numpy as np
from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores, mrr
from mteb.abstasks import AbsTaskRetrieval

from ..errors import TwowayError
from .mteb_chance import search_chance
from .mteb_tasks import absent, load, right_of, splits
from .resample import drawn_means

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .mteb_model import MtebModel
    from .mteb_tasks import MtebTask

BATCH = 32  # rows that mteb's loader reads at once; the engine makes batches of its own
_ROUNDED = 1e-5  # mteb rounds to five digits
# mteb's name of a metric -> the one under which the scores of single queries stand.
_OF_QUERIES = {"ndcg": "ndcg_cut_", "map": "map_cut_", "recall": "recall_", "precision": "P_", "hit_rate": "success_"}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """One query: its score, the places of its right candidates as far as they were found, how right they are, and among how many."""

    score: float
    places: tuple[int, ...]
    gains: tuple[int, ...]
    size: int
    tied: bool


@dataclass(frozen=True)
class MtebResult:
    """What a model did on a task of mteb."""

    task: MtebTask
    found: Any  # mteb's TaskResult
    asked: Mapping[tuple[str, str], Mapping[str, Asked]] = field(default_factory=dict)  # (split, subset) -> query -> what it came to
    absent: int = 0  # queries with a right candidate that is not there

    @property
    def name(self) -> str:
        """Return the task's name."""
        return self.task.name

    @property
    def metric(self) -> str:
        """Return the task's metric, a cut behind an @."""
        return str(self.task.task.metadata.main_score).replace("_at_", "@")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return mteb's kind of the task."""
        return (str(self.task.task.metadata.type),)

    @property
    def score(self) -> float:
        """Return mteb's main score."""
        return float(self.found.get_score())

    @property
    def official(self) -> None:
        """Return nothing: mteb's score is the task's."""

    def entry(self) -> dict[str, Any]:
        """Return what `results.json` says of the task; what mteb does not give of single items is null."""
        groups = [[(one.size, one.gains) for one in asked.values()] for asked in self.asked.values()]
        every = [one for asked in self.asked.values() for one in asked.values()]
        luck = search_chance(self.metric, groups) if every else None
        return {
            "metric": self.metric,
            "score": self.score,
            "n": len(every) or None,
            "chance": None if luck is None else luck.mean,
            "ci95": list(self._interval()) if every else None,
            "chance95": None if luck is None else [luck.low, luck.high],
            "at_chance": None if luck is None else bool(self.score <= luck.high),
            "group": self.kinds[0],
            "marks": [],
            "candidates": [min(one.size for one in every), max(one.size for one in every)] if every else None,
            "tied": sum(one.tied for one in every) if every else None,
            "left_out": 0,
            "absent": self.absent,
            "subsets": {f"{split}/{one['hf_subset']}": one["main_score"] for split, scores in self.found.scores.items() for one in scores},
            "also": _mean_scores(self.found.scores),
            "data": "@".join(str(self.task.task.metadata.dataset.get(key)) for key in ("path", "revision")),
        }

    def _interval(self) -> tuple[float, float]:
        """Draw queries again; one that has its name in several subsets (languages mostly) is drawn with all of them."""
        scores = {" ".join(where): np.array([[one.score] for one in asked.values()]) for where, asked in self.asked.items()}
        abouts = {" ".join(where): [[self._mark(where[0], query)] for query in asked] for where, asked in self.asked.items()}
        low, high = np.quantile(np.mean(list(drawn_means(scores, abouts).values()), axis=0), [0.025, 0.975])
        return float(low), float(high)

    def _mark(self, split: str, query: str) -> str:
        return f"{self.name}/{split}/{query}"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what is kept of each query; one that has its name in several subsets is one piece of evidence."""
        for (split, subset), asked in self.asked.items():
            for query, one in asked.items():
                row = {"item": f"{split}/{subset}/{query}", "places": list(one.places), "size": one.size, "tied": one.tied}
                yield row | {"about": [self._mark(split, query)], "score": one.score}


def run_task(task: MtebTask, model: MtebModel) -> MtebResult:
    """Have mteb evaluate the model on a task."""
    model.rankings.clear()
    load(task)
    how = {"batch_size": BATCH, "show_progress_bar": False}
    try:
        # Results are not taken from mteb's own cache: it knows a model by its name, and here the vectors are kept.
        with _quiet():
            answer = mteb.evaluate(model, task.task, cache=None, co2_tracker=False, show_progress_bar=False, encode_kwargs=how)
    except (ValueError, KeyError, OSError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TwowayError(f"{task.name} cannot be evaluated: {reason}") from error
    if not answer.task_results:
        raise TwowayError(
            f"{task.name} cannot be evaluated: {answer.exceptions[0].exception if answer.exceptions else 'mteb gave nothing'}"
        )
    found = answer.task_results[0]
    if not np.isfinite(found.get_score()):
        why = "which happens where all vectors are alike; look at the model, or name other tasks with --tasks"
        raise TwowayError(f"{task.name}: mteb gives no number for {MtebResult(task, found).metric}, {why}")
    if not isinstance(task.task, AbsTaskRetrieval):
        return MtebResult(task, found)
    asked, lost = {}, 0
    for split, subset, data in splits(task.task):
        lost += absent(data)
        asked[split, subset] = _queries(task.task, model.rankings.get((split, subset), {}), data)
    task.task.unload_data()
    result = MtebResult(task, found, asked, lost)
    means = [np.mean([one.score for one in each.values()]) for each in asked.values() if each]
    if len(means) < len(asked) or abs(float(np.mean(means)) - result.score) > _ROUNDED:
        log.warning("%s: mteb's %s is no mean over queries, so no single query is kept", task.name, result.metric)
        return MtebResult(task, found, {}, lost)
    return result


def _queries(task: Any, ranking: Mapping[str, Mapping[str, float]], data: Any) -> dict[str, Asked]:
    """Return what each query came to, scored by mteb's own functions."""
    scores = _query_scores(task, ranking, data["relevant_docs"])
    candidates = len(data["corpus"])
    found = {}
    for query, score in scores.items():
        right, ranked = right_of(data, query), ranking[query]
        order = sorted(ranked, key=lambda name: (ranked[name], name), reverse=True)[int(task.skip_first_result) :]  # mteb's order of ties
        places = tuple(place for place, name in enumerate(order, 1) if name in right)
        size = len(data["top_ranked"][query]) if data.get("top_ranked") else candidates
        best = ranked[order[places[0] - 1]] if places else None
        tied = best is not None and any(ranked[name] == best for name in order if name not in right)
        found[query] = Asked(score, places, tuple(right.values()), size, tied)
    return found


def _query_scores(task: Any, ranking: Mapping[str, Mapping[str, float]], right: Mapping[str, Any]) -> dict[str, float]:
    metric = str(task.metadata.main_score)
    name, _, cut = ("recall", "", "1") if metric == "accuracy" else metric.partition("_at_")
    if not ranking or not cut:
        return {}
    if name == "mrr":
        return dict(zip(ranking, mrr(right, ranking, [int(cut)])[f"MRR@{cut}"], strict=True))
    if name not in _OF_QUERIES:
        return {}
    every = calculate_retrieval_scores(ranking, right, [int(cut)], task.skip_first_result).all_scores
    return {query: float(scores[f"{_OF_QUERIES[name]}{cut}"]) for query, scores in every.items()}


def _mean_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return every score that mteb gives as one number, the mean over splits and subsets, where it is defined for all of them."""
    every = [one for subsets in scores.values() for one in subsets]
    names = [name for name, value in every[0].items() if isinstance(value, int | float) and name != "main_score" and "nauc" not in name]
    means = {name.replace("_at_", "@"): float(np.mean([one.get(name, np.nan) for one in every])) for name in names}
    return {name: mean for name, mean in means.items() if np.isfinite(mean)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the bars of `datasets` away: mteb prepares every table anew for every search."""
    were = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were:
            datasets.enable_progress_bars()
