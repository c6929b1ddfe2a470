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
from torch.nn import functional

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
    from twoway.methods.model import PreparedModel

    from .config import FinetuneConfig
    from .data import EvalRows, FinetuneData
    from .step import ContrastiveModule

log = logging.getLogger(__name__)

BEST = "best"
_CASES = 2  # queries shown of each task, and as many of its worst


def best_weights(out: Path, config: FinetuneConfig) -> Path | None:
    """Return the folder of the best weights, where they are to become the model."""
    return out / BEST if config.load_best_model_at_end and (out / BEST).exists() else None


class RetrievalCallback(Callback):
    """Measures retrieval, keeps the best weights, and keeps `report.html` up to date."""

    def __init__(self, prepared: PreparedModel[ContrastiveModule], data: FinetuneData, config: FinetuneConfig, out: Path) -> None:
        self.prepared, self.data, self.config, self.out = prepared, data, config, out
        self.contents: FinetuneReport | None = None  # at the last evaluation of this process

    def on_evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """Measure, keep the weights where they are the best so far, and write the report."""
        found = measure_retrieval(
            trainer.module, self.data, device=trainer.ranks.device, autocast=trainer.config.dtype == "bfloat16", cases=_CASES
        )
        entry: dict[str, Any] = retrieval_entry(found)
        if found:
            # Sources of their own are measured for this; held-out rows are the rows of the training's own sources.
            name = found[-1].eval_rows.name
            if trainer.step:
                self._keep(trainer, name, entry[f"mrr/{name}"])
        if trainer.ranks.is_main_process:
            self.contents = FinetuneReport(trainer.total_steps, self.data.epochs.report(), found)
            if trainer.step < trainer.total_steps:
                write_report(self.out, self.contents, {"step": trainer.step, **entry})
        return entry

    def on_train_end(self, trainer: Trainer) -> None:
        """Write the report of the whole run, once the last step stands in the log."""
        if self.contents is not None:
            write_report(self.out, self.contents, None)

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
    candidates: int
    cases: list[RetrievalCase] = field(default_factory=list)

    @property
    def ranks(self) -> list[int]:
        """Return the rank of each query's best right answer."""
        return [one.places[0] for one in self.outcomes]

    def chance(self) -> float:
        """Return the MRR of random rankings of the same answers."""
        return chance("mrr", [self.candidates] * len(self.outcomes), [len(one.places) for one in self.outcomes]).mean

    def numbers(self) -> dict[str, float]:
        """Return what goes into the log."""
        name = f"{self.eval_rows.name}/{self.eval_rows.task}"
        shares = {f"recall{at}/{name}": round(fmean(rank <= at for rank in self.ranks), 6) for at in (1, 10)}
        return {f"mrr/{name}": round(float(values("mrr", self.outcomes).mean()), 6), **shares}


@dataclass(frozen=True)
class EvalVectors:
    """The unit vectors of some rows: one for each query and one for each different answer."""

    queries: torch.Tensor
    answers: torch.Tensor
    documents: list[Document]  # of the answers
    right: torch.Tensor  # (queries, answers)
    rows: list[Pair]


def measure_retrieval(task: Any, data: FinetuneData, *, device: torch.device, autocast: bool, cases: int = 0) -> list[Retrieval]:
    """Measure every task of every set; with `cases`, some queries of each with what they found."""
    found = []
    with evaluating(task):
        for measured in data.eval_rows:
            vectors = _vectors(task, data, measured, device, autocast)
            if vectors is not None:
                found.append(_measure_retrieval(measured, vectors, cases))
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


def _vectors(task: Any, data: FinetuneData, measured: EvalRows, device: torch.device, autocast: bool) -> EvalVectors | None:
    """Embed the rows of one task of one set."""
    rows: list[Pair] = []
    queries: list[torch.Tensor] = []
    answers: dict[int, torch.Tensor] = {}
    documents: dict[int, Document] = {}
    keys: list[tuple[int, tuple[int, ...]]] = []
    for examples in _read(data, measured):
        made = data.collate([example for _, example in examples])
        vectors = _embed(task, made, device, autocast)
        for place, (pair, example) in enumerate(examples):
            rows.append(pair)
            queries.append(vectors[made["queries"][place]])
            keys.append((example.query.key, example.answers))
            answers.setdefault(example.positive.key, vectors[made["candidates"][place]])
            documents.setdefault(example.positive.key, pair.positive)
    if not rows:
        return None
    right: dict[int, set[int]] = {}
    for asked, answered in keys:
        right.setdefault(asked, set()).update(answered)
    mask = torch.tensor([[answer in right[asked] for answer in answers] for asked, _ in keys])
    return EvalVectors(torch.stack(queries), torch.stack(list(answers.values())), list(documents.values()), mask, rows)


