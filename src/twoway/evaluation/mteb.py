"""mteb: our engine as its model, its tasks by name, and one task on one model."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import datasets
import mteb
import numpy as np
from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores, mrr
from mteb.abstasks import AbsTaskRetrieval
from mteb.cli import main as mteb_main
from mteb.models import SearchEncoderWrapper
from mteb.models.abs_encoder import AbsEncoder, get_prompt
from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.similarity_functions import cos_sim

from twoway.config import gather, takes
from twoway.content import KINDS, ContentError, Document, Part, Place, Text
from twoway.embedding.config import OpenManyConfig
from twoway.embedding.inputs import prompt_of
from twoway.embedding.opening import open_engine
from twoway.errors import TwowayError, UsageError, did_you_mean

from .cache import VectorSource
from .config import DRAWS, MtebConfig, vectors_folder
from .metrics import Chance, drawn_means

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from .cache import Engine
    from .tasks import Side

    Rankings = Mapping[str, Mapping[str, float]]  # query -> candidate -> score
    Floats = NDArray[np.float64]
    Outcome = Sequence[tuple[int, Sequence[int]]]  # of each query: number of candidates, how right the right ones are

log = logging.getLogger(__name__)


# A model for mteb around our engine: batches by cost, every content embedded once, vectors cached on disk.
#
# It implements mteb's protocols (`EncoderProtocol` and `SearchProtocol`) and, where a score depends on it, follows
# mteb's own wrapper of sentence-transformers: the choice of prompts, the columns of a row that count, the similarity,
# the search. So the scores are those of that wrapper. The differences are the last bits of a vector (other batches),
# and that equal contents get equal vectors here: mteb's order of two candidates with the same content is then that of
# their ids, and not noise.


class MtebModel(AbsEncoder):  # type: ignore[misc]
    """Vectors of one model for mteb; `meta` describes the model."""

    def __init__(self, vectors: VectorSource, meta: Any) -> None:
        self.vectors, self.mteb_model_meta = vectors, meta
        self.model = getattr(vectors.engine, "sentence", None)
        prompts = {name: text for name, text in getattr(self.model, "prompts", {}).items() if text}
        self.model_prompts = self.validate_task_to_prompt_name(prompts, raise_for_invalid_keys=False)[0]
        self.rankings: dict[tuple[str, str], Rankings] = {}  # (split, subset) -> what the last search found
        self._search: Any = None

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **kwargs: Any
    ) -> NDArray[Any]:
        """Return the vectors of what a loader holds, as rows."""
        if kwargs.get("precision") not in (None, "float32"):
            raise UsageError(f"precision {kwargs['precision']!r} is not for this model: its vectors are float32")
        side: Side | None = None if prompt_type is None else prompt_type.value
        what = {"query": "queries", "document": "candidates"}.get(str(side), "inputs")
        place = f"mteb:{task_metadata.name}/{hf_split}" + (f"/{hf_subset}" if hf_subset != "default" else "") + f" {what}"
        rows = loader_documents(inputs, self.mteb_model_meta.modalities, place)
        bad: dict[int, Any] = {}
        prompt = self._instruction(get_prompt(self.model_prompts, task_metadata, prompt_type), side)
        found: NDArray[Any] = self.vectors(rows, side, f"{task_metadata.name}: {what}", bad, prompt=prompt)
        if bad:
            raise bad[min(bad)]
        return found

    def _instruction(self, prompt: str | None, side: Side | None) -> str | None:
        """Return a prompt that the engine would not find by itself; one that it would shares its vectors with all suites."""
        return None if not prompt or prompt == prompt_of(self.model, side=side) else prompt

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each with each, as the model measures it."""
        compare = getattr(self.model, "similarity", None) or cos_sim
        return compare(embeddings1, embeddings2)

    def index(self, corpus: Any, **kwargs: Any) -> None:
        """Take the candidates of a search."""
        self._search = SearchEncoderWrapper(self)
        self._search.index(corpus, **kwargs)

    def search(self, queries: Any, **kwargs: Any) -> Rankings:
        """Return the best candidates of each query with their scores, and keep them: they are the outcomes of a task's items."""
        found: Rankings = self._search.search(queries, **kwargs)
        self.rankings[kwargs["hf_split"], kwargs["hf_subset"]] = found
        return found


