"""Retrieval on the way: each query of a small set looks for its answer among all answers of its task and set.

Answers of one content count once, and a query that stands in several rows has several right ones. Its rank is that of its best right
answer, and recall says how many ranks are within the first so many. Ties are ranked as `evaluation.scores` does. These are small pools:
their numbers are for comparing steps of a run, and the sizes stand beside them.

Training notices nothing, and every rank measures all rows, as in `training.probes`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from twoway.content import ContentError
from twoway.evaluation.scores import chance, outcome, values
from twoway.training.probes import undisturbed
from twoway.training.task import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from twoway.content import Document
    from twoway.data.pair_rows import PairRow
    from twoway.evaluation.scores import Outcome

    from .finetune_data import FinetuneData, Measured

_AT_ONCE = 32
_EPOCH = 0


@dataclass(frozen=True)
class Case:
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

    measured: Measured
    outcomes: list[Outcome]
    candidates: int
    cases: list[Case] = field(default_factory=list)

    @property
    def ranks(self) -> list[int]:
        """Return the rank of each query's best right answer."""
        return [one.places[0] for one in self.outcomes]

    def chance(self) -> float:
        """Return the MRR of random rankings of the same answers."""
        return chance("mrr", [self.candidates] * len(self.outcomes), [len(one.places) for one in self.outcomes]).mean

    def numbers(self) -> dict[str, float]:
        """Return what goes into the log."""
        name = f"{self.measured.name}/{self.measured.task}"
        shares = {f"recall{at}/{name}": round(fmean(rank <= at for rank in self.ranks), 6) for at in (1, 10)}
        return {f"mrr/{name}": round(float(values("mrr", self.outcomes).mean()), 6), **shares}


@dataclass(frozen=True)
class Vectors:
    """The unit vectors of some rows: one for each query and one for each different answer."""

    queries: torch.Tensor
    answers: torch.Tensor
    documents: list[Document]  # of the answers
    right: torch.Tensor  # (queries, answers)
    rows: list[PairRow]


def measure(task: Any, data: FinetuneData, *, device: torch.device, autocast: bool, cases: int = 0) -> list[Retrieval]:
    """Measure every task of every set; with `cases`, some queries of each with what they found."""
    found = []
    with undisturbed(task):
        for measured in data.measured:
            vectors = _vectors(task, data, measured, device, autocast)
            if vectors is not None:
                found.append(_retrieval(measured, vectors, cases))
    return found


def summary(found: Sequence[Retrieval]) -> dict[str, float]:
    """Return the numbers of all tasks, and for each set the mean over its tasks."""
    entry: dict[str, float] = {}
    for name in dict.fromkeys(one.measured.name for one in found):
        own = [one.numbers() for one in found if one.measured.name == name]
        for kind in ("mrr", "recall1", "recall10"):
            values = [value for numbers in own for key, value in numbers.items() if key.startswith(f"{kind}/")]
            entry[f"{kind}/{name}"] = round(sum(values) / len(values), 6)
        entry[f"queries/{name}"] = sum(len(one.ranks) for one in found if one.measured.name == name)
    for one in found:
        entry |= one.numbers()
    return entry


def _vectors(task: Any, data: FinetuneData, measured: Measured, device: torch.device, autocast: bool) -> Vectors | None:
    """Embed the rows of one task of one set."""
    rows: list[PairRow] = []
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
    return Vectors(torch.stack(queries), torch.stack(list(answers.values())), list(documents.values()), mask, rows)


def _read(data: FinetuneData, measured: Measured) -> Iterator[list[tuple[PairRow, Any]]]:
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
            made = functional.normalize(task.look(to_device(dict(chunk["inputs"]), device)).float(), dim=-1).cpu()
        if vectors is None:
            vectors = torch.zeros(batch["contents"], made.shape[1])
        vectors[chunk["items"]] = made
    assert vectors is not None
    return vectors


def _retrieval(measured: Measured, vectors: Vectors, cases: int) -> Retrieval:
    """Rank the answers of each query."""
    scores = vectors.queries @ vectors.answers.T
    found = [outcome(row.numpy(), right.nonzero()[:, 0].tolist()) for row, right in zip(scores, vectors.right, strict=True)]
    return Retrieval(measured, found, len(vectors.documents), _cases(measured, vectors, scores, [one.places[0] for one in found], cases))


def _cases(measured: Measured, vectors: Vectors, scores: torch.Tensor, ranks: list[int], count: int) -> list[Case]:
    """Return the first queries, and after them the worst ones."""
    order = list(range(min(count, len(ranks))))
    order += [number for number in sorted(range(len(ranks)), key=lambda one: -ranks[one]) if number not in order][:count]
    made = []
    for place, number in enumerate(order):
        top = torch.argsort(scores[number], descending=True, stable=True)[:3].tolist()
        best = int(scores[number].masked_fill(~vectors.right[number], -torch.inf).argmax())
        made.append(
            Case(
                measured.task,
                vectors.rows[number].query,
                [(float(scores[number, one]), vectors.documents[one], bool(vectors.right[number, one])) for one in top],
                (float(scores[number, best]), vectors.documents[best]),
                ranks[number],
                place >= count,
            )
        )
    return made