def _read(data: FinetuneData, measured: EvalRows) -> Iterator[list[tuple[Pair, Any]]]:
    """Read and encode the rows, a few at a time, hard negatives left aside; the policy decides about bad rows, as in training."""
    for start in range(0, len(measured.rows), _AT_ONCE):
        examples = []
        for row in measured.rows[start : start + _AT_ONCE]:
            try:
                identity, pair = measured.pairs.read(int(row))
                examples.append((pair, data.encode.without_negatives((identity, pair), epoch=_EPOCH)))
            except ContentError as error:
                data.loader.policy.refuse(error)
        if examples:
            yield examples


def _embed(task: Any, batch: dict[str, Any], device: torch.device, autocast: bool) -> torch.Tensor:
    """Return the unit vectors of a batch's contents, on the CPU."""
    vectors: torch.Tensor | None = None
    for chunk in batch["chunks"]:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            made = functional.normalize(task.predict(to_device(dict(chunk["inputs"]), device)).float(), dim=-1).cpu()
        if vectors is None:
            vectors = torch.zeros(batch["contents"], made.shape[1])
        vectors[chunk["items"]] = made
    assert vectors is not None
    return vectors


def _measure_retrieval(measured: EvalRows, vectors: EvalVectors, cases: int) -> Retrieval:
    """Rank the answers of each query."""
    scores = vectors.queries @ vectors.answers.T
    found = [outcome(row.numpy(), right.nonzero()[:, 0].tolist()) for row, right in zip(scores, vectors.right, strict=True)]
    return Retrieval(measured, found, len(vectors.documents), _cases(measured, vectors, scores, [one.places[0] for one in found], cases))


def _cases(measured: EvalRows, vectors: EvalVectors, scores: torch.Tensor, ranks: list[int], count: int) -> list[RetrievalCase]:
    """Return the first queries, and after them the worst ones."""
    order = list(range(min(count, len(ranks))))
    order += [number for number in sorted(range(len(ranks)), key=lambda one: -ranks[one]) if number not in order][:count]
    made = []
    for place, number in enumerate(order):
        top = torch.argsort(scores[number], descending=True, stable=True)[:3].tolist()
        best = int(scores[number].masked_fill(~vectors.right[number], -torch.inf).argmax())
        made.append(
            RetrievalCase(
                measured.task,
                vectors.rows[number].query,
                [(float(scores[number, one]), vectors.documents[one], bool(vectors.right[number, one])) for one in top],
                (float(scores[number, best]), vectors.documents[best]),
                ranks[number],
                place >= count,
            )
        )
    return made


# The report: curves by task, and what queries find, as pictures and words.

_CURVES = 4  # of a chart: more cannot be told apart by colour


@dataclass(frozen=True)
class FinetuneReport:
    """What a report shows beside the log: the tasks of an epoch, and what was retrieved at this moment."""

    total: int
    tasks: Sequence[dict[str, Any]] = ()
    found: Sequence[Retrieval] = field(default_factory=list)


def write_report(out: Path, contents: FinetuneReport, latest: dict[str, Any] | None) -> None:
    """Write the report of the run in `out`; `latest` is an entry that is not in its log yet."""
    log = read_entries(out, latest)
    sets = list(dict.fromkeys(one.eval_rows.name for one in contents.found))
    # Of sources of their own where there are some: held-out rows are of the sources that are trained on.
    cases = [case for one in contents.found if one.eval_rows.name == sets[-1] for case in one.cases]
    worst = sorted((case for case in cases if case.rank > 1), key=lambda case: -case.rank)
    write_run_report(
        out,
        "methods/finetune/report.html",
        "Fine-tuning",
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
    return [one.eval_rows.name, one.eval_rows.task, len(one.ranks), one.eval_rows.total, one.candidates, one.chance(), *numbers]


def _case_documents(case: RetrievalCase) -> list[CaseDocument]:
    documents = [CaseDocument(f"query · {case.task}", case.query)]
    documents += [CaseDocument(f"{number}. {score:.3f}", document, right) for number, (score, document, right) in enumerate(case.found, 1)]
    if not any(right for _, _, right in case.found):
        documents.append(CaseDocument(f"right, at {case.rank}. {case.right[0]:.3f}", case.right[1], right=True))
    return documents