# mteb's batches as documents: the columns of a row in their order, one part each, pictures, videos and sounds as the
# bytes of their file.
#
# mteb passes a model a loader of batches with every picture decoded. If a loader is based on a table of `datasets`,
# the rows are read from that table instead, when they are needed and undecoded, so that a corpus of pages is never in
# memory and each row is identified by its content. Which columns count, and their order, is as in mteb's own wrapper.
# An empty text is kept: mteb's wrapper embeds it, too.

_READ_AT_ONCE = 64


class TableDocuments(Sequence[Document]):
    """The rows of a table as documents, made again on each iteration."""

    def __init__(self, table: Any, columns: Sequence[str], place: str) -> None:
        self.place = place
        # In the table's order: it is the order of the parts.
        self.table = table.select_columns([name for name in table.column_names if name in columns])
        for name, kind in self.table.features.items():
            if isinstance(kind, datasets.Image | datasets.Audio | datasets.Video):
                self.table = self.table.cast_column(name, type(kind)(decode=False))

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, at: int) -> Document: ...
    @overload
    def __getitem__(self, at: slice) -> list[Document]: ...
    def __getitem__(self, at: int | slice) -> Document | list[Document]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        return document(self.table[at], Place(self.place, at + 1))

    def __iter__(self) -> Iterator[Document]:
        number = 0
        for batch in self.table.iter(batch_size=_READ_AT_ONCE):
            for row in _rows(batch):
                number += 1
                yield document(row, Place(self.place, number))


def loader_documents(loader: Any, modalities: Sequence[str], place: str) -> Sequence[Document]:
    """Return what a loader of mteb holds; `modalities` are those that the model takes."""
    table = loader.dataset
    names = getattr(table, "column_names", None) or list(getattr(table, "features", ()))
    if not any(name in modalities for name in names):
        raise TwowayError(f"{place}: nothing that the model takes ({', '.join(modalities)}) is among its columns: {', '.join(names)}")
    if isinstance(table, datasets.Dataset) and table.format["type"] is None:
        return TableDocuments(table, modalities, place)
    found: list[Document] = []
    for batch in loader:
        kept = {name: values for name, values in batch.items() if name in modalities}
        found += [document(row, Place(place, len(found) + number)) for number, row in enumerate(_rows(kept), 1)]
    return found


def document(row: Mapping[str, Any], place: Place) -> Document:
    """Return one row as a document; a column that holds a list gives a part for each of its values."""
    if not {"video", "audio"}.isdisjoint(row):  # mteb's collators of these put a row into this order
        row = {name: row[name] for name in ("text", "image", "video", "audio") if name in row}
    parts: list[Part] = []
    for name, value in row.items():
        several = value if isinstance(value, list | tuple) else [value]
        parts += [_part(name, one, place) for one in several]
    return Document(tuple(parts), place)


def _part(name: str, value: Any, place: Place) -> Part:
    if name == "text":
        if not isinstance(value, str):
            raise ContentError(f"the text is a {type(value).__name__}, not a string", place)
        return Text(value)
    source = value
    if isinstance(value, dict) and "array" not in value:  # as `datasets` keeps it: its bytes, or the path of its file
        source = value.get("bytes") or value.get("path")
    if source is None or (isinstance(value, str) and source is value):  # a text is no path
        raise ContentError(f"the row has no {name} where one should be (found {type(value).__name__})", place)
    return Document.from_parts([{name: source}], place=place).media[0]


def _rows(batch: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(batch, values, strict=True))


# What a model is, in mteb's words (`ModelMeta`): what it takes, how long its vectors are, its size and memory,
# whether it has prompts.

_MEBI = 1 << 20
_FRAMEWORK = ["Sentence Transformers", "PyTorch"]


def model_meta(engine: Engine, *, name: str, revision: str, loader: Any = None) -> ModelMeta:
    """Describe an opened model; `revision` is its fingerprint, or the beginning of it."""
    known: dict[str, Any] = {
        # mteb files results under a name of two parts.
        "name": name if "/" in name else f"twoway/{name}",
        "revision": revision,
        "loader": loader,
        "embed_dim": engine.dimension,
        "modalities": modalities(engine),
        "similarity_fn_name": ScoringFunction.COSINE,
    }
    sentence = getattr(engine, "sentence", None)
    if sentence is not None:
        parameters = list(sentence.parameters())
        table = _embeddings(sentence)
        known |= {
            "similarity_fn_name": ScoringFunction.from_str(sentence.similarity_fn_name),
            "max_tokens": sentence.max_seq_length,
            "n_parameters": sum(one.numel() for one in parameters),
            "n_embedding_parameters": None if table is None else int(table.weight.numel()),
            "memory_usage_mb": round(sum(one.numel() * one.element_size() for one in parameters) / _MEBI, 1),
            "use_instructions": any(sentence.prompts.values()),
            "framework": _FRAMEWORK,
            "open_weights": True,
        }
    return ModelMeta.create_empty(known)


