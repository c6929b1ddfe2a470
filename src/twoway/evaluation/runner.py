"""One task on one model: vectors, ranks, scores."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from twoway.content import CandidatePair, ContentError, Document
from twoway.embedding.shards import MultiVectors
from twoway.errors import UsageError
from twoway.files import write_whole

from .metrics import METRICS, Outcome, chance_of, interval, outcome, value, values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from twoway.data.rows import Policy

    from .cache import VectorSource
    from .tasks import RankingQuery, RankingTask

    Vectors = NDArray[np.float32]

_MARK = 16  # digits of a hash


class Result(Protocol):
    """What a model did on a task, however it was scored."""

    @property
    def name(self) -> str:
        """Return the task's name."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the group and the marks that the task counts for."""
        ...

    @property
    def score(self) -> float:
        """Return the task's score."""
        ...

    @property
    def official(self) -> float | None:
        """Return the score as the benchmark's own code counts it, where that is another."""
        ...

    def entry(self) -> dict[str, Any]:
        """Return the task's entry in `results.json`."""
        ...

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what is kept of each item."""
        ...


@dataclass(frozen=True)
class Reranked:
    """What a second step did to a task: the outcomes before it, and what it cost."""

    before: tuple[Outcome, ...]
    pairs: int  # of a query and a candidate that were scored
    seconds: float  # of scoring what was not in the cache
    judged: int  # pairs that are ranked by their scores, those in the cache too


@dataclass(frozen=True)
class Comparing:
    """What it takes to compare queries with their candidates."""

    seconds: float  # of all queries; nothing of it is cached
    numbers: float  # that are kept of a candidate: those of its vector, or of all of its vectors


@dataclass(frozen=True)
class TaskResult:
    """A model's result on a task: the outcome of every item."""

    task: RankingTask
    outcomes: tuple[Outcome, ...]
    asked: tuple[int, ...]  # numbers of the task's items that have an outcome; the others were left out
    left_out: tuple[str, ...] = field(default=())
    reranked: Reranked | None = None
    comparing: Comparing = Comparing(0.0, 0.0)

    @property
    def name(self) -> str:
        """Return the task's name."""
        return self.task.name

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return the group and the marks that the task counts for."""
        return (self.task.group, *self.task.marks)

    @property
    def score(self) -> float:
        """Return the task's score: the mean over its items."""
        return float(self.scores().mean())

    @property
    def official(self) -> float | None:
        """Return the share of items in which the first of the highest scores is a right candidate's, as MMEB's released code counts."""
        return float(np.mean([one.leads for one in self.outcomes])) if self.task.official else None

    def scores(self, metric: str | None = None) -> NDArray[np.float64]:
        """Return the score of every item."""
        return values(metric or self.task.metric, self.outcomes)

    @cached_property
    def about(self) -> list[list[str]]:
        """Marks of what every item is about; those that share one are no evidence of their own each."""
        return [_about(self.task.items[number], self.task.candidates) for number in self.asked]

    def entry(self) -> dict[str, Any]:
        """Return the task's entry in `results.json`."""
        scores = self.scores()
        low, high = interval(scores, self.about)
        asked = replace(self.task, items=tuple(self.task.items[number] for number in self.asked))
        luck = chance_of(asked)
        sizes = asked.sizes()
        entry: dict[str, Any] = {
            "metric": self.task.metric,
            "score": float(scores.mean()),
            "n": len(scores),
            "chance": luck.mean,
            "ci95": [low, high],
            "chance95": [luck.low, luck.high],
            "at_chance": bool(scores.mean() <= luck.high),
            "group": self.task.group,
            "marks": list(self.task.marks),
            "candidates": [int(sizes.min()), int(sizes.max())],
            "tied": sum(one.tied for one in self.outcomes),
            "left_out": self.task.unread + len(self.left_out),
        }
        if self.official is not None:
            # By file and row, without the folder: results may be shown to others.
            places = [item.query.place for item in asked.items if item.doubled]
            entry |= {"official": self.official, "doubled": [f"{Path(one.file).name}:{one.row}" for one in places if one is not None]}
        if self.reranked is not None:
            before = float(values(self.task.metric, self.reranked.before).mean())
            entry["reranked"] = {"before": before, "pairs": self.reranked.pairs, "seconds": round(self.reranked.seconds, 3)}
        entry["also"] = {metric: float(self.scores(metric).mean()) for metric in METRICS if metric != self.task.metric}
        return entry

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what is kept of each item; it is named by its content, so that two runs over other subsets find their common items.

        A question that comes again, with other candidates say, has a number behind its name.
        """
        met: Counter[str] = Counter()
        for number, one, about in zip(self.asked, self.outcomes, self.about, strict=True):
            item = self.task.items[number]
            right = sorted(self.task.candidates[int(place)].fingerprint() for place in item.right)
            key = hashlib.sha256("\n".join([item.query.fingerprint(), *right]).encode()).hexdigest()[:24]
            met[key] += 1
            key = key if met[key] == 1 else f"{key}-{met[key]}"
            kept = {"item": key, "places": list(one.places), "size": one.size, "tied": one.tied, "about": about}
            yield kept | ({"score": value(self.task.metric, one)} if one.gains else {})


def _about(item: RankingQuery, candidates: Sequence[Document]) -> list[str]:
    """Return marks of what an item is about: its pictures, those of the query and of the right answers; without any, its query."""
    documents = [item.query, *(candidates[int(place)] for place in item.right)]
    alone = [one if len(one.parts) == 1 else Document((part,), one.place) for one in documents for part in one.media]
    return sorted({one.fingerprint()[:_MARK] for one in alone or documents[:1]})


def run_task(task: RankingTask, vectors: VectorSource, policy: Policy, second: SecondStep | None = None) -> TaskResult:
    """Embed and rank; an item with content that cannot be embedded goes to the policy, whole. A second step reranks the best candidates."""
    bad_queries: dict[int, ContentError] = {}
    bad_candidates: dict[int, ContentError] = {}
    as_query, as_candidate = task.sides
    how = similarity_of(vectors.engine)
    told, told_candidate = task.instructions
    title = f"{task.name}: candidates"
    candidates = prepare_vectors(vectors(task.candidates, as_candidate, title, bad_candidates, prompt=told_candidate), how)
    asked_for, title = [item.query for item in task.items], f"{task.name}: queries"
    queries = prepare_vectors(vectors(asked_for, as_query, title, bad_queries, prompt=told), how)
    task, left_out = _without_bad(task, bad_candidates, policy)
    nearness: list[Vectors] = []  # kept for a second step alone: of many queries it is large
    outcomes, asked, seconds = [], [], 0.0
    for number, item in enumerate(task.items):
        error = bad_queries.get(number) or _bad(item, bad_candidates)
        if error is not None:
            policy.refuse(error)
            left_out.append(str(error))
            continue
        among = task.among(item)
        began = time.perf_counter()
        # Of a list of its own a query needs those vectors; else all of them are there, and nothing is copied.
        if item.among is None:
            near = scores_between(queries[number], candidates, how)[among]
        else:
            near = scores_between(queries[number], candidates[among], how)
        seconds += time.perf_counter() - began
        nearness += [] if second is None else [near]
        outcomes.append(_outcome(task, number, near))
        asked.append(number)
    if not asked:
        raise UsageError(f"{task.name}: no item is left to score")
    comparing = Comparing(seconds, _numbers(candidates))
    if second is None:
        return TaskResult(task, tuple(outcomes), tuple(asked), tuple(left_out), None, comparing)
    again, pairs, spent = second(task, asked, nearness)
    after = tuple(_outcome(task, number, near) for number, near in zip(asked, again, strict=True))
    reranked = Reranked(tuple(outcomes), pairs, spent, sum(min(second.top, len(near)) for near in nearness))
    return TaskResult(task, after, tuple(asked), tuple(left_out), reranked, comparing)


def _numbers(vectors: Any) -> float:
    """Return how many numbers there are of a document."""
    return float((vectors.flat if isinstance(vectors, MultiVectors) else vectors).size / max(1, len(vectors)))


SEARCH_COSTS = ("numbers_per_item", "compare_seconds_per_query", "rerank_seconds_per_query")


def search_costs(results: Sequence[Result]) -> dict[str, float]:
    """Return what a search of a suite's tasks takes, as far as it is known, once a query has its vector.

    Where all of a reranker's scores were in the cache, its time is not known.
    """
    ranked = [one for one in results if isinstance(one, TaskResult)]
    if not ranked:
        return {}
    queries = sum(len(one.asked) for one in ranked)
    seconds = sum(one.comparing.seconds for one in ranked)
    costs = [float(np.mean([one.comparing.numbers for one in ranked])), seconds / queries]
    steps = [one.reranked for one in ranked if one.reranked is not None]
    if pairs := sum(one.pairs for one in steps):
        costs.append(sum(one.seconds for one in steps) / pairs * sum(one.judged for one in steps) / queries)
    return dict(zip(SEARCH_COSTS, costs, strict=False))


def _outcome(task: RankingTask, number: int, near: Vectors) -> Outcome:
    """Rank an item's candidates by their scores."""
    item, among = task.items[number], task.among(task.items[number])
    right = np.flatnonzero(np.isin(among, item.right)).tolist()
    weights = dict(zip(item.right.tolist(), item.gains, strict=True)) if item.gains else {}
    one = outcome(near, right, gains=[weights[int(among[place])] for place in right] if weights else ())
    return replace(one, found=tuple(int(among[place]) for place in one.found))


