"""Rerankers: how well each candidate answers a query, by a model that reads both together.

A reranker is a `CrossEncoder` of sentence-transformers: ours, Qwen3-VL-Reranker as it is published, any other for texts alone; or a plain
vision-language model, whose answer to the question of Qwen3-VL-Reranker is read (`models.reranker`). To the engine a pair of query and
candidate is a document, and its score a vector of one number: so pairs are prepared ahead of the model, in batches of one cost, as
documents are. Scores are those of `CrossEncoder.predict` before its activation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from sentence_transformers import CrossEncoder
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from twoway.config import gather, takes
from twoway.content import CandidatePair, ContentError, pair_messages
from twoway.data.sources.formats import document_of
from twoway.errors import TwowayError, UsageError
from twoway.models import adapters, checkpoint, loading, opening, reranker
from twoway.models import processor as processors
from twoway.models.attention import set_attention
from twoway.models.kernels import use_kernels
from twoway.models.processor import set_template

from .config import RerankerConfig
from .embedder import Embedder
from .inputs import Inputs
from .opening import find_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from twoway.content import Document
    from twoway.data.sources.formats import DocumentLike

    from .embedder import Refuse


class Ranked(NamedTuple):
    """A candidate by its number, and its score."""

    number: int
    score: float


class PairInputs(Inputs):
    """Shapes pairs of query and candidate for one model."""

    def kind(self, document: Document) -> str:
        """Return the kind of input that a pair becomes."""
        if not self.single - {"text", "message"}:
            if document.media:
                raise ContentError("this reranker reads texts alone", document.place)
            return "text"
        return super().kind(document)

    def __call__(self, document: Document) -> Any:
        """Return what sentence-transformers is given."""
        assert isinstance(document, CandidatePair)
        if not self.single - {"text", "message"}:
            return ["".join(document.query.texts), "".join(document.candidate.texts)]
        return pair_messages(document, limits=self.limits, processor=self.processor)

    def for_processor(self, shaped: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return a batch of what `__call__` gave; a pair of texts is one as it is."""
        return super().for_processor(shaped) if self.single - {"text", "message"} else (shaped, {})


class Reranker(Embedder):
    """A model that scores candidates."""

    shape = PairInputs
    output = reranker.SCORES

    @property
    def dimension(self) -> int:
        """A score is one number."""
        return 1

    def scores(
        self,
        pairs: Iterable[tuple[DocumentLike, DocumentLike]],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        refuse: Refuse | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Yield (number of the pair, counted from 0; its score) as they come; a bad pair raises, or goes to `refuse`.

        The prompt is the instruction that pairs are judged by, or its name; by default the model's own.
        """
        both = (CandidatePair.of(document_of(query), document_of(candidate)) for query, candidate in pairs)
        for number, vector in self.embed(both, prompt=prompt, prompt_name=prompt_name, refuse=refuse):
            yield number, float(vector[0])

    def rank(self, query: DocumentLike, candidates: Sequence[DocumentLike], **options: Any) -> list[Ranked]:
        """Return the candidates, the best first; options are those of `scores`. Of equal ones the first stays first."""
        asked = document_of(query)
        found = [Ranked(*one) for one in self.scores(((asked, one) for one in candidates), **options)]
        return sorted(found, key=lambda one: (-one.score, one.number))

    def relevance(self, score: float) -> float:
        """Return a score as `CrossEncoder.predict` gives it: through the model's activation, from 0 to 1 where that is a sigmoid."""
        return float(self.sentence.activation_fn(torch.tensor(score, dtype=torch.float64)))


@takes(RerankerConfig)
def open_reranker(model: str | Path | Reranker | CrossEncoder, *, config: RerankerConfig | None = None, **options: Any) -> Reranker:
    """Open a reranker by folder or hub id; `options` are the settings of `RerankerConfig`."""
    config = gather(RerankerConfig, config, options, open_reranker)
    engine = {name: value for name in ("budget", "workers") if (value := getattr(config, name)) is not None}
    if isinstance(model, Reranker):
        return model
    if isinstance(model, CrossEncoder):
        return Reranker.of(model, **engine)
    place = find_device(config.device)
    dtype = config.dtype or ("float32" if place.type == "cpu" else "auto")
    folder = loading.locate(model)
    if adapters.is_adapter(folder):
        raise UsageError(f"{model} is an adapter; 'twoway rerank' merges what it trains, and peft's merge_and_unload any other")
    cross = _open(str(model), folder, dtype)
    if cross.num_labels != 1:
        raise UsageError(f"{model} sorts pairs into {cross.num_labels} classes; a reranker gives one score")
    if config.max_length is not None:
        cross.max_seq_length = min(config.max_length, cross.max_seq_length or config.max_length)
    cross.to(place)
    use_kernels(cross[0].auto_model, config.attn_implementation)
    return Reranker.of(cross, name=str(model), **engine)


def gives_scores(folder: Path) -> bool:
    """Say whether a model scores pairs, and gives no vectors: a reranker's checkpoint, or a text model with a head of scores."""
    if checkpoint.is_encoder(folder):
        return checkpoint.is_reranker(folder)
    config = folder / "config.json"
    names = loading.read_json(config).get("architectures") if config.exists() else None
    return any(str(name).endswith("ForSequenceClassification") for name in names or ())


def _open(name: str, folder: Path, dtype: str) -> CrossEncoder:
    """Open a reranker of any layout."""
    if checkpoint.is_encoder(folder) and not checkpoint.is_reranker(folder):
        raise UsageError(f"{name} gives vectors and no scores; name a reranker ('twoway rerank' trains one)")
    speaks = type(loading.load_config(folder)) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    scores = str((loading.load_config(folder).architectures or [""])[0]).endswith(("ForSequenceClassification", "ForCausalLM"))
    if not checkpoint.is_encoder(folder) and not speaks and not scores:
        raise UsageError(f"{name} has no head of scores; name a reranker ('twoway rerank' trains one)")
    if checkpoint.is_encoder(folder) or not speaks:
        return checkpoint.open_cross_encoder(folder, dtype)
    # A plain model: Qwen3-VL-Reranker as it was first published, or one that is asked without training.
    start = opening.open_start(folder, dtype=dtype)
    set_attention(start.model, opening.declared(start.model.config, start.provenance).attention)  # type: ignore[arg-type]
    if not start.has_head:
        raise TwowayError(f"{name} has no language-model head whose answer could be read; 'twoway rerank' makes a reranker of it")
    parts: Any = processors.load_processor(start.folder)
    processors.require_fit(start.model, parts)
    processors.ensure_template(parts)
    set_template(parts, style="chat", place="system")
    reranker.set_pair_template(parts)
    settings = checkpoint.CheckpointSettings(behind=(reranker.yes_no(parts.tokenizer, name),), reranks=True)
    return checkpoint.read_reranker(start.model, parts, settings)
