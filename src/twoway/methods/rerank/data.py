"""The data of `rerank`: the pairs of `finetune` and `mine`, each of whose candidates is read with its query, in one row.

A query's candidates are one of its positives (in turn, one an epoch) and its first hard negatives, or as many at random. Rows are written
by the `preprocess` of the module that is saved, from the messages that `CrossEncoder.predict` makes of a pair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from twoway.content import CandidatePair, ContentError, pair_messages
from twoway.data.collators import EncodedContent, PairEncoder
from twoway.data.config import QUERY
from twoway.methods.finetune.data import SentenceInputs, open_encoder, open_pair_data

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from twoway.content import Document, Pair
    from twoway.data.processing import Example
    from twoway.methods.finetune.data import PairData
    from twoway.methods.model import PreparedModel

    from .config import RerankConfig
    from .step import RerankModule


def open_data(
    config: RerankConfig, prepared: PreparedModel[RerankModule], out: Path, *, shards: int, bad_rows: Path | None, keep: bool = False
) -> PairData:
    """Open the sources of a run; with `keep` the list of bad rows is kept."""
    encoder, write = open_encoder(prepared, CandidateInputs)
    encode = CandidateEncoder(
        write,
        prepared.start.settings.prompts,
        config.hard_negatives,
        config.choose,
        config.seed,
        augment=config.augment if config.augment.changes else None,
    )
    return open_pair_data(config, prepared, out, encoder, encode, join=join_candidates, shards=shards, bad_rows=bad_rows, keep=keep)


@dataclass(frozen=True)
class CandidateExample:
    """One row as the model sees it: its query with each candidate, the right one first."""

    identity: str
    task: str
    contents: tuple[EncodedContent, ...]


@dataclass(frozen=True)
class CandidateEncoder(PairEncoder):
    """Turns rows into examples; can be sent to workers."""

    def __call__(self, row: tuple[str, Pair], *, epoch: int) -> CandidateExample:  # type: ignore[override]
        """Encode one row as an epoch has it."""
        identity, pair = row
        drawn = f"{self.seed} {epoch} {identity}"
        contents = []
        for number, candidate in enumerate(self.candidates(row, epoch=epoch)):
            both = CandidatePair.of(pair.query, candidate)
            contents.append(self._content(identity, pair.task, QUERY, both, f"{drawn} candidate {number}"))
        return CandidateExample(identity, pair.task, tuple(contents))

    def to_measure(self, row: tuple[str, Pair], *, epoch: int) -> CandidateExample:  # type: ignore[override]
        """Encode one row to measure on: its pictures as they are."""
        return replace(self, augment=None)(row, epoch=epoch)

    def candidates(self, row: tuple[str, Pair], *, epoch: int) -> list[Document]:
        """Return the candidates of a row as an epoch has them, the right one first."""
        identity, pair = row
        if not pair.negatives:
            reason = "the row has no negatives, and a reranker compares a right candidate with wrong ones; find some with twoway mine"
            raise ContentError(reason, pair.place)
        chosen = self._chosen(identity, len(pair.negatives), epoch)
        return [pair.positives[epoch % len(pair.positives)], *(pair.negatives[number] for number in chosen)]


def join_candidates(rows: Sequence[CandidateExample]) -> tuple[list[EncodedContent], dict[str, Any]]:
    """Return the contents of some rows, one behind the other, and their batch but for the chunks; `owner` is the row of each content."""
    contents = [content for row in rows for content in row.contents]
    owner = [place for place, row in enumerate(rows) for _ in row.contents]
    return contents, {
        "contents": len(contents),
        "owner": torch.tensor(owner),
        "tasks": [row.task for row in rows],
        "identities": [row.identity for row in rows],
    }


class CandidateInputs(SentenceInputs):
    """Writes a query with a candidate as `CrossEncoder.predict` does; can be sent to workers.

    A text that is too long is cut by the module itself, at its end. Beside pictures the text of the candidate is cut first, because
    the module would cut into the pictures.
    """

    def __call__(self, identity: str, document: CandidatePair, instruction: str = "", side: str = "") -> Example:  # type: ignore[override]
        """Write one pair, with an instruction before it."""
        hidden = self.encoder.marks.hide(document.texts).hidden
        if hidden:
            reason = f"the text holds {hidden[0]!r}, which this model's tokenizer reads as a special token"
            raise ContentError(f"{reason}; take it out, or leave such rows out with on_bad=skip", document.place)
        features, cut = self._written(document, instruction)
        return self._example(identity, features, document.place, cut=cut)

    def _written(self, document: CandidatePair, instruction: str) -> tuple[dict[str, Any], bool]:
        """Return the model's inputs of a pair that fits, and whether it was cut."""
        given = document
        for attempt in range(_ATTEMPTS):
            features = self._features(given, instruction, truncation=False, verbose=False)
            excess = features["input_ids"].shape[1] - self.max_length
            if excess <= 0:
                return features, attempt > 0
            if not given.media:
                return self._features(given, instruction, max_length=self.max_length), True
            given = self._shortened(given, excess)
        raise self._too_long(document, features["input_ids"].shape[1])

    def _shortened(self, document: CandidatePair, excess: int) -> CandidatePair:
        """Return it with so many tokens of the candidate's text less."""
        text = "".join(document.candidate.texts)
        ends = self.processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if excess >= len(ends):
            raise self._too_long(document, self.max_length + excess)
        characters = sum(map(len, document.query.texts)) + (ends[-excess - 1][1] if excess < len(ends) else 0)
        return document.cut(characters)

    def _too_long(self, document: CandidatePair, tokens: int) -> ContentError:
        return ContentError(
            f"query and candidate are {tokens:,} tokens, and without the candidate's text still more than max_length "
            f"{self.max_length:,}; bound pictures with max_pixels, or raise max_length",
            document.place,
        )

    def _features(self, document: CandidatePair, instruction: str, **options: Any) -> dict[str, Any]:
        messages = pair_messages(document, limits=self.limits, processor=self.processor)
        made = self._require(messages, instruction, document.place, **options)
        return {name: value for name, value in made.items() if name != "logits_to_keep"}


_ATTEMPTS = 4  # a cut text may become a token more than was counted
