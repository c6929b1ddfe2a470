"""Rows become a batch as the processor itself would make one: tokens padded, pixels one behind the other."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn import functional

from twoway.content import ContentError
from twoway.errors import TwowayError

from .augment import augmented
from .config import DOCUMENT, QUERY, CostWeights
from .masking import NO_TARGET
from .sampler import NO_EXTRA_COST, cut_chunks, extra_cost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from twoway.content import Document, Pair

    from .config import AugmentConfig
    from .masking import MaskedRow
    from .processing import Encoder, Example


def collate(rows: Sequence[MaskedRow], *, pad_token: int, padding_side: Literal["left", "right"] = "right") -> dict[str, Any]:
    """Return `inputs` (what the model is called with), `labels`, `patch_mask`, `patch_targets`, `identities` and `counts`."""
    if not rows:
        raise TwowayError("a batch needs at least one row")
    longest = max(len(row.labels) for row in rows)

    def padded(tensors: list[Tensor], value: float | bool) -> Tensor:
        return torch.stack([_pad(tensor, longest, value, padding_side) for tensor in tensors])

    inputs = model_inputs([row.inputs for row in rows], pad_token=pad_token, padding_side=padding_side)
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.counts)
    counts.update({"rows": len(rows), "padding": longest * len(rows) - sum(len(row.labels) for row in rows)})
    return {
        "inputs": inputs,
        "labels": padded([row.labels for row in rows], NO_TARGET),
        "patch_mask": padded([row.patch_mask for row in rows], False),
        "patch_targets": torch.cat([row.patch_targets for row in rows]),
        "identities": [row.identity for row in rows],
        "counts": dict(counts),
    }


def model_inputs(rows: Sequence[Mapping[str, Tensor]], *, pad_token: int, padding_side: Literal["left", "right"]) -> dict[str, Tensor]:
    """Put the inputs of rows together: what has one entry a token is padded, anything else goes one behind the other."""
    lengths = [len(row["input_ids"]) for row in rows]
    longest = max(lengths)

    def padded(tensors: list[Tensor], value: float) -> Tensor:
        return torch.stack([_pad(tensor, longest, value, padding_side) for tensor in tensors])

    inputs = {"attention_mask": padded([torch.ones(length, dtype=torch.long) for length in lengths], 0)}
    for name in dict.fromkeys(name for row in rows for name in row):
        if all(name in row and row[name].shape == row["input_ids"].shape for row in rows):
            inputs[name] = padded([row[name] for row in rows], pad_token if name == "input_ids" else 0)
        else:
            inputs[name] = _behind([row[name] for row in rows if name in row])
    return inputs


def _pad(tensor: Tensor, length: int, value: float | bool, side: str) -> Tensor:
    missing = length - len(tensor)
    return functional.pad(tensor, (0, missing) if side == "right" else (missing, 0), value=value)


def _behind(tensors: list[Tensor]) -> Tensor:
    """Put tensors one behind the other; the dimensions behind the first are brought to one size with zeros (numbers of tiles differ)."""
    size = [max(tensor.shape[axis] for tensor in tensors) for axis in range(1, tensors[0].dim())]
    full = []
    for tensor in tensors:
        missing = [want - have for want, have in zip(size, tensor.shape[1:], strict=True)]
        full.append(functional.pad(tensor, [amount for gap in reversed(missing) for amount in (0, gap)]) if any(missing) else tensor)
    return torch.cat(full)


# Pairs become a batch: each content encoded once, in chunks of one cost and nearly one length, and who belongs to
# whom.
#
# A page at high resolution and the short text that asks for it never share a chunk that would pad the one to the
# other: contents are sorted by length and cut where the budget ends, as documents are in `batching`. What the batch
# holds is described where it is used, in `methods.finetune.step`.
#
# A row's instruction is that of its task and side, `prompts["TASK-query"]` or else `prompts["query"]`: the names that
# the checkpoint has them under, and that `encode(…, prompt_name=)` takes. Further right answers of a row come in
# turn, one an epoch; of its hard negatives the first few are taken, or as many at random; with `fill` a row that has
# fewer has its last one again.

Choice = Literal["first", "random"]


def task_prompt(prompts: Mapping[str, str], task: str, side: str) -> str:
    """Return the instruction of a task's side."""
    return prompts.get(f"{task}-{side}", prompts.get(side, ""))


def content_key(document: Document) -> int:
    """Return a number that is the same for the same content, wherever it lies."""
    return int.from_bytes(bytes.fromhex(document.fingerprint()[:16]), "big", signed=True)


@dataclass(frozen=True)
class EncodedContent:
    """One side of a row as the model sees it; `key` is that of the document, without its instruction.

    `variant` tells apart what one document became under augmentation, or as a query; `document` is as it was read.
    """

    key: int
    instruction: str
    example: Example
    document: Document
    side: str
    variant: str = ""


@dataclass(frozen=True)
class PairExample:
    """One row as the model sees it. `answers` are the keys of all its right answers."""

    identity: str
    task: str
    query: EncodedContent
    positive: EncodedContent
    negatives: tuple[EncodedContent, ...]
    answers: tuple[int, ...]
    scores: tuple[float, ...] = ()  # a teacher's, of the positive and of each negative

    @property
    def contents(self) -> tuple[EncodedContent, ...]:
        """All that a model reads of the row."""
        return (self.query, self.positive, *self.negatives)


