"""The training step of fine-tuning: the vectors of queries and documents, and the contrastive loss on them.

A vector is what `SentenceTransformer(OUT).encode` gives, because the very modules that are saved make it: the transformer, `Pooling`, a cut
to `dim` (`late_interaction.py` has many vectors for a content). The loss normalises what it compares, so the last of them, `Normalize`, is
not run twice. Which candidates count is put together here from what `losses.candidates` knows; the loss is any that is registered
(`losses.find_loss`). A learnt temperature is one number, multiplied by `_REACH` before it is used, because a rate that fits weights would
hardly move it; it stays above 0.01, as CLIP's does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from twoway.errors import UsageError
from twoway.losses import Loss, contrastive, find_loss  # noqa: F401, which registers itself
from twoway.losses.candidates import CHUNK, Ranking, denominator, false_negatives, ranking, same_group, too_near, unit_length
from twoway.losses.distillation import distillation_loss
from twoway.losses.matryoshka import matryoshka_loss
from twoway.models import loading
from twoway.models.kernels import remember
from twoway.training.gradient_cache import ChunkList, GatheredVectors, GradientCachedModule, LossOutput, padding_row
from twoway.training.module import without_autocast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from twoway.training.module import Batch

from .config import COLDEST, ContrastiveConfig

NAME = "contrastive"
_REACH = 100.0


class Cosines:
    """How near queries and candidates of a batch are by the cosines of their vectors, which are made where they are needed."""

    def __init__(self, module: ContrastiveModule, vectors: torch.Tensor, pairs: PairMetadata, mine: torch.Tensor, options: dict[str, Any]):
        self.pair_loss, self.options, self.mine = module.pair_loss, options, mine
        self.queries, self.candidates = vectors[pairs.queries], vectors[pairs.candidates]
        self.asked = self.queries[mine]

    def loss(self, positive: torch.Tensor, allowed: torch.Tensor) -> Loss:
        """Return the loss of my queries among the candidates."""
        return matryoshka_loss(self.pair_loss, self.asked, self.candidates, positive, allowed, **self.options)

    def loss_back(self, positive: torch.Tensor, allowed: torch.Tensor) -> Loss:
        """Return the loss of my positives among the queries."""
        return matryoshka_loss(self.pair_loss, self.candidates[positive], self.queries, self.mine, allowed, **self.options)

    def of(self, place: torch.Tensor) -> list[torch.Tensor]:
        """Return the scores of my queries with candidates (Q, K) of their own: one matrix for each length of the vectors."""
        found = []
        for length in self.options["dims"] or (self.asked.shape[1],):
            left, right = (unit_length(one[:, :length]) for one in (self.asked, self.candidates))
            found.append((left[:, None] * right[place]).sum(-1))
        return found

    def too_near(self, positive: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return the candidates that are as near as the positive, or nearer (`losses.candidates.too_near`)."""
        left, right = (nn.functional.normalize(one.detach().float(), dim=-1) for one in (self.asked, self.candidates))
        pieces = zip(torch.split(left, CHUNK), torch.split(positive, CHUNK), strict=True)
        return torch.cat([too_near(piece @ right.T, one, **options) for piece, one in pieces])

    def ranking(self, positive: torch.Tensor, allowed: torch.Tensor) -> Ranking:
        """Return how my queries did."""
        return ranking(self.asked, self.candidates, positive, allowed)


