"""What `finetune` measures on the way: retrieval on held-out rows and on sources of their own; the best weights are kept, and a report."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from twoway.content import ContentError
from twoway.evaluation.metrics import chance, outcome, values
from twoway.reports.charts import Curve, line_chart
from twoway.reports.page import CaseDocument
from twoway.reports.training import log_curve, read_entries, write_run_report
from twoway.training.checkpointing import STATE, WEIGHTS, with_group, write_checkpoint
from twoway.training.module import to_device
from twoway.training.probes import evaluating
from twoway.training.trainer import Callback, Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from twoway.content import Document, Pair
    from twoway.evaluation.metrics import Outcome
    from twoway.methods.config import PairsConfig
    from twoway.methods.model import PreparedModel
    from twoway.training.module import TrainingModule

    from .data import EvalRows, PairData

log = logging.getLogger(__name__)

BEST = "best"
_CASES = 2  # queries shown of each task, and as many of its worst


def best_weights(out: Path, config: PairsConfig) -> Path | None:
    """Return the folder of the best weights, where they are to become the model."""
    return out / BEST if config.load_best_model_at_end and (out / BEST).exists() else None


class RetrievalCallback(Callback):
    """Measures retrieval, keeps the best weights, and keeps `report.html` up to date."""

    title, template = "Fine-tuning", "methods/finetune/report.html"

    def __init__(self, prepared: PreparedModel[TrainingModule], data: PairData, config: PairsConfig, out: Path) -> None:
        self.prepared, self.data, self.config, self.out = prepared, data, config, out
        self.contents: FinetuneReport | None = None  # at the last evaluation of this process

    def measure(self, trainer: Trainer) -> list[Retrieval]:
        """Measure every task of every set, with some queries of each and what they found."""
        autocast = trainer.config.dtype == "bfloat16"
        return measure_retrieval(trainer.module, self.data, device=trainer.ranks.device, autocast=autocast, cases=_CASES)

    def on_evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """Measure, keep the weights where they are the best so far, and write the report."""
        found = self.measure(trainer)
        entry: dict[str, Any] = retrieval_entry(found)
        if found:
            # Sources of their own are measured for this; held-out rows are the rows of the training's own sources.
            name = found[-1].eval_rows.name
            if trainer.step:
                self._keep(trainer, name, entry[f"mrr/{name}"])
        if trainer.ranks.is_main_process:
            self.contents = FinetuneReport(trainer.total_steps, self.data.epochs.report(), found)
            if trainer.step < trainer.total_steps:
                self.write_report({"step": trainer.step, **entry})
        return entry

    def on_train_end(self, trainer: Trainer) -> None:
        """Write the report of the whole run, once the last step stands in the log."""
        if self.contents is not None:
            self.write_report(None)

    def write_report(self, latest: dict[str, Any] | None) -> None:
        """Write the report; `latest` is an entry that is not in the log yet."""
        assert self.contents is not None
        write_report(self.out, self.contents, latest, title=self.title, template=self.template)

    def _keep(self, trainer: Trainer, name: str, score: float) -> None:
        """Write the weights beside the checkpoints where none that stand there did better on the same rows; every rank takes part."""
        place, none = self.out / BEST, {"score": -math.inf, "step": 0}
        best = json.loads((place / STATE).read_text(encoding="utf-8")) if (place / STATE).exists() else none
        rows = self._rows(name)
        if best is not none and best.get("rows") != rows:
            if trainer.ranks.is_main_process:
                said = (
                    "%s: the best weights so far, of step %d, were measured on other rows, so the best is looked for anew from step %d on"
                )
                log.warning(said, place, best["step"], trainer.step)
            best = none
        if not all(trainer.ranks.all_gather_object(score > best["score"] or (score == best["score"] and trainer.step <= best["step"]))):
            return
        write_checkpoint(
            place, with_group(WEIGHTS, trainer.parameters), {"step": trainer.step, "score": score, "rows": rows}, trainer.ranks
        )

    def _rows(self, name: str) -> str:
        """Return a hash of the rows that a set is measured on: scores on other rows are not to be compared."""
        said = [[one.task, one.rows.tolist(), one.pairs.digest()] for one in self.data.eval_rows if one.name == name]
        return hashlib.sha256(json.dumps([name, said], default=str).encode()).hexdigest()[:16]


# Retrieval on the way: each query of a small set looks for its answer among all answers of its task and set.
#
# Answers of one content count once, and a query that stands in several rows has several right ones. Its rank is that
# of its best right answer, and recall says how many ranks are within the first so many. Ties are ranked as
# `evaluation.scores` does. These are small pools: their numbers are for comparing steps of a run, and the sizes stand
# beside them.
#
# Training notices nothing, and every rank measures all rows, as in `training.probes`.

_AT_ONCE = 32
_EPOCH = 0


@dataclass(frozen=True)
class RetrievalCase:
    """One query with what it found: (score, document, whether it is right) from the first on, and its best right answer."""

    task: str
    query: Document
    found: list[tuple[float, Document, bool]]
    right: tuple[float, Document]
    rank: int
    worst: bool  # chosen because its answer is far down the list


@dataclass(frozen=True)
class Retrieval:
    """How one task of one set did."""

    eval_rows: EvalRows
    outcomes: list[Outcome]
    sizes: list[int]  # answers that each query is compared with
    cases: list[RetrievalCase] = field(default_factory=list)

    @property
    def ranks(self) -> list[int]:
        """Return the rank of each query's best right answer."""
        return [one.places[0] for one in self.outcomes]

    def chance(self) -> float:
        """Return the MRR of random rankings of the same answers."""
        return chance("mrr", self.sizes, [len(one.places) for one in self.outcomes]).mean

    def numbers(self) -> dict[str, float]:
        """Return what goes into the log."""
        name = f"{self.eval_rows.name}/{self.eval_rows.task}"
        shares = {f"recall{at}/{name}": round(fmean(rank <= at for rank in self.ranks), 6) for at in (1, 10)}
        return {f"mrr/{name}": round(float(values("mrr", self.outcomes).mean()), 6), **shares}