def modalities(engine: Engine) -> list[str]:
    """Return what a model takes of what mteb knows."""
    inputs = getattr(engine, "inputs", None)
    return ["image", "text"] if inputs is None else sorted({"text"} | set(KINDS) & inputs.single)


def _embeddings(sentence: Any) -> Any:
    """Return the table of token embeddings, if the first module has one."""
    model = getattr(sentence[0], "auto_model", None)
    return model.get_input_embeddings() if model is not None and hasattr(model, "get_input_embeddings") else None


# Pass a model to mteb: as an object for its Python functions, or by its name for its command line.
#
# mteb's command opens names of its registry or of the hub; a folder ends in "No model implementation is available",
# because mteb looks a name up on the hub and makes an empty entry if it finds none. It has no hook for other models,
# so an entry is added to its registry, in the process that then runs mteb's own command.

_REVISION = 16  # last digits of the fingerprint; a server's end in those of its vectors


@takes(MtebConfig)
def mteb_model(model: Any, *, config: MtebConfig | None = None, **options: Any) -> MtebModel:
    """Open a model for `mteb.evaluate`; `options` are the settings of `MtebConfig`."""
    config = gather(MtebConfig, config, options, mteb_model)
    engine = open_engine(model, config=OpenManyConfig(**config.opening()))
    vectors = VectorSource(engine, vectors_folder(config.cache_dir))
    name = Path(engine.name).name if Path(engine.name).is_dir() else engine.name
    return MtebModel(vectors, model_meta(engine, name=name or "model", revision=vectors.fingerprint[-_REVISION:]))


def register(model: str, config: MtebConfig) -> None:
    """Open a model and put it into mteb's registry under its name as it is written; what mteb has itself is left to it."""
    if model in MODEL_REGISTRY:
        return
    opened = mteb_model(model, config=config)

    def load(*_: Any, **__: Any) -> MtebModel:
        return opened

    meta = opened.mteb_model_meta
    # Its command opens a model of videos or sounds only where its own decoder is installed (`mteb[audio,video]`).
    there = meta.modalities if find_spec("torchcodec") else [one for one in meta.modalities if one in ("text", "image")]
    MODEL_REGISTRY[model] = meta.model_copy(update={"loader": load, "modalities": there})


def mteb_command(words: Sequence[str], config: MtebConfig) -> None:
    """Run mteb's own command with these words, its model registered."""
    model = named_model(words)
    if model is not None:
        register(model, config)
    before = sys.argv
    sys.argv = ["mteb", *words]
    try:
        mteb_main()
    finally:
        sys.argv = before


def named_model(words: Sequence[str]) -> str | None:
    """Return the model among mteb's words."""
    for number, word in enumerate(words):
        name, sign, value = word.partition("=")
        if name in ("-m", "--model"):
            return value if sign else (words[number + 1] if number + 1 < len(words) else None)
    return None


# One task of mteb on one model: the score is mteb's own; for a search, what each query came to is kept beside.
#
# Queries are only kept where their mean is the score that mteb gives, so what `compare` draws from is what the table
# shows. mteb averages over the subsets of a task (languages mostly), and so do the interval and chance.

BATCH = 32  # rows that mteb's loader reads at once; the engine makes batches of its own
_ROUNDED = 1e-5  # mteb rounds to five digits
# mteb's name of a metric -> the one under which the scores of single queries stand.
_OF_QUERIES = {"ndcg": "ndcg_cut_", "map": "map_cut_", "recall": "recall_", "precision": "P_", "hit_rate": "success_"}


@dataclass(frozen=True)
class QueryOutcome:
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
    asked: Mapping[tuple[str, str], Mapping[str, QueryOutcome]] = field(default_factory=dict)  # (split, subset) -> query -> what it came to
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
        """Return the task's entry in `results.json`; what mteb does not report for single items is null."""
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


