"""How much each part of a picture contributes to its similarity with a query.

If a vector is a weighted mean of token states (and linear layers follow), its cosine with a query is a sum with one term for each token:
the gradient of the score at a state, times that state. The length of the vector is held fixed, so the terms add up to the score exactly
(gradient times input, Shrikumar et al., arXiv 1605.01713, which is exact for linear maps). The name of the pooling is not used: the terms
are computed, and used if they add up and picture tokens have a share in them. A state of a two-way model has seen the other tokens, so a
patch shows what the model represents there, not its pixels alone.

For all other models (the last state, EOS, no token states, an unknown layout) a cell of the picture is greyed, and its contribution is the
decrease of the score (occlusion; Zeiler and Fergus, arXiv 1311.2901). These do not add up to the score.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from sentence_transformers.multi_vector_encoder.interpretability import real_query_token_slice
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import batch_to_device

from twoway.content import ContentError, Document, Image, Text, open_document
from twoway.data.patches import GRID, PatchGeometry, TileGrids
from twoway.errors import TwowayError, UsageError

from .embedder import in_eval_mode
from .inputs import EmbeddingItem, prompt_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image as PILImage
    from torch import Tensor

    from .embedder import Embedder

    Floats = NDArray[np.float32]

Method = Literal["parts", "occlusion"]
_GREY = (128, 128, 128)
_CELLS = 8  # along the longer side of a picture whose cells are greyed one by one
_EXACT = 1e-3  # parts of a score have to add up to it this closely


@dataclass(frozen=True)
class Why:
    """The contribution of each cell of a picture, as rows of a grid over it; `rest` is that of words and template (`parts` only)."""

    method: Method
    score: float
    pulls: tuple[tuple[float, ...], ...]
    rest: float | None

    @property
    def shades(self) -> list[list[float]]:
        """Return the grid from 0 (the cell that pulls least) to 1 (most); all 0 where no cell differs from another."""
        return _shades(self.pulls)


class Explainer:
    """Explains the scores of one model; what it learns about the model's pictures is learnt once."""

    def __init__(self, engine: Embedder) -> None:
        self.engine = engine
        self._head = [module for module in list(engine.sentence)[1:] if not isinstance(module, Normalize)]
        self._geometry, self._grids = _layout(engine.sentence[0])

    def __call__(self, document: Document, query: Sequence[float] | Floats) -> Why:
        """Say what pulls in a document with one picture; the query's vector may be cut to its first numbers (Matryoshka)."""
        if len(document.images) != 1:
            raise ContentError(f"what pulls is shown on one picture, and this has {len(document.images)}", document.place)
        wanted = np.asarray(query, np.float32)
        if wanted.ndim != 1 or not 0 < len(wanted) <= self.engine.dimension or not float(np.linalg.norm(wanted)) > 0:
            raise TwowayError(f"a query for this model has 1 to {self.engine.dimension} numbers that are not all 0")
        document = open_document(document, limits=self.engine.settings.limits)
        wanted = wanted / np.linalg.norm(wanted)
        return self._parts(document, wanted) or self._occlusion(document, wanted)

    def share(self, document: Document, text: str, query: Sequence[float] | Floats) -> float | None:
        """Return the share of a picture in the score of it and a text together, from 0 to 1: what the score falls by without each.

        Nothing where it falls by neither, since then either of them alone matches as well.
        """
        wanted = np.asarray(query, np.float32)
        picture, words = document.images[0], Text(text)
        seen = [Document(parts, document.place) for parts in ((picture, words), (words,), (picture,))]
        vectors = self.engine.array(seen, side="document", truncate_dim=len(wanted))
        both, without_picture, without_text = vectors @ wanted / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted))
        falls = max(0.0, float(both - without_picture)), max(0.0, float(both - without_text))
        return falls[0] / sum(falls) if sum(falls) > 0 else None

    def _parts(self, document: Document, query: Floats) -> Why | None:
        """Return the terms of the score by cell, or nothing where the score has no such terms."""
        if self._geometry is None:
            return None
        features, inputs = self.prepare(document)
        cells = self.cells(document, inputs)
        if cells is None:
            return None
        found = self._terms(features, query)
        if found is None:
            return None
        score, terms = found
        images = self.image_tokens(inputs)
        if len(terms) != len(images):
            return None
        pulls = np.zeros(cells.shape, np.float64)
        shown = cells.places >= 0
        np.add.at(pulls.reshape(-1), cells.places[shown], terms[images][shown])
        if not pulls.any() or abs(float(terms.sum()) - score) > _EXACT:
            return None
        return Why("parts", score, _rows(pulls), float(terms.sum() - pulls.sum()))

    def prepare(self, document: Document) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the model's inputs of a document, and their tensors on the CPU."""
        engine = self.engine
        item = EmbeddingItem(document, "", engine.inputs.kind(document), 0)
        prepared = engine.front.prepare([item], prompt_of(engine.sentence, side="document"), {"task": "document"})
        for _, error in prepared.failed:
            raise error
        return prepared.features, {name: value.cpu() for name, value in prepared.features.items() if isinstance(value, torch.Tensor)}

    def image_tokens(self, inputs: dict[str, Tensor]) -> NDArray[np.bool_]:
        """Return which tokens of a row are the picture's."""
        assert self._geometry is not None
        found: NDArray[np.bool_] = (inputs["input_ids"] == self._geometry.image_token).reshape(-1).numpy()
        return found

    def _terms(self, features: dict[str, Any], query: Floats) -> tuple[float, NDArray[np.float64]] | None:
        """Return the score, and each token's term of it: slope times state, the vector's length held fixed."""
        sentence = self.engine.sentence
        device = sentence.device
        with in_eval_mode(sentence), torch.no_grad():
            out = sentence[0](batch_to_device(features, device))
        states = out.get("token_embeddings")
        if not isinstance(states, torch.Tensor):
            return None
        # A copy outside inference mode, and in float32, because thousands of small terms are added up.
        states = states.detach().float().clone().requires_grad_()
        with in_eval_mode(sentence), torch.enable_grad():
            out["token_embeddings"] = states
            for module in self._head:
                out = module(out)
            vector: Tensor = out["sentence_embedding"][0][: len(query)]
            score = vector @ torch.tensor(query, device=device, dtype=vector.dtype) / vector.detach().norm()
            (slope,) = torch.autograd.grad(score, states)
        terms = (slope * states.detach()).sum(-1).reshape(-1)
        return float(score.detach()), terms.double().cpu().numpy()

    def cells(self, document: Document, inputs: dict[str, Tensor]) -> Cells | None:
        """Return the cell of each picture token in the row, or nothing where the layout is not known."""
        geometry = self._geometry
        if geometry is None or geometry.trouble or "input_ids" not in inputs:
            return None
        count = int((inputs["input_ids"] == geometry.image_token).sum())
        grids = []
        if self._grids is not None and count > geometry.side**2:
            grids = [self._grids(document.images[0].source.size)]  # type: ignore[union-attr]
            if grids == [None]:
                return None
        try:
            places = geometry.places(inputs, torch.zeros(count, dtype=torch.long), grids)
        except (ContentError, TwowayError, KeyError, RuntimeError):
            return None
        if geometry.side:
            return Cells(places.cells, (geometry.side, geometry.side))
        merge = round(geometry.patches**0.5)
        _, height, width = inputs[GRID][0].tolist()
        return Cells(places.cells, (height // merge, width // merge))

    def _occlusion(self, document: Document, query: Floats) -> Why:
        """Return what the score falls by when a cell is greyed."""
        picture: Any = document.images[0].source
        boxes = _boxes(*picture.size)
        seen = [document, *(_greyed(document, picture, box) for row in boxes for box in row)]
        vectors = self.engine.array(seen, side="document", truncate_dim=len(query))
        scores = vectors @ query / np.linalg.norm(vectors, axis=1)
        falls = (scores[0] - scores[1:]).reshape(len(boxes), -1)
        return Why("occlusion", float(scores[0]), _rows(falls), None)


@dataclass(frozen=True)
class Cells:
    """For each picture token its cell (-1: none), and the rows and columns of the grid of cells."""

    places: NDArray[np.int64]
    shape: tuple[int, int]


def _layout(first: Any) -> tuple[PatchGeometry | None, TileGrids | None]:
    """Return the layout of a model's picture tokens, or nothing if it has none or the layout is unknown."""
    config, processor = getattr(getattr(first, "auto_model", None), "config", None), getattr(first, "processor", None)
    if config is None or getattr(processor, "image_token", None) is None:
        return None, None
    processor = copy.deepcopy(processor)  # one that works changes its own settings, and others may be at work with it
    try:
        geometry = PatchGeometry.of(config, processor)
    except (TwowayError, AttributeError, KeyError, ValueError, TypeError):
        return None, None
    return geometry, TileGrids(processor, geometry.side) if geometry.tiled else None


def _boxes(width: int, height: int) -> list[list[tuple[int, int, int, int]]]:
    """Cut a picture into about square cells; a very small one into its pixels."""
    longest = max(width, height)
    columns, rows = (max(1, min(side, round(_CELLS * side / longest))) for side in (width, height))
    xs, ys = (np.linspace(0, side, count + 1).round().astype(int).tolist() for side, count in ((width, columns), (height, rows)))
    return [[(left, top, right, bottom) for left, right in pairwise(xs)] for top, bottom in pairwise(ys)]


def _greyed(document: Document, picture: PILImage.Image, box: tuple[int, int, int, int]) -> Document:
    """Return the document with one cell of its picture in plain grey."""
    changed = picture.copy()
    changed.paste(_GREY, box)
    return Document(tuple(Image(changed) if isinstance(part, Image) else part for part in document.parts), document.place)


def _rows(values: NDArray[Any]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in values)


def _shades(cells: tuple[tuple[float, ...], ...]) -> list[list[float]]:
    values = np.asarray(cells)
    low, span = values.min(), np.ptp(values)
    shades: list[list[float]] = ((values - low) / span if span > 0 else np.zeros_like(values)).round(4).tolist()
    return shades


# Which patches of a picture each word of a question matches, for a model of many vectors: late interaction compares
# them anyway, so this is the score itself and no estimate.


@dataclass(frozen=True)
class WordMatch:
    """A word of a question: the cosine of its vectors with those of each cell of a picture, as rows of a grid, and the largest of them."""

    word: str
    score: float
    cells: tuple[tuple[float, ...], ...]

    @property
    def shades(self) -> list[list[float]]:
        """Return the grid from 0 (the cell that is least like the word) to 1 (most)."""
        return _shades(self.cells)


def match_words(engine: Embedder, document: Document, text: str) -> list[WordMatch]:
    """Return each word of a question with what it matches in a document with one picture; of several tokens a word has the mean."""
    if not engine.late_interaction:
        raise UsageError(f"{engine.name or 'the model'} gives one vector a document, and no word has one of its own")
    if len(document.images) != 1:
        raise ContentError(f"what words match is shown on one picture, and this has {len(document.images)}", document.place)
    document, explainer = open_document(document, limits=engine.settings.limits), Explainer(engine)
    features, inputs = explainer.prepare(document)
    cells = explainer.cells(document, inputs)
    if cells is None:
        raise UsageError(f"{engine.name or 'the model'} does not show where the patches of a picture lie in a row")
    with in_eval_mode(engine.sentence), torch.inference_mode():
        states = engine.sentence(batch_to_device(features, engine.sentence.device), task="document")[engine.output][0].float().cpu().numpy()
    patches = states[explainer.image_tokens(inputs)]
    _, query = next(engine.embed([text], side="query"))
    tokenizer = engine.sentence.tokenizer
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    near = query[real_query_token_slice(engine.sentence, text)] @ patches.T
    if len(near) != len(spans):
        raise ContentError("the words of this question cannot be told from the template around them", document.place)
    shown, found = cells.places >= 0, []
    for word in re.finditer(r"\S+", text):
        tokens = [number for number, (start, end) in enumerate(spans) if start < word.end() and end > word.start()]
        grid = np.full(cells.shape, -1.0)
        np.maximum.at(grid.reshape(-1), cells.places[shown], near[tokens].mean(axis=0)[shown])
        found.append(WordMatch(word.group(), float(grid.max()), _rows(grid)))
    return found
