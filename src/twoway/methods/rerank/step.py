"""The training step of reranking: a score for each query with each of its candidates, and a loss on a query's scores.

A score is what `CrossEncoder(OUT)` gives before its activation, because the very modules that are saved make it. It is a vector of one
number to `training.gradient_cache`: so a step's pairs come as a stream of chunks of one cost, each in whatever chunk its length puts it,
and the loss is that of all candidates of a query together, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.base.modules import Dense
from sentence_transformers.cross_encoder.modules import LogitScore
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from twoway.losses import Loss
from twoway.losses.ranking import ranking_loss
from twoway.models.reranker import SCORES
from twoway.training.gradient_cache import ChunkList, GatheredVectors, GradientCachedModule, LossOutput, padding_row
from twoway.training.module import without_autocast

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from twoway.training.module import Batch

NAME = "rerank"


class RerankModule(GradientCachedModule):
    """A model that scores candidates, and the loss on the scores."""

    def __init__(
        self,
        model: Any,
        modules: Sequence[nn.Module],
        loss: str,
        *,
        keep_graph_tokens: float = 0.0,
        pad_token: int = 0,
        token_keys: Sequence[str] = (),
    ) -> None:
        """Take a model with attention set, and the modules of `CrossEncoder` around it (`checkpoint.modules_around`).

        `token_keys` are inputs with one entry a token.
        """
        super().__init__(NAME, keep_graph_tokens=keep_graph_tokens, across_ranks=False)
        self.model, self.loss = model, loss
        # In a list, so that each weight has one name: that of the model. A new layer trains beside it.
        self._shipped: list[Any] = list(modules)
        self.head = next((module for module in modules if isinstance(module, Dense)), None)
        self._decoder: list[Any] = [model.get_decoder()]
        self.pad_token, self._token_keys = pad_token, tuple(token_keys)
        self._output: str = self._shipped[0].module_output_name
        reads_head = any(isinstance(module, LogitScore) for module in modules)
        self._called: dict[str, Any] = {"modality": "message"} | ({"logits_to_keep": 1} if reads_head else {})

    def embed(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return the score of each row."""
        features = self.features(inputs)
        states = features[self._output] = features[self._output].float()
        with without_autocast(states.device):  # half precision would round the score once more
            for module in self._shipped[1:]:
                features = module(features)
        scores: torch.Tensor = features[SCORES]
        return scores

    def features(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the transformer gives, its last states or the logits behind each row, and the inputs."""
        found: dict[str, Any] = self._shipped[0]({**inputs, **self._called}, use_cache=False)
        return found

    def states(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return the last states of each row, or the logits behind it."""
        found: torch.Tensor = self.features(inputs)[self._output]
        return found

    def predict(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return the score of each row; for looking, without gradients."""
        return self.embed(inputs)

    def batch_metadata(self, batch: Batch, present: torch.Tensor) -> CandidateGroups:
        """Return what ranks must know of a batch: which scores are those of a query's candidates."""
        return groups_of(batch, present)

    def compute_loss(self, gathered: GatheredVectors, parameters: Sequence[torch.Tensor]) -> LossOutput:
        """Return the loss of this rank's queries, and how they did."""
        scores = gathered.vectors
        rows, tasks, before = [], [], 0
        for groups in gathered.metadata:
            rows += [torch.tensor(numbers) + before for numbers in groups.numbers]
            tasks += groups.tasks
            before += groups.contents
        if not rows:
            return LossOutput(Loss(scores.sum() * 0.0, 0))
        place = pad_sequence(rows, batch_first=True, padding_value=-1).to(scores.device, non_blocking=True)
        there = place >= 0
        of_candidates = scores[:, 0][place.clamp(min=0)]
        loss = ranking_loss(self.loss, of_candidates, there)
        with torch.no_grad():
            hardest = of_candidates.masked_fill(~there, -torch.inf)[:, 1:].amax(1)
            right = of_candidates[:, 0]

        def watched(read: Sequence[torch.Tensor]) -> dict[str, tuple[float, float]]:
            first = (read[0] > read[1]).float()
            named = {"accuracy": first, "right": read[0], "hardest": read[1]}
            found: dict[str, tuple[float, float]] = {name: (float(one.sum()), len(one)) for name, one in named.items()}
            for task in dict.fromkeys(tasks):
                own = first[torch.tensor([one == task for one in tasks])]
                found[f"accuracy/{task}"] = (float(own.sum()), len(own))
            return found

        return LossOutput(loss, (right.detach(), hardest), watched)

    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Return one row of one padding token."""
        return padding_row(self.pad_token, self._token_keys)

    def dummy_batch(self) -> Batch:
        """Return a batch without rows."""
        return {"contents": 0, "chunks": ChunkList([]), "owner": torch.zeros(0, dtype=torch.long), "tasks": [], "identities": []}

    def fsdp_units(self) -> Iterable[nn.Module]:
        """Return the language model's layers: every row goes through them."""
        return list(self._decoder[0].layers)


@dataclass(frozen=True)
class CandidateGroups:
    """Of a batch, the task of each query and the numbers of its candidates that came, the right one first."""

    contents: int
    tasks: list[str]
    numbers: list[list[int]]


def groups_of(batch: Batch, present: torch.Tensor) -> CandidateGroups:
    """Take what came of a batch. A query says nothing whose right candidate could not be read, or all others."""
    owner, there = batch["owner"].tolist(), present.tolist()
    every: list[list[int]] = [[] for _ in batch["tasks"]]
    for number, row in enumerate(owner):
        every[row].append(number)
    known = [(task, [one for one in own if there[one]]) for task, own in zip(batch["tasks"], every, strict=True) if there[own[0]]]
    good = [(task, own) for task, own in known if len(own) > 1]
    return CandidateGroups(len(present), [task for task, _ in good], [own for _, own in good])