def run_mteb_task(task: MtebTask, model: MtebModel) -> MtebResult:
    """Have mteb evaluate the model on a task."""
    model.rankings.clear()
    load_task(task)
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
        log.warning("%s: mteb's %s is not a mean over queries, so no single query is kept", task.name, result.metric)
        return MtebResult(task, found, {}, lost)
    return result


def _queries(task: Any, ranking: Mapping[str, Mapping[str, float]], data: Any) -> dict[str, QueryOutcome]:
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
        found[query] = QueryOutcome(score, places, tuple(right.values()), size, tied)
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
    """Disable the progress bars of `datasets`: mteb prepares every table again for every search."""
    were = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were:
            datasets.enable_progress_bars()


# mteb's tasks by name, and the data of one prepared: loaded, checked, a subset drawn.
#
# mteb scores what it gets: a right page that is not in the corpus silently lowers the score, and an empty task is a
# division by zero. Here the first is counted, reported and written into the results, and the second is an error.

VIDORE_V2 = "ViDoRe(v2)"


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


def open_mteb_tasks(name: str, chosen: Sequence[str] = ()) -> list[MtebTask]:
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
    return [MtebTask(task) for task in tasks if not chosen or task.metadata.name in chosen]


def load_task(found: MtebTask) -> None:
    """Load the data of a task, which mteb fetches from the hub, and check it."""
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


# The score of chance in a search of mteb's: candidates may be graded, and there may be many of each grade.
#
# Only the top of a random ranking counts, so only that is drawn: at each rank a right candidate comes with the
# probability that one is left for it, and which one is drawn without replacement.


def search_chance(metric: str, groups: Iterable[Outcome], *, draws: int = DRAWS) -> Chance | None:
    """Rank at random: the mean over groups of the mean over their queries; nothing for a metric that is not drawn here."""
    name, _, cut = metric.partition("@")
    score = {"ndcg": _ndcg, "recall": _recall, "precision": _precision, "mrr": _mrr, "hit_rate": _hit}.get(name)
    if score is None or not cut.isdigit():
        return None
    random = np.random.default_rng(0)
    means = []
    for asked in groups:
        total = np.zeros(draws)
        for size, gains in asked:
            if not gains:
                continue  # mteb counts a query without a right candidate as not found, and so does luck
            ordered = np.array(sorted(gains, reverse=True), dtype=np.float64)
            total += score(_top(ordered, size, min(int(cut), size), random, draws), ordered, int(cut))
        means.append(total / max(len(asked), 1))
    drawn = np.mean(means, axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Chance(float(drawn.mean()), float(low), float(high))


def _top(gains: Floats, size: int, cut: int, random: np.random.Generator, draws: int) -> Floats:
    """Draw the first places of random rankings: draws x places, how right the candidate there is."""
    order = random.permuted(np.tile(gains, (draws, 1)), axis=1)
    met = np.zeros(draws, dtype=np.int64)
    found = np.zeros((draws, cut))
    every = np.arange(draws)
    for place in range(cut):
        right = random.random(draws) * (size - place) < len(gains) - met
        found[right, place] = order[every[right], met[right]]
        met += right
    return found


def _discount(count: int) -> Floats:
    return 1.0 / np.log2(np.arange(2, count + 2))


def _ndcg(top: Floats, gains: Floats, cut: int) -> Floats:
    ideal = float(gains[:cut] @ _discount(len(gains[:cut])))
    return np.asarray(top @ _discount(top.shape[1]) / ideal)


def _recall(top: Floats, gains: Floats, cut: int) -> Floats:
    del cut
    return np.asarray((top > 0).sum(axis=1) / len(gains))


def _precision(top: Floats, gains: Floats, cut: int) -> Floats:
    del gains
    return np.asarray((top > 0).sum(axis=1) / cut)


def _hit(top: Floats, gains: Floats, cut: int) -> Floats:
    del gains, cut
    return np.asarray((top > 0).any(axis=1).astype(np.float64))


def _mrr(top: Floats, gains: Floats, cut: int) -> Floats:
    del gains, cut
    hits = top > 0
    return np.where(hits.any(axis=1), 1.0 / (1 + hits.argmax(axis=1)), 0.0)