class SecondStep:
    """Reranks the `top` best candidates of each item; scores are kept by content, as vectors are.

    The candidates below them stay where they are. What cannot be read by the reranker is an error: no item is ranked by halves.
    """

    def __init__(self, scores: VectorSource, top: int) -> None:
        self.scores, self.top = scores, top

    def __call__(self, task: RankingTask, asked: Sequence[int], nearness: Sequence[Vectors]) -> tuple[list[Vectors], int, float]:
        """Return the new scores of each item's candidates, how many pairs were scored, and the seconds that it took."""
        best = [np.argsort(-near, kind="stable")[: self.top] for near in nearness]
        pairs = []
        for number, places in zip(asked, best, strict=True):
            item, among = task.items[number], task.among(task.items[number])
            pairs += [CandidatePair.of(item.query, task.candidates[int(among[place])]) for place in places]
        bad: dict[int, ContentError] = {}
        prompts = getattr(getattr(self.scores.engine, "sentence", None), "prompts", {})
        before, start = self.scores.embedded, time.perf_counter()
        found = self.scores(pairs, None, f"{task.name}: reranking", bad, prompt=prompts.get(f"{task.name}-query"))[:, 0]
        if bad:
            raise bad[min(bad)]
        left, again = iter(np.split(found, np.cumsum([len(places) for places in best])[:-1])), []
        for near, places in zip(nearness, best, strict=True):
            scores = next(left)
            moved = near.astype(np.float64)
            rest = np.delete(near, places)
            moved[places] = (float(rest.max()) + 1.0 if len(rest) else 0.0) + scores - scores.min()
            again.append(cast("Vectors", moved))
        return again, self.scores.embedded - before, time.perf_counter() - start