@dataclass(frozen=True)
class RankedAnswers:
    """One query with the score of each answer that it is compared with, and which of them are right."""

    query: Document
    answers: Sequence[Document]
    scores: torch.Tensor
    right: torch.Tensor


def measure_retrieval(task: Any, data: PairData, *, device: torch.device, autocast: bool, cases: int = 0) -> list[Retrieval]:
    """Measure every task of every set; with `cases`, some queries of each with what they found."""
    found = []
    with evaluating(task):
        for measured in data.eval_rows:
            ranked = _rank(task, data, measured, device, autocast)
            if ranked:
                found.append(summarize(measured, ranked, cases))
    return found


def retrieval_entry(found: Sequence[Retrieval]) -> dict[str, float]:
    """Return the numbers of all tasks, and for each set the mean over its tasks."""
    entry: dict[str, float] = {}
    for name in dict.fromkeys(one.eval_rows.name for one in found):
        own = [one.numbers() for one in found if one.eval_rows.name == name]
        for kind in ("mrr", "recall1", "recall10"):
            values = [value for numbers in own for key, value in numbers.items() if key.startswith(f"{kind}/")]
            entry[f"{kind}/{name}"] = round(sum(values) / len(values), 6)
        entry[f"queries/{name}"] = sum(len(one.ranks) for one in found if one.eval_rows.name == name)
    for one in found:
        entry |= one.numbers()
    return entry


def _rank(task: Any, data: PairData, measured: EvalRows, device: torch.device, autocast: bool) -> list[RankedAnswers]:
    """Embed the rows of one task of one set, and compare each query with all answers."""
    rows: list[Pair] = []
    queries: list[torch.Tensor] = []  # the vectors of each
    answers: dict[int, torch.Tensor] = {}
    documents: dict[int, Document] = {}
    keys: list[tuple[int, tuple[int, ...]]] = []
    for examples in read_examples(data, measured):
        made = data.collate([example for _, example in examples])
        vectors = predict_contents(task, made, device, autocast)
        for place, (pair, example) in enumerate(examples):
            rows.append(pair)
            queries.append(vectors[made["queries"][place]])
            keys.append((example.query.key, example.answers))
            answers.setdefault(example.positive.key, vectors[made["candidates"][place]])
            documents.setdefault(example.positive.key, pair.positive)
    if not rows:
        return []
    right: dict[int, set[int]] = {}
    for asked, answered in keys:
        right.setdefault(asked, set()).update(answered)
    mask = torch.tensor([[answer in right[asked] for answer in answers] for asked, _ in keys])
    scores = task.similarity(queries, list(answers.values()))
    every = list(documents.values())
    return [RankedAnswers(pair.query, every, *one) for pair, *one in zip(rows, scores, mask, strict=True)]


def read_examples(data: PairData, measured: EvalRows) -> Iterator[list[tuple[Pair, Any]]]:
    """Read and encode the rows, a few at a time, as they are to be measured; the policy decides about bad rows, as in training."""
    for start in range(0, len(measured.rows), _AT_ONCE):
        examples = []
        for row in measured.rows[start : start + _AT_ONCE]:
            try:
                identity, pair = measured.pairs.read(int(row))
                examples.append((pair, data.encode.to_measure((identity, pair), epoch=_EPOCH)))
            except ContentError as error:
                data.loader.policy.refuse(error)
        if examples:
            yield examples


def predict_contents(task: Any, batch: dict[str, Any], device: torch.device, autocast: bool) -> list[torch.Tensor]:
    """Return what a model says of each of a batch's contents, on the CPU: the rows of a matrix, mostly one."""
    found: dict[int, torch.Tensor] = {}
    for chunk in batch["chunks"]:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            made = task.predict(to_device(dict(chunk["inputs"]), device)).float().cpu()
        found |= zip(chunk["items"].tolist(), torch.split(made, task.count_vectors(chunk["inputs"]).tolist()), strict=True)
    return [found[number] for number in range(batch["contents"])]


