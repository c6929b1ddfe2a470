"""The training step of late interaction: a vector for each token, and the contrastive loss on MaxSim scores.

A content has as many vectors as tokens, what `MultiVectorEncoder(OUT).encode_query` and `encode_document` give, because the very modules
that are saved make them: the transformer and the projection; the loss normalises. They go through `training.gradient_cache` one behind the
other, so that a short query is not padded to a page, and the loss sees those of the whole global batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.modules import Dense

from twoway.losses.candidates import Ranking, rank_scores, too_near, unit_length
from twoway.losses.contrastive import scores_loss
from twoway.losses.maxsim import maxsim_scores
from twoway.models.kernels import on_cpu
from twoway.models.late_interaction import TOKENS
from twoway.training.module import without_autocast

from .step import ContrastiveModule, Cosines, PairMetadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twoway.losses import Loss
    from twoway.training.gradient_cache import GatheredVectors


class MaxSimScores(Cosines):
    """How near queries and candidates of a batch are by MaxSim."""

    def __init__(self, gathered: GatheredVectors, pairs: PairMetadata, mine: torch.Tensor, options: dict[str, Any]) -> None:
        self.options, self.mine = options, mine
        vectors = torch.split(unit_length(gathered.vectors), gathered.counts.tolist())
        self._queries = [vectors[number] for number in on_cpu(pairs.queries).tolist()]
        self._candidates = [vectors[number] for number in on_cpu(pairs.candidates).tolist()]
        nothing = gathered.vectors.sum() * 0.0  # a batch without rows has a gradient too
        asked = [self._queries[number] for number in on_cpu(mine).tolist()]
        self._right = [self._candidates[number] for number in on_cpu(pairs.positive)[on_cpu(mine)].tolist()]
        shape = len(asked), len(self._candidates)
        self.scores = maxsim_scores(asked, self._candidates) + nothing if min(shape) else nothing.expand(shape)

    def loss(self, positive: torch.Tensor, allowed: torch.Tensor) -> Loss:
        """Return the loss of my queries among the candidates."""
        return scores_loss(self.scores, positive, allowed, temperature=self.options["temperature"])

    def loss_back(self, positive: torch.Tensor, allowed: torch.Tensor) -> Loss:
        """Return the loss of my positives among the queries; a score is that of the query with the document here too."""
        some = bool(self._right)
        scores = maxsim_scores(self._queries, self._right).T if some else self.scores.new_zeros(0, len(self._queries))
        return scores_loss(scores, self.mine, allowed, temperature=self.options["temperature"])

    def of(self, place: torch.Tensor) -> list[torch.Tensor]:
        """Return the scores of my queries with candidates of their own."""
        return [self.scores.gather(1, place)]

    def too_near(self, positive: torch.Tensor, **options: Any) -> torch.Tensor:
        """Return the candidates that are as near as the positive, or nearer."""
        return too_near(self.scores.detach(), positive, **options)

    def ranking(self, positive: torch.Tensor, allowed: torch.Tensor) -> Ranking:
        """Return how my queries did."""
        return rank_scores(self.scores.detach(), positive, allowed)


class LateInteractionModule(ContrastiveModule):
    """A model that makes a vector for each token, and the loss on their MaxSim scores."""

    def __init__(self, model: Any, modules: Sequence[torch.nn.Module], *args: Any, **options: Any) -> None:
        super().__init__(model, modules, *args, **options)
        self.projection = next((module for module in modules if isinstance(module, Dense)), None)

    def embed(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return the vectors of each row's tokens, row behind row, as `encode` gives them before they are normalised."""
        features = self.features(inputs)
        states = features[TOKENS] = features[TOKENS].float()
        if self.projection is not None:
            with without_autocast(states.device):
                features = self.projection(features)
        row, token = (one.to(states.device, non_blocking=True) for one in on_cpu(inputs["attention_mask"]).nonzero(as_tuple=True))
        vectors: torch.Tensor = features[TOKENS][row, token]
        return vectors

    def count_vectors(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return how many tokens each row has."""
        counts: torch.Tensor = on_cpu(inputs["attention_mask"]).sum(1)
        return counts

    def compare(self, gathered: GatheredVectors, pairs: PairMetadata, mine: torch.Tensor, options: dict[str, Any]) -> Cosines:
        """Return how near my queries and the candidates are."""
        return MaxSimScores(gathered, pairs, mine, options)

    def similarity(self, queries: Sequence[torch.Tensor], answers: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the scores of contents that were predicted one by one; for looking."""
        return maxsim_scores([unit_length(one) for one in queries], [unit_length(one) for one in answers])