def _without_bad(task: RankingTask, bad: dict[int, ContentError], policy: Policy) -> tuple[RankingTask, list[str]]:
    """Leave candidates without a vector out where queries are ranked among all of the task's; what no query asks for is counted here."""
    if not bad or all(item.among is not None for item in task.items):
        return task, []
    for number in sorted(bad):
        policy.refuse(bad[number])
    right = {int(one) for item in task.items for one in item.right}
    items = tuple(
        replace(item, without=tuple(sorted({*item.without, *bad} - set(item.right.tolist())))) if item.among is None else item
        for item in task.items
    )
    return replace(task, items=items), [str(bad[number]) for number in sorted(bad) if number not in right]


def _bad(item: RankingQuery, bad: dict[int, ContentError]) -> ContentError | None:
    """Return why an item cannot be ranked: a candidate of its own list, or a right one, has no vector."""
    if not bad:
        return None
    among = [int(one) for one in (item.right if item.among is None else item.among) if int(one) in bad]
    if not among:
        return None
    error = bad[among[0]]
    return ContentError(f"a candidate has no vector: {error.reason}", item.query.place or error.place)


def means(results: Sequence[Result]) -> tuple[dict[str, Any], float]:
    """Return the mean over tasks of each group and each mark, and of all; each task counts the same."""
    kinds: dict[str, list[Result]] = {}
    for result in results:
        for kind in dict.fromkeys(result.kinds):
            kinds.setdefault(kind, []).append(result)
    groups = {kind: _mean(members) for kind, members in kinds.items()}
    return groups, float(_mean(results)["score"])


