"""What `rerank` measures on the way: where each held-out row's right candidate stands among its own; the best weights, a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from twoway.methods.finetune.callbacks import RankedAnswers, RetrievalCallback, predict_contents, read_examples, summarize
from twoway.training.probes import evaluating

if TYPE_CHECKING:
    from twoway.methods.finetune.callbacks import Retrieval
    from twoway.training.trainer import Trainer

_CASES = 2  # queries shown of each task, and as many of its worst


class RerankCallback(RetrievalCallback):
    """Measures reranking, keeps the best weights, and keeps `report.html` up to date."""

    title, template = "Reranking", "methods/rerank/report.html"

    def measure(self, trainer: Trainer) -> list[Retrieval]:
        """Score the candidates of each row of every set."""
        found, autocast = [], trainer.config.dtype == "bfloat16"
        with evaluating(trainer.module):
            for measured in self.data.eval_rows:
                ranked: list[RankedAnswers] = []
                for examples in read_examples(self.data, measured):
                    batch = self.data.collate([example for _, example in examples])
                    scores = torch.cat(predict_contents(trainer.module, batch, trainer.ranks.device, autocast))[:, 0]
                    left = iter(torch.split(scores, [len(example.contents) for _, example in examples]))
                    for pair, example in examples:
                        documents = [content.document.candidate for content in example.contents]
                        ranked.append(RankedAnswers(pair.query, documents, next(left), torch.arange(len(documents)) == 0))
                if ranked:
                    found.append(summarize(measured, ranked, _CASES))
        return found
