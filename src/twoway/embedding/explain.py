"""How much each part of a picture, each frame of a video and each second of a sound contributes to its similarity with a query.

If a vector is a weighted mean of token states (and linear layers follow), its cosine with a query is a sum with one term for each token:
the gradient of the score at a state, times that state. The length of the vector is held fixed, so the terms add up to the score exactly
(gradient times input, Shrikumar et al., arXiv 1605.01713, which is exact for linear maps). The name of the pooling is not used: the terms
are computed, and used if they add up and picture tokens have a share in them. A state of a two-way model has seen the other tokens, so a
patch shows what the model represents there, not its pixels alone.

For all other models (the last state, EOS, no token states, an unknown layout) a cell of the picture is greyed, and its contribution is the
decrease of the score (occlusion; Zeiler and Fergus, arXiv 1311.2901). These do not add up to the score. Of a video some frames at a time
are greyed, and of a sound a stretch is silenced.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from PIL import Image as PILImage
from sentence_transformers.multi_vector_encoder.interpretability import real_query_token_slice
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import batch_to_device

from twoway.content import Audio, ContentError, Document, Image, Text, Video, open_document
from twoway.data.patches import GRID, VIDEO_GRID, PatchGeometry, TileGrids
from twoway.errors import TwowayError, UsageError
from twoway.sounds import Samples
from twoway.videos import VideoFrames

from .embedder import in_eval_mode
from .inputs import EmbeddingItem, prompt_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from .embedder import Embedder

    Floats = NDArray[np.float32]

Method = Literal["parts", "occlusion"]
_GREY = (128, 128, 128)
_CELLS = 8  # along the longer side of a picture whose cells are greyed one by one, and along time
_BARS = "▁▂▃▄▅▆▇█"
_STRETCHES = 24  # of a sound whose tokens are added up
_GROWS = 0.75  # of a sound's tokens, which half of it has at most where tokens follow time
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
        shades: list[list[float]] = _shades(self.pulls)
        return shades

    def describe(self) -> str:
        """Say in a line which cell pulls most."""
        row, column = np.unravel_index(int(np.argmax(self.pulls)), np.shape(self.pulls))
        rows, columns = np.shape(self.pulls)
        return f"of its small picture row {row + 1} of {rows}, column {column + 1} of {columns} pulls most"

    def as_json(self) -> dict[str, Any]:
        """Return it for an answer."""
        return {"method": self.method, "score": self.score, "rest": self.rest, "grid": self.shades, "pulls": self.pulls}


@dataclass(frozen=True)
class Moment:
    """A stretch of a video or a sound in seconds of its file, and its contribution; of a video the first frame that lies in it.

    `cells` are the contributions over that frame (and those that the model takes together with it), as rows of a grid (`parts` only).
    """

    start: float
    end: float
    pull: float
    frame: PILImage.Image | None = field(default=None, repr=False, compare=False)
    cells: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True)
class WhyInTime:
    """The contribution of each moment of a video or a sound; `rest` is that of words and template (`parts` only)."""

    method: Method
    score: float
    moments: tuple[Moment, ...]
    rest: float | None

    @property
    def shades(self) -> list[float]:
        """Return of each moment how much it pulls, from 0 (the least) to 1; all 0 where none differs from another."""
        shades: list[float] = _shades([moment.pull for moment in self.moments])
        return shades

    @property
    def grids(self) -> list[list[list[float]]] | None:
        """Return the grid over each frame, from 0 (the cell that pulls least in the whole video) to 1, where cells are known."""
        if any(moment.cells is None for moment in self.moments):
            return None
        grids: list[list[list[float]]] = _shades([moment.cells for moment in self.moments])
        return grids

    def describe(self) -> str:
        """Say in a line how strongly each moment pulls, and which pulls most."""
        bars = "".join(_BARS[round(shade * (len(_BARS) - 1))] for shade in self.shades)
        most = max(self.moments, key=lambda moment: moment.pull)
        within = f"{self.moments[0].start:.1f} to {self.moments[-1].end:.1f} s"
        return f"{bars} of {within}, most from second {most.start:.1f} to {most.end:.1f}"

    def as_json(self) -> dict[str, Any]:
        """Return it for an answer, without the frames."""
        grids: Sequence[list[list[float]] | None] = self.grids or [None] * len(self.moments)
        moments = [
            {"start": round(one.start, 3), "end": round(one.end, 3), "pull": one.pull, "shade": shade}
            | ({} if grid is None else {"grid": grid})
            for one, shade, grid in zip(self.moments, self.shades, grids, strict=True)
        ]
        return {"method": self.method, "score": self.score, "rest": self.rest, "moments": moments}


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
        wanted = self._checked(query)
        document = open_document(document, limits=self.engine.settings.limits)
        return self._parts(document, wanted) or self._occlusion(document, wanted)

    def in_time(self, document: Document, query: Sequence[float] | Floats) -> WhyInTime:
        """Say which frames of a document with one video, or which seconds of one with a sound, pull."""
        media = document.media
        if len(media) != 1 or not isinstance(media[0], Video | Audio):
            raise ContentError("when something pulls is shown on one video or one sound, and this is another document", document.place)
        wanted = self._checked(query)
        shown = open_document(document, limits=self.engine.settings.limits)
        part = cast("Video | Audio", shown.media[0])
        timed: Timed = _TimedVideo(part, media[0].end) if isinstance(part, Video) else _TimedSound(part, media[0].start or 0.0)
        return self._parts_in_time(shown, timed, wanted) or self._occlusion_in_time(shown, timed, wanted)

    def _checked(self, query: Sequence[float] | Floats) -> Floats:
        """Return the vector of a query at length 1, or refuse it."""
        wanted = np.asarray(query, np.float32)
        if wanted.ndim != 1 or not 0 < len(wanted) <= self.engine.dimension or not float(np.linalg.norm(wanted)) > 0:
            raise TwowayError(f"a query for this model has 1 to {self.engine.dimension} numbers that are not all 0")
        return wanted / np.linalg.norm(wanted)

    def share(self, document: Document, text: str, query: Sequence[float] | Floats) -> float | None:
        """Return the share of a picture, video or sound in the score of it and a text, from 0 to 1: what it falls by without each.

        Nothing where it falls by neither, since then either of them alone matches as well.
        """
        wanted = np.asarray(query, np.float32)
        picture, words = document.media[0], Text(text)
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

    def _parts_in_time(self, document: Document, timed: Timed, query: Floats) -> WhyInTime | None:
        """Return the terms of the score by time, or nothing where the score has no such terms or the tokens do not follow time."""
        features, inputs = self.prepare(document)
        found = self._terms(features, query)
        if found is None or "input_ids" not in inputs:
            return None
        score, terms = found
        own = self._tokens_in_time(document, timed, inputs)
        if own is None or len(terms) != len(own) or not terms[own].any() or abs(float(terms.sum()) - score) > _EXACT:
            return None
        pulls, rest = terms[own], float(terms.sum() - terms[own].sum())
        if isinstance(timed, _TimedVideo) and self._geometry is not None:
            count, height, width = inputs[VIDEO_GRID][0].tolist()
            merge = round(self._geometry.patches**0.5)
            pulls = pulls.reshape(count, height // merge, width // merge)
        return WhyInTime("parts", score, timed.moments(pulls), rest)

    def _tokens_in_time(self, document: Document, timed: Timed, inputs: dict[str, Tensor]) -> NDArray[np.bool_] | None:
        """Return which tokens of a row are the video's or the sound's; nothing where they do not lie in the order of time."""
        ids = inputs["input_ids"].reshape(-1)
        if isinstance(timed, _TimedVideo):
            geometry = self._geometry
            if geometry is None or geometry.trouble or geometry.video_token is None or VIDEO_GRID not in inputs:
                return None
            own: NDArray[np.bool_] = (ids == geometry.video_token).numpy()
            return own if int(own.sum()) * geometry.patches == int(inputs[VIDEO_GRID][0].prod()) else None
        processor = getattr(self.engine.sentence[0], "processor", None)
        token = Audio.token(processor)
        if token is None or processor is None:
            return None
        number = processor.tokenizer.convert_tokens_to_ids(token)
        own = (ids == number).numpy()
        # Some models hear every sound as one of full length: then a token is of no second, and half a sound has as many.
        _, half = self.prepare(timed.half(document))
        return own if own.any() and int((half["input_ids"] == number).sum()) <= _GROWS * int(own.sum()) else None

    def _occlusion_in_time(self, document: Document, timed: Timed, query: Floats) -> WhyInTime:
        """Return what the score falls by when some frames are greyed, or a stretch is silenced."""
        pieces = timed.pieces(_CELLS)
        seen = [document, *(timed.without(document, piece) for piece in pieces)]
        vectors = self.engine.array(seen, side="document", truncate_dim=len(query))
        scores = vectors @ query / np.linalg.norm(vectors, axis=1)
        return WhyInTime("occlusion", float(scores[0]), timed.moments(scores[0] - scores[1:]), None)


class _TimedVideo:
    """An opened video in time; `end` is that of what is taken of its file."""

    def __init__(self, video: Video, end: float | None) -> None:
        self.video, said = video, video.source.metadata
        self.times = [number / said["fps"] for number in said["frames_indices"]]
        self.end = max(self.times[-1], said["duration"] if end is None else min(end, said["duration"]))

    def pieces(self, most: int) -> list[NDArray[np.int64]]:
        """Cut it into at most so many stretches of whole frames; a frame that stands twice is one."""
        return np.array_split(np.arange(len(self.times)), min(most, len(set(self.times))))

    def without(self, document: Document, frames: NDArray[np.int64]) -> Document:
        """Return the document with these frames in plain grey."""
        pixels = self.video.source.pixels.copy()
        pixels[frames] = _GREY[0]
        return _with(document, replace(self.video, source=VideoFrames(pixels, self.video.source.metadata)))

    def moments(self, pulls: NDArray[np.float64]) -> tuple[Moment, ...]:
        """Return its moments with what they contribute: a number for each piece, or a grid for each frame (or those taken as one)."""
        cells = pulls.ndim == 3
        together = -(-len(self.times) // len(pulls))
        firsts = [*range(0, len(self.times), together)] if cells else [int(piece[0]) for piece in self.pieces(len(pulls))]
        ends = [*(self.times[first] for first in firsts[1:]), self.end]
        frames = [np.ascontiguousarray(self.video.source.pixels[first].transpose(1, 2, 0)) for first in firsts]
        return tuple(
            Moment(self.times[first], end, float(own.sum()), PILImage.fromarray(frame), _rows(own) if cells else None)
            for first, end, frame, own in zip(firsts, ends, frames, pulls, strict=True)
        )


class _TimedSound:
    """An opened sound in time; `start` is where in its file it begins."""

    def __init__(self, sound: Audio, start: float) -> None:
        self.sound, self.start = sound, start
        self.seconds = len(sound.source.values) / sound.source.rate

    def pieces(self, most: int) -> list[NDArray[np.int64]]:
        """Cut it into at most so many stretches."""
        return np.array_split(np.arange(len(self.sound.source.values)), min(most, len(self.sound.source.values)))

    def without(self, document: Document, samples: NDArray[np.int64]) -> Document:
        """Return the document with these samples silent."""
        values = self.sound.source.values.copy()
        values[samples] = 0
        return _with(document, replace(self.sound, source=Samples(values, self.sound.source.rate)))

    def half(self, document: Document) -> Document:
        """Return the document with the first half of it."""
        source = self.sound.source
        return _with(document, replace(self.sound, source=Samples(source.values[: -(-len(source.values) // 2)], source.rate)))

    def moments(self, pulls: NDArray[np.float64]) -> tuple[Moment, ...]:
        """Return its moments with what they contribute: a number for each token or piece, which all last alike."""
        pieces = np.array_split(np.arange(len(pulls)), min(_STRETCHES, len(pulls)))
        second = self.seconds / len(pulls)
        return tuple(
            Moment(self.start + float(piece[0]) * second, self.start + float(piece[-1] + 1) * second, float(pulls[piece].sum()))
            for piece in pieces
        )


Timed = _TimedVideo | _TimedSound


def _with(document: Document, part: Video | Audio) -> Document:
    """Return the document with another video or sound in the place of its own."""
    return Document(tuple(part if isinstance(one, Video | Audio) else one for one in document.parts), document.place)


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


def _shades(values: Any) -> Any:
    """Return numbers between the least of them (0) and the most (1); all 0 where none differs from another."""
    pulls = np.asarray(values)
    low, span = pulls.min(), np.ptp(pulls)
    return ((pulls - low) / span if span > 0 else np.zeros_like(pulls)).round(4).tolist()


def _rows(values: NDArray[Any]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in values)


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
        shades: list[list[float]] = _shades(self.cells)
        return shades


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