def official_mean(results: Sequence[Result]) -> float | None:
    """Return the mean of official scores, where all tasks have one."""
    scores = [score for result in results if (score := result.official) is not None]
    return float(np.mean(scores)) if results and len(scores) == len(results) else None


def _mean(results: Sequence[Result]) -> dict[str, Any]:
    official = official_mean(results)
    found: dict[str, Any] = {"score": float(np.mean([result.score for result in results])), "tasks": len(results)}
    return found if official is None else found | {"official": official}


# How near a query is to candidates, as the model itself compares its vectors: by the cosine, unless its card says
# otherwise.
#
# Many sentence-transformers models (CLIP's, the older MiniLM's) give vectors of any length and leave it to the
# similarity to take it out; a product of such vectors would rank long candidates first.

_ONE = 1e-5  # what float32 leaves of a length that is 1


def similarity_of(engine: Any) -> str:
    """Return the name of a model's similarity. Vectors of a server have length 1, and so have those of a model that cannot know."""
    sentence = getattr(engine, "sentence", None)
    return "cosine" if sentence is None else str(sentence.similarity_fn_name)


def prepare_vectors(vectors: Any, similarity: str) -> Any:
    """Return vectors ready for `scores`; a vector that is zero stays so, and one that is no vector, too."""
    if similarity != "cosine" or not len(vectors):
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if np.allclose(lengths[lengths > 0], 1.0, rtol=0.0, atol=_ONE):
        return vectors
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), np.float32)


def scores_between(query: Vectors, candidates: Any, similarity: str) -> Vectors:
    """Return how near each candidate is to a query: the more, the nearer."""
    if isinstance(candidates, MultiVectors):
        return candidates.maxsim(query)
    if similarity in ("euclidean", "manhattan"):
        gaps = np.linalg.norm(candidates - query, ord=2 if similarity == "euclidean" else 1, axis=1)
        return np.asarray(-gaps, np.float32)
    return np.asarray(candidates @ query, np.float32)


# What an evaluation leaves: `results.json`, and beside it the outcome of every item, by which two models are compared
# pair by pair.

ITEMS = ".items.parquet"
_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("item", pa.string()),
        ("places", pa.list_(pa.int32())),
        ("size", pa.int32()),
        ("tied", pa.bool_()),
        ("about", pa.list_(pa.string())),
        ("score", pa.float64()),
    ]
)


def items_path(path: Path) -> Path:
    """Return the path of the items of a results file."""
    return path.with_name(f"{path.stem}{ITEMS}")


def collect_results(suite: str, model: str, fingerprint: str, settings: Mapping[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """Put results together as `results.json` has them."""
    groups, mean = means(results)
    tasks = {result.name: result.entry() for result in results}
    official = official_mean(results)
    return {
        "suite": suite,
        "model": model,
        "fingerprint": fingerprint,
        "settings": dict(settings),
        "tasks": tasks,
        "groups": groups,
        "mean": mean,
    } | ({} if official is None else {"official_mean": official})


def write_results(path: Path, found: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Write items, then results: if the second file exists, so does the first."""
    rows = [{"task": result.name} | row for result in results for row in result.rows()]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), buffer)
    write_whole(items_path(path), buffer.getvalue())
    write_whole(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


class Kept(NamedTuple):
    """What is kept of an item: the places of its right candidates, how many candidates it has, and marks of what it is about.

    A `score` is stored where the ranks alone do not give it (mteb has graded candidates).
    """

    places: tuple[int, ...]
    size: int
    about: tuple[str, ...]
    score: float | None = None


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Kept]]]:
    """Return a results file, and its items: task -> item -> what is kept of it."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = pq.read_table(items_path(path)).to_pylist()
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename or path} is not there; results and their items are written by twoway evaluate") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not a results file of twoway evaluate ({error})") from error
    if not isinstance(found, dict) or "tasks" not in found:
        raise UsageError(f"{path} is not a results file of twoway evaluate: it has no tasks")
    items: dict[str, dict[str, Kept]] = {}
    for row in rows:
        # Results of before there were marks: each item stands for itself.
        kept = Kept(tuple(row["places"]), row["size"], tuple(row.get("about") or ()), row.get("score"))
        items.setdefault(row["task"], {})[row["item"]] = kept
    return found, items