class ContrastiveModule(GradientCachedModule):
    """A model that makes vectors, and the loss on them."""

    def __init__(
        self,
        model: Any,
        modules: Sequence[nn.Module],
        config: ContrastiveConfig,
        *,
        keep_graph_tokens: float = 0.0,
        pad_token: int = 0,
        token_keys: Sequence[str] = (),
    ) -> None:
        """Take a model with attention set, and the modules of sentence-transformers around it (`checkpoint.modules_around`).

        `token_keys` are inputs with one entry a token.
        """
        super().__init__(NAME, keep_graph_tokens=keep_graph_tokens, across_ranks=config.gather_across_devices)
        self.model, self.config, self.pair_loss = model, config, find_loss(config.name)
        width = next((module.out_features for module in modules if isinstance(module, Dense)), loading.text_width(model))
        if max(config.matryoshka_dims, default=0) > width:
            raise UsageError(
                f"matryoshka_dims: this model's vectors have {width} numbers, so none of them can be cut to {max(config.matryoshka_dims)}"
            )
        # In lists, so that each weight has one name: that of the model. What follows the model does not train.
        # They are made before adapters wrap the model, whose parts are changed in place.
        self._shipped: list[Any] = [module for module in modules if not isinstance(module, Normalize)]
        self._decoder: list[Any] = [model.get_decoder()]
        self.pad_token, self._token_keys = pad_token, tuple(token_keys)
        self.log_temperature = nn.Parameter(torch.zeros(1)) if config.learn_temperature else None

    def embed(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return one vector for each row, as `encode` gives it before it is normalised."""
        features = self.features(inputs)
        states = features["token_embeddings"] = features["token_embeddings"].float()
        with without_autocast(states.device):  # half precision would round the vector once more
            for module in self._shipped[1:]:
                features = module.to(states.device)(features)
        vectors: torch.Tensor = features["sentence_embedding"]
        return vectors

    def features(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the transformer gives: its last states, and the inputs."""
        found: dict[str, Any] = self._shipped[0]({**inputs, "modality": "message"}, use_cache=False)
        return found

    def states(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return the last states of each row."""
        found: torch.Tensor = self.features(inputs)["token_embeddings"]
        return found

    def predict(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return one vector for each row; for looking, without gradients."""
        return self.embed(inputs)

    def loss_parameters(self) -> Sequence[nn.Parameter]:
        """Return the learnt temperature's parameter."""
        return () if self.log_temperature is None else (self.log_temperature,)

    def temperature(self, knobs: Sequence[torch.Tensor]) -> float | torch.Tensor:
        """Return the temperature in use."""
        if not knobs:
            return self.config.temperature
        return (self.config.temperature * torch.exp(_REACH * knobs[0][0])).clamp(min=COLDEST)

    def batch_metadata(self, batch: Batch, present: torch.Tensor) -> PairMetadata:
        """Return what ranks must know of a batch."""
        return metadata_of(batch, present)

    def compute_loss(self, gathered: GatheredVectors, parameters: Sequence[torch.Tensor]) -> LossOutput:
        """Return the loss of this rank's queries, and how they did."""
        known = join_metadata(gathered.metadata)
        if self.config.negatives == "own" and len(known.queries) and bool(known.is_positive.all()):
            raise UsageError("loss.negatives=own compares with a row's own hard negatives alone, and no row of this batch has any")
        own = ((known.group >= gathered.own_batches.start) & (known.group < gathered.own_batches.stop)).nonzero()[:, 0]
        device = gathered.vectors.device
        pairs, mine = known.to(device), remember(own.to(device, non_blocking=True), own)
        options: dict[str, Any] = {"temperature": self.temperature(parameters), "dims": self.config.matryoshka_dims}
        near, positive = self.compare(gathered, pairs, mine, options), pairs.positive[mine]
        allowed, masked = self._allowed(pairs, mine, near, self._copies(known, own, device))
        loss = near.loss(positive, allowed)
        if self.config.distill != "none":
            loss = self._distilled(loss, known, own, near, options["temperature"])
        if self.config.symmetric:
            allowed_back = self._allowed_back(pairs, mine, self._copies_back(known, own, device))
            back = near.loss_back(positive, allowed_back)
            loss = Loss((loss.total + back.total) / 2, loss.count)
        found = near.ranking(positive, allowed)
        tasks = [known.tasks[number] for number in own.tolist()]
        warmth = options["temperature"]
        learnt = (warmth.detach(),) if isinstance(warmth, torch.Tensor) else ()

        def watched(read: Sequence[torch.Tensor]) -> dict[str, tuple[float, float]]:
            value = float(read[4]) if learnt else float(torch.as_tensor(warmth))
            return _watched(Ranking(*read[:3]), tasks) | {"temperature": (value * len(own), len(own)), "masked": (float(read[3]), len(own))}

        return LossOutput(loss, (found.right, found.positive, found.hardest, masked, *learnt), watched)

    def compare(self, gathered: GatheredVectors, pairs: PairMetadata, mine: torch.Tensor, options: dict[str, Any]) -> Cosines:
        """Return how near my queries and the candidates are."""
        return Cosines(self, gathered.vectors, pairs, mine, options)

    def similarity(self, queries: Sequence[torch.Tensor], answers: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the scores of contents that were predicted one by one; for looking."""
        left, right = (nn.functional.normalize(torch.cat(list(one)), dim=-1) for one in (queries, answers))
        return left @ right.T

    def _allowed(
        self, pairs: PairMetadata, mine: torch.Tensor, near: Cosines, copies: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which candidates each query is compared with, and how many were masked out as no true negatives."""
        config, positive = self.config, pairs.positive[mine]
        allowed = denominator(config.negatives, mine, pairs.owner, pairs.is_positive)
        if not config.gather_across_devices:
            allowed &= same_group(pairs.group[mine], pairs.group[pairs.owner])
        wrong = torch.zeros_like(allowed)
        if copies is not None:
            wrong |= copies
        if config.teacher_margin is not None and pairs.scores is not None:
            limit = pairs.scores[positive] - config.teacher_margin
            wrong |= (pairs.owner[None, :] == mine[:, None]) & (pairs.scores[None, :] >= limit[:, None])
        if config.margin is not None:
            by = near if pairs.guide is None else Cosines(self, pairs.guide, pairs, mine, {})
            wrong |= by.too_near(positive, margin=config.margin, relative=config.margin_strategy == "relative")
        own = torch.zeros_like(allowed).scatter_(1, positive[:, None], True)
        return allowed & ~wrong | own, (allowed & wrong & ~own).sum()

    def _distilled(self, loss: Loss, known: PairMetadata, own: torch.Tensor, near: Cosines, temperature: float | torch.Tensor) -> Loss:
        """Mix the contrastive loss of my queries with that of following a teacher on their own candidates."""
        if known.scores is None or not len(own):
            return loss
        # The positive comes first, as candidates are ordered.
        listed = pad_sequence([(known.owner == query).nonzero()[:, 0] for query in own], batch_first=True, padding_value=-1)
        place, device = listed.clamp(min=0), loss.total.device
        there, teacher = (listed >= 0).to(device), known.scores[place].to(device) / self.config.distill_temperature
        scores = near.of(place.to(device))
        followed = loss.total.new_zeros(())
        for student in scores:
            followed = followed + distillation_loss(self.config.distill, student / temperature, teacher, there).total / len(scores)
        share = self.config.distill_weight
        return Loss((1 - share) * loss.total + share * followed, loss.count)

    def _allowed_back(self, pairs: PairMetadata, mine: torch.Tensor, copies: torch.Tensor | None) -> torch.Tensor:
        """Return which queries each of my positives is compared with."""
        allowed = torch.ones(len(mine), len(pairs.queries), dtype=torch.bool, device=mine.device)
        if not self.config.gather_across_devices:
            allowed &= same_group(pairs.group[mine], pairs.group)
        if copies is not None:
            allowed &= ~copies.T
        return allowed

    def _copies(self, known: PairMetadata, own: torch.Tensor, device: torch.device) -> torch.Tensor | None:
        """Return which candidates answer my queries, by content."""
        return self._same(known, known.query_keys[own], known.candidate_keys, device) if self.config.mask_copies else None

    def _copies_back(self, known: PairMetadata, own: torch.Tensor, device: torch.device) -> torch.Tensor | None:
        """Return which queries my positives answer, by content: a column for each of them."""
        offered = known.candidate_keys[known.positive[own]]
        return self._same(known, known.query_keys, offered, device) if self.config.mask_copies else None

    def _same(self, known: PairMetadata, asked: torch.Tensor, offered: torch.Tensor, device: torch.device) -> torch.Tensor:
        rows = torch.cat([known.query_keys, known.query_keys[known.others[:, 0]]])
        answers = torch.cat([known.candidate_keys[known.positive], known.others[:, 1]])
        return false_negatives(asked, rows, answers, offered, device=device)

    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Return one row of one padding token."""
        return padding_row(self.pad_token, self._token_keys)

    def dummy_batch(self) -> Batch:
        """Return a batch without rows."""
        none = torch.zeros(0, dtype=torch.long)
        empty = dict.fromkeys(("queries", "candidates", "owner", "query_keys", "candidate_keys"), none)
        return {"contents": 0, "chunks": ChunkList([]), "tasks": [], "identities": [], **empty}

    def fsdp_units(self) -> Iterable[nn.Module]:
        """Return the language model's layers: every row goes through them."""
        return list(self._decoder[0].layers)


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
# - `chunks`: the model inputs of these contents (`training.gradient_cache`)
# - `queries` (Q) and `candidates` (C): the number of each one's content; the first Q candidates are the positives of
#   the Q queries, in order
# - `owner` (C): the query that a candidate belongs to
# - `query_keys` (Q), `candidate_keys` (C): hashes of the contents, for false negatives
# - `others` (N, 2), may be left out: query and key of further right answers, which never count as wrong
# - `scores` (C), may be left out: what a teacher says of each candidate for its query
# - `guide` (contents, G), may be left out: vectors of another model, by which too similar negatives are found
# - `tasks`, `identities`: a text for each query
#
# A content that could not be read is in no chunk. The rows that ask for it or are answered by it are then left out,
# and where it is a hard negative, it alone.


@dataclass(frozen=True)
class PairMetadata:
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
    scores: torch.Tensor | None = None  # a teacher's, of each candidate for its query

    def to(self, device: torch.device) -> PairMetadata:
        """Move the tensors."""
        moved: dict[str, Any] = {
            name: remember(value.to(device, non_blocking=True), value)
            for name, value in vars(self).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(self, **moved)


def metadata_of(batch: Batch, present: torch.Tensor) -> PairMetadata:
    """Take what came of a batch."""
    queries, candidates, owner = batch["queries"], batch["candidates"], batch["owner"]
    count = len(queries)
    good = present[queries] & present[candidates[:count]]
    kept = good[owner] & present[candidates]
    number = torch.cumsum(good, 0) - 1
    others = batch.get("others", torch.zeros(0, 2, dtype=torch.long))
    others = others[good[others[:, 0]]]
    return PairMetadata(
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
        scores=batch["scores"][kept] if "scores" in batch else None if len(candidates) else torch.zeros(0),
    )


def join_metadata(batches: Sequence[PairMetadata]) -> PairMetadata:
    """Put batches one behind the other; each becomes a group."""
    contents = queries = candidates = 0
    moved: list[PairMetadata] = []
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
        if isinstance(value, torch.Tensor) and name not in ("guide", "scores")
    }
    scores = [one.scores for one in moved if one.scores is not None]
    guides = [one.guide for one in moved if one.guide is not None]
    guide = torch.cat(guides) if len(guides) == len(moved) else None
    return PairMetadata(
        **joined,
        contents=contents,
        tasks=tuple(task for one in moved for task in one.tasks),
        guide=guide,
        scores=torch.cat(scores) if len(scores) == len(moved) else None,
    )
