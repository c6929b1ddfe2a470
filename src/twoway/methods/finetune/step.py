"""The task of fine-tuning: the vectors of queries and documents, pooled as the saved model pools them, and the contrastive loss on them.

A vector is what `SentenceTransformer(OUT).encode` gives before its last module normalises it: the same `Pooling`, cut to the same `dim`.
Which candidates count is put together here from what `objectives.negatives` knows. A learnt temperature is one number, multiplied by
`_REACH` before it is used, because a rate that fits weights would hardly move it; it stays above 0.01, as CLIP's does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from twoway.errors import UsageError
from twoway.losses import Loss
from twoway.losses.contrastive import (
    CHUNK,
    Ranking,
    contrastive_loss,
    denominator,
    false_negatives,
    ranking,
    require_temperature,
    same_group,
    too_near,
)
from twoway.models import loading
from twoway.models.pooling import MODES, require_mode
from twoway.training.gradient_cache import CachedTask, Compared, Kept, Vectors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from twoway.training.task import Batch

NAME = "contrastive"
_REACH, _COLDEST = 100.0, 0.01


@dataclass(frozen=True)
class ContrastiveConfig:
    """What is compared with what, and how. The defaults are those of the MoCa paper where it says one."""

    temperature: float = 0.03
    learn_temperature: bool = False
    negatives: Literal["own", "positives", "all"] = "all"  # a query's own hard ones; and other rows' positives; and their hard ones
    across_ranks: bool = True  # a step's batches see each other, on whatever ranks they are
    symmetric: bool = False  # each positive has to find its query too
    mask_copies: bool = True  # what answers a query as its positive does, by content, is no negative
    margin: float | None = None  # negatives this near to the positive's similarity, or above it, are none
    margin_kind: Literal["absolute", "relative"] = "absolute"
    dims: tuple[int, ...] = ()  # Matryoshka: the loss is the mean of those of vectors cut to these

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        require_temperature(self.temperature)
        if self.learn_temperature and self.temperature < _COLDEST:
            raise UsageError(f"a learnt temperature starts at {_COLDEST} or above, not {self.temperature}")
        if self.symmetric and self.negatives == "own":
            raise UsageError("symmetric needs other rows to compare with: negatives is positives or all, not own")
        if any(dim < 1 for dim in self.dims) or len(set(self.dims)) < len(self.dims):
            raise UsageError(f"dims are different numbers of 1 or more, not {', '.join(map(str, self.dims))}")
        if self.margin is not None and not -2 <= self.margin <= 2:
            raise UsageError(f"margin is a difference of cosines or a share of one, not {self.margin}")


class ContrastiveTask(CachedTask):
    """A model that makes vectors, and the loss on them; `hold` is the padded tokens whose graphs are kept (see `training.cached`)."""

    def __init__(
        self,
        model: Any,
        config: ContrastiveConfig,
        *,
        pooling: str = "mean",
        dim: int | None = None,
        hold: float = 0.0,
        pad_token: int = 0,
        token_keys: Sequence[str] = (),
    ) -> None:
        """Take a model with attention set; `token_keys` are inputs with one entry a token."""
        super().__init__(NAME, hold=hold, across=config.across_ranks)
        self.model, self.config, self.dim = model, config, dim
        width = min(dim or loading.text_width(model), loading.text_width(model))
        if max(config.dims, default=0) > width:
            raise UsageError(f"dims: this model's vectors have {width} numbers, so none of them can be cut to {max(config.dims)}")
        self.pool = Pooling(loading.text_width(model), MODES[require_mode(pooling)])
        # The parts are looked up before adapters wrap the model: they are changed in place.
        self._inner: list[Any] = [loading.inner(model), model.get_decoder()]
        self.pad_token, self._token_keys = pad_token, tuple(token_keys)
        self.shift = nn.Parameter(torch.zeros(1)) if config.learn_temperature else None

    def embed(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return one vector for each row, not normalised."""
        hidden = self._inner[0](**inputs, use_cache=False).last_hidden_state
        pooled: torch.Tensor = self.pool({"token_embeddings": hidden, "attention_mask": inputs["attention_mask"]})["sentence_embedding"]
        return pooled[:, : self.dim]

    def look(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return one vector for each row; for looking, without gradients."""
        return self.embed(inputs)

    def knobs(self) -> Sequence[nn.Parameter]:
        """Return the learnt temperature's parameter."""
        return () if self.shift is None else (self.shift,)

    def temperature(self, knobs: Sequence[torch.Tensor]) -> float | torch.Tensor:
        """Return the temperature in use."""
        if not knobs:
            return self.config.temperature
        return (self.config.temperature * torch.exp(_REACH * knobs[0][0])).clamp(min=_COLDEST)

    def about(self, batch: Batch, present: torch.Tensor) -> Pairs:
        """Return what ranks must know of a batch."""
        return seen(batch, present)

    def compare(self, given: Vectors, knobs: Sequence[torch.Tensor]) -> Compared:
        """Return the loss of this rank's queries, and how they did."""
        known = join(given.about)
        if self.config.negatives == "own" and len(known.queries) and bool(known.is_positive.all()):
            raise UsageError("loss.negatives=own compares with a row's own hard negatives alone, and no row of this batch has any")
        own = ((known.group >= given.mine.start) & (known.group < given.mine.stop)).nonzero()[:, 0]
        device = given.vectors.device
        pairs, mine = known.to(device), own.to(device, non_blocking=True)
        queries, candidates = given.vectors[pairs.queries], given.vectors[pairs.candidates]
        asked, positive = queries[mine], pairs.positive[mine]
        allowed, masked = self._allowed(pairs, mine, asked, candidates, self._copies(known, own, device))
        options: dict[str, Any] = {"temperature": self.temperature(knobs), "dims": self.config.dims}
        loss = contrastive_loss(asked, candidates, positive, allowed, **options)
        if self.config.symmetric:
            back = contrastive_loss(
                candidates[positive], queries, mine, self._allowed_back(pairs, mine, self._copies_back(known, own, device)), **options
            )
            loss = Loss((loss.total + back.total) / 2, loss.count)
        found = ranking(asked, candidates, positive, allowed)
        tasks = [known.tasks[number] for number in own.tolist()]
        warmth = options["temperature"]
        learnt = (warmth.detach(),) if isinstance(warmth, torch.Tensor) else ()

        def watched(read: Sequence[torch.Tensor]) -> dict[str, tuple[float, float]]:
            value = float(read[4]) if learnt else float(torch.as_tensor(warmth))
            return _watched(Ranking(*read[:3]), tasks) | {"temperature": (value * len(own), len(own)), "masked": (float(read[3]), len(own))}

        return Compared(loss, (found.right, found.positive, found.hardest, masked, *learnt), watched)

    def _allowed(
        self, pairs: Pairs, mine: torch.Tensor, asked: torch.Tensor, candidates: torch.Tensor, copies: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which candidates each query is compared with, and how many were masked out as no true negatives."""
        config, positive = self.config, pairs.positive[mine]
        allowed = denominator(config.negatives, mine, pairs.owner, pairs.is_positive)
        if not config.across_ranks:
            allowed &= same_group(pairs.group[mine], pairs.group[pairs.owner])
        wrong = torch.zeros_like(allowed)
        if copies is not None:
            wrong |= copies
        if config.margin is not None:
            wrong |= self._near(pairs, asked.detach(), candidates.detach(), mine)
        own = torch.zeros_like(allowed).scatter_(1, positive[:, None], True)
        return allowed & ~wrong | own, (allowed & wrong & ~own).sum()

    def _near(self, pairs: Pairs, asked: torch.Tensor, candidates: torch.Tensor, mine: torch.Tensor) -> torch.Tensor:
        """Return the candidates that are too similar, by the guide's vectors where there are some."""
        if pairs.guide is not None:
            asked, candidates = pairs.guide[pairs.queries[mine]], pairs.guide[pairs.candidates]
        left, right = (nn.functional.normalize(one.float(), dim=-1) for one in (asked, candidates))
        options: dict[str, Any] = {"margin": self.config.margin, "relative": self.config.margin_kind == "relative"}
        pieces = zip(torch.split(left, CHUNK), torch.split(pairs.positive[mine], CHUNK), strict=True)
        return torch.cat([too_near(piece @ right.T, positive, **options) for piece, positive in pieces])

    def _allowed_back(self, pairs: Pairs, mine: torch.Tensor, copies: torch.Tensor | None) -> torch.Tensor:
        """Return which queries each of my positives is compared with."""
        allowed = torch.ones(len(mine), len(pairs.queries), dtype=torch.bool, device=mine.device)
        if not self.config.across_ranks:
            allowed &= same_group(pairs.group[mine], pairs.group)
        if copies is not None:
            allowed &= ~copies.T
        return allowed

    def _copies(self, known: Pairs, own: torch.Tensor, device: torch.device) -> torch.Tensor | None:
        """Return which candidates answer my queries, by content."""
        return self._same(known, known.query_keys[own], known.candidate_keys, device) if self.config.mask_copies else None

    def _copies_back(self, known: Pairs, own: torch.Tensor, device: torch.device) -> torch.Tensor | None:
        """Return which queries my positives answer, by content: a column for each of them."""
        offered = known.candidate_keys[known.positive[own]]
        return self._same(known, known.query_keys, offered, device) if self.config.mask_copies else None

    def _same(self, known: Pairs, asked: torch.Tensor, offered: torch.Tensor, device: torch.device) -> torch.Tensor:
        rows = torch.cat([known.query_keys, known.query_keys[known.others[:, 0]]])
        answers = torch.cat([known.candidate_keys[known.positive], known.others[:, 1]])
        return false_negatives(asked, rows, answers, offered, device=device)

    def blank(self) -> dict[str, torch.Tensor]:
        """Return one row of one padding token."""
        ids = torch.full((1, 1), self.pad_token)
        keys = [key for key in self._token_keys if key not in ("input_ids", "attention_mask")]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | {key: torch.zeros_like(ids) for key in keys}

    def placeholder(self) -> Batch:
        """Return a batch without rows."""
        none = torch.zeros(0, dtype=torch.long)
        empty = dict.fromkeys(("queries", "candidates", "owner", "query_keys", "candidate_keys"), none)
        return {"contents": 0, "chunks": Kept([]), "tasks": [], "identities": [], **empty}

    def blocks(self) -> Iterable[nn.Module]:
        """Return the language model's layers: every row goes through them."""
        return list(self._inner[1].layers)


def _watched(found: Ranking, tasks: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return what is logged of a ranking: who came first, by task too, and how similar the right and the hardest wrong one are."""
    right, hard = found.right.float(), found.hardest[~found.hardest.isnan()]
    watched: dict[str, tuple[float, float]] = {"accuracy": (float(right.sum()), len(right))}
    watched |= {"positive": (float(found.positive.sum()), len(right)), "hardest": (float(hard.sum()), len(hard))}
    for task in dict.fromkeys(tasks):
        chosen = right[torch.tensor([one == task for one in tasks], device=right.device)]
        watched[f"accuracy/{task}"] = (float(chosen.sum()), len(chosen))
    return watched


# Batches of pairs as the loss sees them: which contents came, who asks for what, and all of it put together over
# ranks.
#
# A batch of pairs is a dictionary:
#
# - `contents`: how many different contents it has; each is embedded once, whatever number of rows has it (a class's name, say)
# - `chunks`: the model inputs of these contents (`training.cached`)
# - `queries` (Q) and `candidates` (C): the number of each one's content; the first Q candidates are the positives of
#   the Q queries, in order
# - `owner` (C): the query that a candidate belongs to
# - `query_keys` (Q), `candidate_keys` (C): hashes of the contents, for false negatives
# - `others` (N, 2), may be left out: query and key of further right answers, which never count as wrong
# - `guide` (contents, G), may be left out: vectors of another model, by which too similar negatives are found
# - `tasks`, `identities`: a text for each query
#
# A content that could not be read is in no chunk. The rows that ask for it or are answered by it are then left out,
# and where it is a hard negative, it alone.


@dataclass(frozen=True)
class Pairs:
    """What is known of pairs beside their vectors; numbers of contents, queries and groups (batches) count from 0 over all that is here."""

    contents: int
    queries: torch.Tensor
    candidates: torch.Tensor
    owner: torch.Tensor
    positive: torch.Tensor  # for each query the number of its positive among the candidates
    is_positive: torch.Tensor
    query_keys: torch.Tensor
    candidate_keys: torch.Tensor
    others: torch.Tensor
    group: torch.Tensor  # of each query
    tasks: tuple[str, ...]
    guide: torch.Tensor | None = None

    def to(self, device: torch.device) -> Pairs:
        """Move the tensors."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def seen(batch: Batch, present: torch.Tensor) -> Pairs:
    """Take what came of a batch."""
    queries, candidates, owner = batch["queries"], batch["candidates"], batch["owner"]
    count = len(queries)
    good = present[queries] & present[candidates[:count]]
    kept = good[owner] & present[candidates]
    number = torch.cumsum(good, 0) - 1
    others = batch.get("others", torch.zeros(0, 2, dtype=torch.long))
    others = others[good[others[:, 0]]]
    return Pairs(
        contents=len(present),
        queries=queries[good],
        candidates=candidates[kept],
        owner=number[owner[kept]],
        positive=torch.arange(int(good.sum())),
        is_positive=(torch.arange(len(candidates)) < count)[kept],
        query_keys=batch["query_keys"][good],
        candidate_keys=batch["candidate_keys"][kept],
        others=torch.stack([number[others[:, 0]], others[:, 1]], 1),
        group=torch.zeros(int(good.sum()), dtype=torch.long),
        tasks=tuple(task for task, fine in zip(batch["tasks"], good.tolist(), strict=True) if fine),
        guide=batch.get("guide"),
    )


def join(batches: Sequence[Pairs]) -> Pairs:
    """Put batches one behind the other; each becomes a group."""
    contents = queries = candidates = 0
    moved: list[Pairs] = []
    for group, one in enumerate(batches):
        shift = torch.tensor([queries, 0])
        moved.append(
            replace(
                one,
                queries=one.queries + contents,
                candidates=one.candidates + contents,
                owner=one.owner + queries,
                positive=one.positive + candidates,
                others=one.others + shift,
                group=torch.full_like(one.group, group),
            )
        )
        contents, queries, candidates = contents + one.contents, queries + len(one.queries), candidates + len(one.candidates)
    joined = {
        name: torch.cat([getattr(one, name) for one in moved])
        for name, value in vars(moved[0]).items()
        if isinstance(value, torch.Tensor) and name != "guide"
    }
    guides = [one.guide for one in moved if one.guide is not None]
    guide = torch.cat(guides) if len(guides) == len(moved) else None
    return Pairs(**joined, contents=contents, tasks=tuple(task for one in moved for task in one.tasks), guide=guide)