@dataclass(frozen=True)
class PairEncoder:
    """Turns rows into examples; can be sent to workers."""

    encode: Encoder
    prompts: Mapping[str, str]
    negatives: int
    choose: Choice = "first"
    seed: int = 0
    fill: bool = False
    augment: AugmentConfig | None = None
    teacher: bool = False  # whether a row needs the scores of a teacher
    tells_sides_apart: bool = False  # whether the template writes a query in another way than a document

    def defer(self, identity: str, pair: Pair) -> tuple[str, Pair]:
        """Keep a row for `__call__`, which knows the epoch."""
        return identity, pair

    def __call__(self, row: tuple[str, Pair], *, epoch: int) -> PairExample:
        """Encode one row as an epoch has it."""
        identity, pair = row
        right = pair.positives
        positive = right[epoch % len(right)]
        numbers = self._chosen(identity, len(pair.negatives), epoch)
        chosen = [pair.negatives[number] for number in numbers]
        if self.teacher and not pair.scores:
            raise ContentError("the row has no scores of a teacher (positive_scores and so on); twoway score writes them", pair.place)
        scores = [pair.scores[epoch % len(right)], *(pair.scores[len(right) + number] for number in numbers)] if pair.scores else []
        answers = tuple(content_key(one) for one in right)
        drawn = f"{self.seed} {epoch} {identity}"
        wrong = tuple(self._content(identity, pair.task, DOCUMENT, one, f"{drawn} negative {number}") for number, one in enumerate(chosen))
        query = self._content(identity, pair.task, QUERY, pair.query, f"{drawn} query")
        answer = self._content(identity, pair.task, DOCUMENT, positive, f"{drawn} positive")
        return PairExample(identity, pair.task, query, answer, wrong, answers, tuple(scores))

    def to_measure(self, row: tuple[str, Pair], *, epoch: int) -> PairExample:
        """Encode one row to measure on: its hard negatives left aside, its pictures as they are."""
        return replace(self, negatives=0, augment=None, teacher=False)(row, epoch=epoch)

    def _content(self, identity: str, task: str, side: str, document: Document, variant: str) -> EncodedContent:
        instruction = task_prompt(self.prompts, task, side)
        shown = document
        if self.augment is not None and document.media:
            shown = augmented(document, self.augment, variant)
        try:
            example = self.encode(identity, shown, instruction, side if self.tells_sides_apart else "")
        except ContentError as error:
            raise ContentError(error.reason, error.place or document.place) from error
        changed = ("" if shown is document else variant) + (side if self.tells_sides_apart else "")
        return EncodedContent(content_key(document), instruction, example, document, side, changed)

    def _chosen(self, identity: str, count: int, epoch: int) -> Sequence[int]:
        if not self.negatives or self.choose == "first" or count <= self.negatives:
            taken = [*range(min(count, self.negatives))]
            return taken + taken[-1:] * (self.negatives - count) if self.fill else taken
        number = int.from_bytes(hashlib.sha256(f"{self.seed} {epoch} {identity}".encode()).digest()[:8], "big")
        return sorted(np.random.default_rng(number).choice(count, self.negatives, replace=False).tolist())


def join_pairs(rows: Sequence[PairExample]) -> tuple[list[EncodedContent], dict[str, Any]]:
    """Return the different contents of some rows, and their batch but for the chunks."""
    numbers: dict[tuple[int, str, str], int] = {}
    contents: list[EncodedContent] = []

    def number(content: EncodedContent) -> int:
        key = content.key, content.instruction, content.variant
        if key not in numbers:
            numbers[key] = len(contents)
            contents.append(content)
        return numbers[key]

    queries = [number(row.query) for row in rows]
    candidates = [number(row.positive) for row in rows]
    owner, keys = list(range(len(rows))), [row.positive.key for row in rows]
    scores = [row.scores[0] if row.scores else math.nan for row in rows]
    for place, row in enumerate(rows):
        for at, negative in enumerate(row.negatives, 1):
            candidates.append(number(negative))
            owner.append(place)
            keys.append(negative.key)
            scores.append(row.scores[at] if row.scores else math.nan)
    others = [(place, key) for place, row in enumerate(rows) for key in row.answers if key != row.positive.key]
    return contents, {
        "contents": len(contents),
        "queries": torch.tensor(queries),
        "candidates": torch.tensor(candidates),
        "owner": torch.tensor(owner),
        "query_keys": torch.tensor([row.query.key for row in rows]),
        "candidate_keys": torch.tensor(keys),
        "others": torch.tensor(others, dtype=torch.long).reshape(-1, 2),
        "tasks": [row.task for row in rows],
        "identities": [row.identity for row in rows],
    } | ({"scores": torch.tensor(scores)} if any(row.scores for row in rows) else {})


# What a row becomes: its contents, and from rows like it the different contents and what a batch knows of them.
Join = Callable[[Sequence[Any]], tuple[list[EncodedContent], dict[str, Any]]]


def collate_pairs(
    rows: Sequence[Any],
    *,
    join: Join = join_pairs,
    pad_token: int,
    padding_side: Literal["left", "right"] = "right",
    budget: float,
    weights: CostWeights = NO_EXTRA_COST,
) -> dict[str, Any]:
    """Return the batch of some rows; `chunks` is a list, each of at most `budget`, padding counted, or of one content."""
    contents, batch = join(rows)
    examples = [one.example for one in contents]
    chunks = []
    for chosen in cut_chunks([len(one.inputs["input_ids"]) for one in examples], [_extra_cost(one, weights) for one in contents], budget):
        inputs = model_inputs([examples[one].inputs for one in chosen], pad_token=pad_token, padding_side=padding_side)
        chunks.append({"inputs": inputs, "items": torch.tensor(chosen)})
    return batch | {"chunks": chunks}


def _extra_cost(content: EncodedContent, weights: CostWeights) -> float:
    """Return what a content's pictures cost besides their tokens."""
    tokens, pictures = int(content.example.image_tokens.sum()), len(content.document.media) - content.example.images_cut
    return float(extra_cost(tokens, pictures, weights))
