"""A model as mteb wants it, around our engine: batches by cost, every content embedded once, vectors kept on disk.

It follows mteb's protocols (`EncoderProtocol` and `SearchProtocol`) and, where a number depends on it, mteb's own wrapper of
sentence-transformers: which prompt stands before what, which columns of a row count, the similarity, the search. So the scores are those
of that wrapper. What differs are the last bits of a vector (other batches), and that equal contents get equal vectors here: mteb's order
of two candidates of one content is then the one of their ids, and not of noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mteb.models import SearchEncoderWrapper
from mteb.models.abs_encoder import AbsEncoder, get_prompt
from mteb.similarity_functions import cos_sim

from ..embedding.prompts import prompt_of
from ..errors import UsageError
from .mteb_inputs import documents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from .ranking import Side
    from .vectors import VectorSource

    Rankings = Mapping[str, Mapping[str, float]]  # query -> candidate -> score


class MtebModel(AbsEncoder):  # type: ignore[misc]
    """Vectors of one model for mteb; `meta` says what the model is."""

    def __init__(self, vectors: VectorSource, meta: Any) -> None:
        self.vectors, self.mteb_model_meta = vectors, meta
        self.model = getattr(vectors.engine, "sentence", None)
        prompts = {name: text for name, text in getattr(self.model, "prompts", {}).items() if text}
        self.model_prompts = self.validate_task_to_prompt_name(prompts, raise_for_invalid_keys=False)[0]
        self.rankings: dict[tuple[str, str], Rankings] = {}  # (split, subset) -> what the last search found
        self._search: Any = None

    def encode(
        self, inputs: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, prompt_type: Any = None, **kwargs: Any
    ) -> NDArray[Any]:
        """Return the vectors of what a loader holds, as rows."""
        if kwargs.get("precision") not in (None, "float32"):
            raise UsageError(f"precision {kwargs['precision']!r} is not for this model: its vectors are float32")
        side: Side | None = None if prompt_type is None else prompt_type.value
        what = {"query": "queries", "document": "candidates"}.get(str(side), "inputs")
        place = f"mteb:{task_metadata.name}/{hf_split}" + (f"/{hf_subset}" if hf_subset != "default" else "") + f" {what}"
        rows = documents(inputs, self.mteb_model_meta.modalities, place)
        bad: dict[int, Any] = {}
        instruction = self._instruction(get_prompt(self.model_prompts, task_metadata, prompt_type), side)
        found = self.vectors(rows, side, f"{task_metadata.name}: {what}", bad, instruction=instruction)
        if bad:
            raise bad[min(bad)]
        return found

    def _instruction(self, prompt: str | None, side: Side | None) -> str | None:
        """Return a prompt that the engine would not find by itself; one that it would shares its vectors with all suites."""
        return None if not prompt or prompt == prompt_of(self.model, side=side) else prompt

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each with each, as the model measures it."""
        compare = getattr(self.model, "similarity", None) or cos_sim
        return compare(embeddings1, embeddings2)

    def index(self, corpus: Any, **kwargs: Any) -> None:
        """Take the candidates of a search."""
        self._search = SearchEncoderWrapper(self)
        self._search.index(corpus, **kwargs)

    def search(self, queries: Any, **kwargs: Any) -> Rankings:
        """Return the best candidates of each query with their scores, and keep them: they are the outcomes of a task's items."""
        found: Rankings = self._search.search(queries, **kwargs)
        self.rankings[kwargs["hf_split"], kwargs["hf_subset"]] = found
        return found