def summarize(measured: EvalRows, ranked: Sequence[RankedAnswers], cases: int) -> Retrieval:
    """Rank the answers of each query; with `cases`, show the first queries, and after them the worst ones."""
    found = [outcome(one.scores.numpy(), one.right.nonzero()[:, 0].tolist()) for one in ranked]
    ranks = [one.places[0] for one in found]
    order = list(range(min(cases, len(ranks))))
    order += [number for number in sorted(range(len(ranks)), key=lambda one: -ranks[one]) if number not in order][:cases]
    shown = [_case(measured.task, ranked[number], ranks[number], worst=place >= cases) for place, number in enumerate(order)]
    return Retrieval(measured, found, [len(one.answers) for one in ranked], shown)


def _case(task: str, one: RankedAnswers, rank: int, *, worst: bool) -> RetrievalCase:
    top = torch.argsort(one.scores, descending=True, stable=True)[:3].tolist()
    best = int(one.scores.masked_fill(~one.right, -torch.inf).argmax())
    found = [(float(one.scores[number]), one.answers[number], bool(one.right[number])) for number in top]
    return RetrievalCase(task, one.query, found, (float(one.scores[best]), one.answers[best]), rank, worst)


# The report: curves by task, and what queries find, as pictures and words.

_CURVES = 4  # of a chart: more cannot be told apart by colour


@dataclass(frozen=True)
class FinetuneReport:
    """What a report shows beside the log: the tasks of an epoch, and what was retrieved at this moment."""

    total: int
    tasks: Sequence[dict[str, Any]] = ()
    found: Sequence[Retrieval] = field(default_factory=list)


def write_report(out: Path, contents: FinetuneReport, latest: dict[str, Any] | None, *, title: str, template: str) -> None:
    """Write the report of the run in `out`; `latest` is an entry that is not in its log yet."""
    log = read_entries(out, latest)
    sets = list(dict.fromkeys(one.eval_rows.name for one in contents.found))
    # Of sources of their own where there are some: held-out rows are of the sources that are trained on.
    cases = [case for one in contents.found if one.eval_rows.name == sets[-1] for case in one.cases]
    worst = sorted((case for case in cases if case.rank > 1), key=lambda case: -case.rank)
    write_run_report(
        out,
        template,
        title,
        contents.total,
        log,
        scores=_first_and_last(log, sets),
        means=[_mean_chart(log, name, [one for one in contents.found if one.eval_rows.name == name]) for name in sets],
        by_task=[one for name in sets for one in _task_charts(log, f"mrr/{name}", f"MRR by task · {name}")],
        retrieved=[_retrieval_row(one) for one in contents.found],
        accuracy_by_task=_task_charts(log, "accuracy", "In-batch accuracy by task"),
        found=[_case_documents(case) for case in cases if not case.worst][:24],
        mistakes=[_case_documents(case) for case in worst[:8]],
        tasks=[list(task.values()) for task in contents.tasks],
    )


def _first_and_last(log: Sequence[dict[str, Any]], sets: Sequence[str]) -> list[tuple[str, str]]:
    """Return the MRR of each set now, and before the first step."""
    scores = {name: [entry[f"mrr/{name}"] for entry in log if f"mrr/{name}" in entry] for name in sets}
    return [(f"{values[-1]:.3f}", f"MRR on {name}; {values[0]:.3f} before") for name, values in scores.items()]


def _mean_chart(log: Sequence[dict[str, Any]], name: str, found: Sequence[Retrieval]) -> str:
    """Return the chart of a set's MRR over the steps, beside what a random ranking scores."""
    measured, random = log_curve(log, f"mrr/{name}", name), fmean(one.chance() for one in found)
    at_chance = Curve("chance", [(step, random) for step, _ in measured.points], dashed=True)
    return line_chart(f"Mean over the tasks of {name}", "MRR", [measured, at_chance])


def _task_charts(log: Sequence[dict[str, Any]], kind: str, title: str) -> list[str]:
    """Return charts of a few tasks each."""
    keys = list(dict.fromkeys(key for entry in log for key in entry if key.startswith(f"{kind}/")))
    curves = [log_curve(log, key, key.removeprefix(f"{kind}/")) for key in keys]
    return [line_chart(title, "", curves[start : start + _CURVES]) for start in range(0, len(curves), _CURVES)]


def _retrieval_row(one: Retrieval) -> list[object]:
    numbers = list(one.numbers().values())
    return [one.eval_rows.name, one.eval_rows.task, len(one.ranks), one.eval_rows.total, max(one.sizes), one.chance(), *numbers]


def _case_documents(case: RetrievalCase) -> list[CaseDocument]:
    documents = [CaseDocument(f"query · {case.task}", case.query)]
    documents += [CaseDocument(f"{number}. {score:.3f}", document, right) for number, (score, document, right) in enumerate(case.found, 1)]
    if not any(right for _, _, right in case.found):
        documents.append(CaseDocument(f"right, at {case.rank}. {case.right[0]:.3f}", case.right[1], right=True))
    return documents
