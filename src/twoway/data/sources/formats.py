"""Formats: rows with columns of their own become documents or pairs, by a template or a ready mapping."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from PIL import Image as PILImage

from twoway.content import KINDS, ContentError, Document, DocumentOrPair, Image, Media, Pair, Part, Place, Video, media_kinds
from twoway.data.rows import (
    TrackedRow,
    append_text,
    document_columns,
    document_from_row,
    interleave,
    parts_of_messages,
    parts_of_row,
    require_columns,
    unwrap,
)
from twoway.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from twoway.data.rows import DocumentFormat, Parts, ReadOptions
    from twoway.limits import Limits


# Rows with columns of their own become parts: a template such as `"{photo:image}{caption}"`, or a ready mapping by
# name.
#
# A mapping is a small pure function from a row to parts. `moca` reads the sets that MoCa's authors have prepared for
# their first stage (arXiv 2506.23115, section 4.1); each other one knows a public data set of that list, as its own
# authors share it. Texts stay as they stand: what a template or a text has at its ends, the model reads. None
# downloads anything: where a data set has addresses instead of pictures, they are fetched beforehand into a column
# `image`.

FORMATS: dict[str, DocumentFormat] = {}
# Where MoCa's prepared sets have a picture in their texts.
_MOCA = re.compile(re.escape("<|vision_start|><|image_pad|><|vision_end|>"))
_SHOWN = re.compile(r"<image>|<video>")  # for a video, in the sets of LLaVA's family


def document_format(template: str) -> DocumentFormat:
    """Return the form of a template (it holds braces) or of a ready mapping."""
    if "{" in template:
        return _Template(template)
    if template not in FORMATS:
        raise UsageError(
            f"there is no format {template!r}{did_you_mean(template, FORMATS)} (there are: {', '.join(sorted(FORMATS))}; "
            'or write a template such as "{image}{caption}")'
        )
    return FORMATS[template]


class _Template:
    """`{column}` is a text, `{column:image}` an image or a list of them; what stands between is text."""

    def __init__(self, template: str) -> None:
        self.pieces: list[tuple[str, str, str]] = []  # what stands before, the column, and the kind of its parts
        try:
            pieces = list(Formatter().parse(template))
        except ValueError as error:
            raise UsageError(f"the template {template!r} cannot be read ({error})") from error
        for literal, column, kind, _ in pieces:
            if column == "" or (kind and kind not in KINDS):
                known = " or ".join(f"{{column:{key}}}" for key in KINDS)
                raise UsageError(f"the template {template!r} has a field that is not {{column}}, {known}")
            # Columns that are called as a document's hold its kinds without being told so.
            named = next((one.key for one in media_kinds() if column in one.columns), "text")
            self.pieces.append((literal, column or "", kind or named))
        if not any(column for _, column, _ in self.pieces):
            raise UsageError(f"the template {template!r} names no column")

    def __call__(self, row: Mapping[str, Any]) -> Parts:
        """Fill the template."""
        parts: Parts = []
        for literal, name, kind in self.pieces:
            append_text(parts, literal)
            if not name:
                continue
            value = column(row, name)
            if kind != "text":
                parts += media_of(value, kind)
            elif value is not None:
                append_text(parts, value if isinstance(value, str) else str(value))
        return parts


def _format(name: str) -> Callable[[DocumentFormat], DocumentFormat]:
    """Register a mapping."""

    def register(form: DocumentFormat) -> DocumentFormat:
        FORMATS[name] = form
        return form

    return register


@_format("moca")
def moca(row: Mapping[str, Any]) -> Parts:
    """MoCa's prepared sets (`moca-embed/…`): `text` with a mark for each picture, and `images`, files as bytes."""
    text, pictures = text_of(row, "text"), media_of(row.get("images") or [])
    marks = len(_MOCA.findall(text))
    if marks != len(pictures):
        raise ContentError(f"the text has {marks} marks of pictures, and the row has {len(pictures)} pictures")
    return interleave(text, pictures, marks=_MOCA)


@_format("dclm")
def dclm(row: Mapping[str, Any]) -> Parts:
    """DCLM-baseline: `text` alone."""
    return [{"text": text_of(row, "text")}]


@_format("pixelprose")
def pixelprose(row: Mapping[str, Any]) -> Parts:
    """PixelProse (CommonPool, CC12M, RedCaps): `vlm_caption`, and `image`, which holds what was fetched from `url`."""
    if row.get("image") is None:
        raise ContentError("PixelProse has only the picture's url; fetch the pictures into a column image (path or bytes), then read that")
    caption = text_of(row, "vlm_caption").strip()
    # Every caption opens with the same words of the model that wrote it, which would be free points for a masked word.
    caption = re.sub(r"^This image displays:?\s*", "", caption, flags=re.IGNORECASE)
    return _page(media_of(row["image"]), caption)


@_format("mammoth-vl")
def mammoth_vl(row: Mapping[str, Any]) -> Parts:
    """MAmmoTH-VL: `conversations` of `{"from", "value"}` with `<image>` where a picture stands; `image` is a path or a list of them.

    Its rows of videos, and those of LLaVA-Video-178K, have a `video` in its place, a path, for which the mark is `<image>` too.
    """
    text, video, image = "\n".join(_turns(row)), row.get("video"), row.get("image")
    if video and image:
        raise ContentError("the row has a video and an image, and its marks do not tell which stands where; write it with parts")
    if video:
        return interleave(text, media_of(video, "video"), Video, _SHOWN, strict=True)
    return interleave(text, media_of(image), strict=True)


@_format("llava-hound")
def llava_hound(row: Mapping[str, Any]) -> Parts:
    """LLaVA-Hound's captions of videos: `video`, the name of a folder of frames, and `conversations`, whose second turn is the caption."""
    return _page(media_of(column(row, "video"), "video"), _asked(row)[1])


@_format("mmeb-train")
def mmeb_train(row: Mapping[str, Any]) -> Parts:
    """MMEB-train: `qry` and `pos_text` with `<|image_1|>` for the picture at `qry_image_path` and `pos_image_path` (empty: none)."""
    sides = [("qry", "qry_image_path"), ("pos_text", "pos_image_path")]
    parts: Parts = []
    for text, path in sides:
        parts += interleave(row.get(text) or "", media_of(row.get(path) or None), strict=True)
    return parts


@_format("docmatix")
def docmatix(row: Mapping[str, Any]) -> Parts:
    """DocMatix: `images`, the pages of one document, and `texts` of `{"user", "assistant"}`, questions and answers on them."""
    texts = column(row, "texts")
    if not isinstance(texts, Sequence) or not all(isinstance(pair, Mapping) for pair in texts):
        raise ContentError('texts is not a list of {"user": …, "assistant": …}')
    spoken = [f"{text_of(pair, 'user').strip()} {text_of(pair, 'assistant').strip()}" for pair in texts]
    return _page(media_of(column(row, "images")), "\n".join(spoken))


@_format("visrag")
def visrag_documents(row: Mapping[str, Any]) -> Parts:
    """VisRAG training data: `image`, a page, and the `query` it answers."""
    return _page(media_of(column(row, "image")), text_of(row, "query"))


@_format("colpali")
def colpali_documents(row: Mapping[str, Any]) -> Parts:
    """ColPali train set: `image`, a page, `query`, and `answer` where there is one (a string, or a list in one source)."""
    answer = row.get("answer")
    words = answer if isinstance(answer, str) else " ".join(map(str, answer or ()))
    return _page(media_of(column(row, "image")), f"{text_of(row, 'query')} {words}" if words else text_of(row, "query"))


def _page(pictures: Parts, text: str) -> Parts:
    """Return pictures and then a text, if there is one."""
    append_text(pictures, text)
    return pictures


def _turns(row: Mapping[str, Any]) -> list[str]:
    """Return what is said in `conversations`, turn by turn."""
    turns = column(row, "conversations")
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) and isinstance(turn.get("value"), str) for turn in turns):
        raise ContentError('conversations is not a list of {"from": …, "value": …}')
    return [turn["value"] for turn in turns]


def _asked(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the first turn of `conversations` and its answer."""
    turns = _turns(row)
    if len(turns) < 2:
        raise ContentError("conversations has no question with an answer")
    return turns[0], turns[1]


def column(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column that must be there."""
    if name not in row:
        raise ContentError(f"the row has no column {name}{did_you_mean(name, row)} (it has {', '.join(map(str, row))})")
    return row[name]


def text_of(row: Mapping[str, Any], name: str) -> str:
    """Return the text of a column that must be there."""
    value = column(row, name)
    if not isinstance(value, str):
        raise ContentError(f"the column {name} holds no text but {type(value).__name__}")
    return value


def media_of(value: Any, kind: str = "image") -> Parts:
    """Return a part of a kind, a list of them, or none."""
    values = value if isinstance(value, list | tuple) else [value]
    return [{kind: one} for one in values if one is not None]


# One row of contrastive data: what is asked, what answers it, and what does not although it looks like it.
#
# Each side is a document: texts and pictures in any order. A row of a table says its sides in columns (`query`,
# `positive`, `negatives` and the like, see `columns`), or a ready mapping of a public data set does.

# What the two sides of a row may be called.
QUERIES, POSITIVES = ("query", "anchor", "question", "sentence1"), ("positive", "positives", "answer", "sentence2")
_NEGATIVES = "negative"
SCORES = ("positive_scores", "negative_scores")  # columns of a teacher's scores, which `twoway score` writes


def side_suffixes() -> tuple[str, ...]:
    """Return what the columns of a side may end in: it may stand in several, `query_image` and `query_text`, say."""
    return ("", *(f"_{name}" for kind in media_kinds() for name in kind.columns), "_text")


# What Python may give where a document is asked for (`document_of`).
DocumentLike = Document | str | bytes | Path | PILImage.Image | Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class Sides:
    """The sides of a row before they are checked, each whatever `parts_of` takes; the answers are all right."""

    query: Any
    positives: Sequence[Any]
    negatives: Sequence[Any] = ()
    task: str | None = None
    scores: tuple[Any, Any] = (None, None)  # of a teacher: lists of those of the answers and of the negatives


# Turns a row with columns of its own into sides.
PairFormat = Callable[[Mapping[str, Any]], Sides]


def pair_from_row(
    row: object, place: Place, folder: Path | None, options: ReadOptions, format_: PairFormat | None = None, task: str = ""
) -> Pair:
    """Turn one row into a pair, or raise a `ContentError`; `task` is that of rows that name none."""
    root, limits = options.root or folder, options.limits
    try:
        if not isinstance(row, Mapping):
            raise ContentError(f"the row is a {type(row).__name__}, not an object with query and positive")
        tracked = TrackedRow(row)
        sides = (format_ or pair_columns)(tracked)
        query = _side(sides.query, "query", place, root, limits)
        if not sides.positives:
            raise ContentError("the row has no positive: nothing answers its query")
        positives = tuple(_side(one, "positive", place, root, limits) for one in sides.positives)
        negatives = tuple(_side(one, f"negative {number}", place, root, limits) for number, one in enumerate(sides.negatives, 1))
        scores = _scores(sides.scores, len(positives), len(negatives))
    except ContentError as error:
        raise ContentError(error.reason, place) from error
    for number, negative in enumerate(negatives, 1):
        if negative in positives:
            raise ContentError(f"negative {number} is the positive itself", place)
    pair = Pair(query, positives, negatives, sides.task or task, place, scores)
    options.unread_pictures.update(tracked.unread_media(paths=not pair.media))
    return pair


def _scores(given: tuple[Any, Any], *counts: int) -> tuple[float, ...]:
    """Check the scores of a teacher: a number for each side, or none at all."""
    if all(one is None for one in given):
        return ()
    found: list[float] = []
    for name, values, count in zip(SCORES, given, counts, strict=True):
        listed = [] if values is None else values
        if not isinstance(listed, list | tuple) or len(listed) != count:
            had = len(listed) if isinstance(listed, list | tuple) else "no list"
            raise ContentError(f"{name} has {had} of {count} scores: it has one for each {name.partition('_')[0]}")
        for number, value in enumerate(listed, 1):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ContentError(f"{name}: score {number} is {value!r}, not a number")
            found.append(float(value))
    return tuple(found)


def named_sides(item: DocumentOrPair) -> Mapping[str, tuple[Document, ...]]:
    """Return the sides of a pair by their names; a document is the side `text`."""
    if isinstance(item, Document):
        return {"text": (item,)}
    return {"query": (item.query,), "positive": item.positives, "negative": item.negatives}


def is_pair(row: Mapping[str, Any]) -> bool:
    """Tell whether a row has the columns of a pair: a query and an answer."""

    def has_any(names: Sequence[str]) -> bool:
        return any(row.get(f"{name}{kind}") is not None for name in names for kind in side_suffixes())

    return has_any(QUERIES) and has_any(POSITIVES)


# What readers make of a row: a document, a pair, or whichever of the two the row is. A reader is given one of these
# and knows nothing else about it; `row` is a mapping of columns, or what the shipped samples already have as an item.

RowT_co = TypeVar("RowT_co", bound=DocumentOrPair, covariant=True)


class Converter(Protocol[RowT_co]):
    """Turns rows into items. What it holds can be pickled, and decides what a row becomes."""

    makes: ClassVar[Literal["documents", "pairs", "either"]]

    def __call__(self, row: object, place: Place, folder: Path | None, options: ReadOptions) -> RowT_co:
        """Return what a row becomes, or raise a `ContentError` with its place; `folder` is that of the row's file."""

    def require_columns(self, names: Sequence[str], label: object) -> None:
        """Refuse a table whose columns no row can be made of."""

    def reads(self, column: str) -> bool:
        """Tell whether a column may be read; pictures of the others are not fetched."""

    def conditions(self) -> dict[str, object]:
        """Return what changes when rows become something else."""


@dataclass(frozen=True)
class ToDocument:
    """Rows become documents, by the columns of a document or by a format."""

    makes: ClassVar[Literal["documents", "pairs", "either"]] = "documents"
    format: DocumentFormat | None = None

    def __call__(self, row: object, place: Place, folder: Path | None, options: ReadOptions) -> Document:
        """See `Converter`."""
        return row if isinstance(row, Document) else document_from_row(row, place, folder, options, self.format)

    def require_columns(self, names: Sequence[str], label: object) -> None:
        """See `Converter`; a format says of each row what it lacks."""
        if self.format is None:
            require_columns(names, label)

    def reads(self, column: str) -> bool:
        """See `Converter`."""
        return self.format is not None or column in document_columns()

    def conditions(self) -> dict[str, object]:
        """See `Converter`."""
        return {"makes": self.makes, "template": _format_name(self.format)}


@dataclass(frozen=True)
class ToPair:
    """Rows become pairs; `task` is that of rows that name none, or, with `one_task`, of all rows."""

    makes: ClassVar[Literal["documents", "pairs", "either"]] = "pairs"
    format: PairFormat | None = None
    task: str = ""
    one_task: bool = False

    def __call__(self, row: object, place: Place, folder: Path | None, options: ReadOptions) -> Pair:
        """See `Converter`."""
        pair = row if isinstance(row, Pair) else pair_from_row(row, place, folder, options, self.format, self.task)
        return replace(pair, task=self.task) if self.one_task else pair

    def require_columns(self, names: Sequence[str], label: object) -> None:
        """See `Converter`: a pair may stand in many columns, and each row says what it lacks."""

    def reads(self, column: str) -> bool:
        """See `Converter`."""
        return True

    def conditions(self) -> dict[str, object]:
        """See `Converter`."""
        return {"makes": self.makes, "template": _format_name(self.format), "task": [self.task] if self.one_task else self.task}


@dataclass(frozen=True)
class ToEither:
    """A row with the columns of a pair becomes a pair, any other a document."""

    makes: ClassVar[Literal["documents", "pairs", "either"]] = "either"

    def __call__(self, row: object, place: Place, folder: Path | None, options: ReadOptions) -> DocumentOrPair:
        """See `Converter`."""
        if isinstance(row, Document | Pair):
            return row
        if isinstance(row, Mapping) and is_pair(row):
            return pair_from_row(row, place, folder, options)
        return document_from_row(row, place, folder, options)

    def require_columns(self, names: Sequence[str], label: object) -> None:
        """See `Converter`; each row says what it lacks."""

    def reads(self, column: str) -> bool:
        """See `Converter`."""
        return True

    def conditions(self) -> dict[str, object]:
        """See `Converter`."""
        return {"makes": self.makes}


def _format_name(format_: Any) -> Any:
    """Return what tells a format from others, for tables that are kept."""
    return getattr(format_, "pieces", None) or getattr(format_, "__name__", None)


def pair_columns(row: Mapping[str, Any]) -> Sides:
    """Read the columns that most data sets have: query (or anchor), positive (or positives), negative, negatives, negative_1 and so on.

    A side is a text, a picture, a list of parts or of chat messages, or an object with the columns of a document (`rows`); `positives` and
    `negatives` are lists of sides. A picture and a text may also stand in columns of their own: `query_image` (or `query_images`) and
    `query_text`.
    """
    query = _first(row, QUERIES)
    if query is None:
        hint = next((found for key in row if (found := did_you_mean(str(key), QUERIES)) and key not in QUERIES), "")
        raise ContentError(f"the row has no query (columns {', '.join(QUERIES)}){hint}; it has {', '.join(map(str, row))}")
    positives = row["positives"] if isinstance(row.get("positives"), list | tuple) else [_first(row, POSITIVES)]
    negatives: list[Any] = []
    for key in row:
        if key == "negatives" and row[key] is not None:
            if not isinstance(row[key], list | tuple):
                raise ContentError("negatives is a list of sides; a single one goes into the column negative")
            negatives += row[key]
        elif key == _NEGATIVES or (key.startswith(f"{_NEGATIVES}_") and key.removeprefix(f"{_NEGATIVES}_").isdigit()):
            negatives.append(row[key])
    negatives.append(_beside(row, _NEGATIVES))
    task = row.get("task")
    answers, others = ([one for one in side if one is not None] for side in (positives, negatives))
    return Sides(query, answers, others, task or None, (row.get(SCORES[0]), row.get(SCORES[1])))


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first of these columns that holds something, pictures and texts in columns of their own included."""
    for name in names:
        if row.get(name) is not None:
            beside = _beside(row, name) or {}
            pictures = {kind: value for kind, value in beside.items() if kind != "text"}
            return row[name] if not pictures else pictures | {"text": row[name]}
        if (beside := _beside(row, name)) is not None:
            return beside
    return None


def _beside(row: Mapping[str, Any], name: str) -> Any:
    """Return the side that stands in `NAME_image` or `NAME_images`, and `NAME_text`."""
    given = {kind: row.get(f"{name}{kind}") for kind in side_suffixes() if kind}
    given = {kind.removeprefix("_"): value for kind, value in given.items()}
    return {kind: value for kind, value in given.items() if value is not None} or None


def _side(value: Any, name: str, place: Place, root: Path | None, limits: Limits) -> Document:
    """Check one side."""
    try:
        return Document.from_parts(unwrap(parts_of(value)), place=place, root=root, limits=limits)
    except ContentError as error:
        raise ContentError(f"{name}: {error.reason}", place) from error


def document_of(value: object, place: Place | None = None) -> Document:
    """Return what Python gives as a document: one as it is; a text, a picture, a list of parts, or an object with a document's columns."""
    if isinstance(value, Document):
        return value
    try:
        return Document.from_parts(unwrap(parts_of(value)), place=place)
    except ContentError as error:
        raise ContentError(error.reason, place) from error


def documents_of(values: object) -> Iterator[Document]:
    """Return documents out of what `document_of` takes; a single one, whose letters or parts would be taken for several, is refused."""
    if isinstance(values, str | bytes | Mapping | Document) or not isinstance(values, Iterable):
        raise UsageError(f"several documents are expected, not a single {type(values).__name__}; put it into a list")
    return (one if isinstance(one, Document) else document_of(one, Place("documents", number)) for number, one in enumerate(values, 1))


def parts_of(value: Any) -> list[Any]:
    """Return the parts of a side, however it is written."""
    if value is None:
        raise ContentError("it is null")
    if isinstance(value, str):
        return [{"text": value}]
    if isinstance(value, Part):
        return [value]
    if isinstance(value, Mapping) and set(value) <= {"bytes", "path"}:
        return [{_kind_of(value).key: value}]
    if isinstance(value, Mapping) and any(
        kind.key in value and {kind.key} < {*value} <= {kind.key, *kind.options} for kind in media_kinds()
    ):
        return [value]  # a part that says more than what it is
    if isinstance(value, Mapping):
        known = document_columns()
        unknown = [key for key in value if key not in known]
        if unknown:
            raise ContentError(f"it has the unknown key {unknown[0]!r}{did_you_mean(str(unknown[0]), known)}")
        return list(parts_of_row(value))
    if isinstance(value, list | tuple) and value and isinstance(value[0], Mapping) and "role" in value[0]:
        return parts_of_messages(value, {})
    if isinstance(value, list | tuple):
        return [part for one in value for part in parts_of(one)]
    return [{_kind_of(value).key: value}]


def _kind_of(value: Any) -> type[Media]:
    """Return the kind that a value without a name looks like; an image where it looks like none, whose check says what is wrong."""
    return next((kind for kind in media_kinds() if kind.found_in(value, paths=True)), Image)


# Ready mappings of public contrastive data sets: from a row with columns of its own to the sides of a pair.
#
# The list is that of MoCa's second stage (arXiv 2506.23115, section 4.1): what its authors have prepared
# (`moca-pairs`), or by hand long documents (VisRAG, ColPali), curated pairs (MMEB-train, mmE5 synthetic), and text
# pairs (E5). None downloads anything: pictures named by path are unpacked beforehand, beside the rows or below
# `root`. Texts stay as they stand, line breaks at both ends included, and so do instructions that a data set writes
# into them (MMEB); for others (VisRAG, text pairs) they are the recipe's `prompts`.

PAIR_FORMATS: dict[str, PairFormat] = {"columns": pair_columns}


@dataclass(frozen=True)
class RandomFormat:
    """A mapping that draws: what it draws is a function of a run's seed and of the row alone."""

    form: Callable[[Mapping[str, Any], int], Sides]
    seed: int = 0

    def __call__(self, row: Mapping[str, Any]) -> Sides:
        """Read a row."""
        return self.form(row, self.seed)

    @property
    def pieces(self) -> tuple[str, int]:
        """What tells it from others, for tables that are kept."""
        return self.form.__name__, self.seed


def pair_format(name: str | None, seed: int = 0) -> PairFormat:
    """Return a mapping by name; without one, rows have the usual columns. What it draws is a function of the seed and of the row."""
    name = name or "columns"
    if name not in PAIR_FORMATS:
        raise UsageError(
            f"there is no format of pairs {name!r}{did_you_mean(name, PAIR_FORMATS)} (there are: {', '.join(sorted(PAIR_FORMATS))})"
        )
    found = PAIR_FORMATS[name]
    return replace(found, seed=seed) if isinstance(found, RandomFormat) else found


def _pair_format(name: str) -> Callable[[PairFormat], PairFormat]:
    """Register a mapping."""

    def register(form: PairFormat) -> PairFormat:
        PAIR_FORMATS[name] = form
        return form

    return register


def _hard_negatives(row: Mapping[str, Any], seed: int) -> Sides:
    """Read `qry`, `qry_image_path`, `pos_text`, `pos_image_path`; `neg_text` and `neg_image_path` are lists, lists written as text, or one.

    The shorter of the two lists goes on with its last entry. A place where both are empty is no negative.
    """
    query = _marked(row.get("qry"), row.get("qry_image_path"))
    positive = _marked(row.get("pos_text"), row.get("pos_image_path"))
    texts, paths = _listed(row, "neg_text"), _listed(row, "neg_image_path")
    count = max(len(texts), len(paths))
    texts, paths = ([*given, *([(given or [""])[-1]] * (count - len(given)))] for given in (texts, paths))
    filled = _filled(texts, row, seed)
    negatives = [_marked(filled[at], paths[at]) for at in range(count) if texts[at] or paths[at]]
    return Sides(query, [positive] if positive else [], negatives)


def _filled(texts: list[str], row: Mapping[str, Any], seed: int) -> list[str]:
    """Return negatives' texts, each empty one filled as MoCa and mmE5 do: with the positive's where all are alike, else with another's.

    Where the target is a picture, the positive's text is an instruction and its negatives' are empty; left so, a model would tell them
    apart by the missing words.
    """
    others = [row.get("pos_text") or ""] if len(set(texts)) < 2 else [text for text in texts if text]
    names = ("qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path")
    key = json.dumps([seed, *(str(row.get(name)) for name in names)])
    draw = random.Random(hashlib.sha256(key.encode()).digest())
    return [text or draw.choice(others) for text in texts]


# MMEB-train as its authors share it, with mined negatives as mmE5's do (and mmE5's synthetic sets), and MoCa's `MoCa-CL-Pairs`, which has
# pages in the same columns.
PAIR_FORMATS |= {name: RandomFormat(_hard_negatives) for name in ("mmeb-train", "mme5", "moca-pairs")}


@_pair_format("vlm2vec-v2")
def vlm2vec_v2(row: Mapping[str, Any]) -> Sides:
    """VLM2Vec-V2: `query_text`, `query_image` of `{"paths", "bytes"}`, the same for `pos`, lists of them for `neg`.

    Where the text has the mark of a video, the pictures are its frames.
    """
    texts, pictures = row.get("neg_text") or [], row.get("neg_image") or []
    texts, pictures = (value if isinstance(value, list | tuple) else [value] for value in (texts, pictures))
    count = max(len(texts), len(pictures))
    negatives = [_instance(texts[at] if at < len(texts) else None, pictures[at] if at < len(pictures) else None) for at in range(count)]
    query = _instance(row.get("query_text"), row.get("query_image"))
    positive = _instance(row.get("pos_text"), row.get("pos_image"))
    return Sides(query, [positive] if positive else [], [one for one in negatives if one], row.get("global_dataset_name") or None)


@_pair_format("visrag")
def visrag_pairs(row: Mapping[str, Any]) -> Sides:
    """VisRAG training data (in-domain and synthetic): `query`, and `image`, the page that answers it."""
    return Sides(text_of(row, "query"), [media_of(column(row, "image"))])


@_pair_format("colpali")
def colpali_pairs(row: Mapping[str, Any]) -> Sides:
    """ColPali train set: `query`, and `image`, the page that answers it (the columns `answer` and `options` are not used)."""
    return Sides(text_of(row, "query"), [media_of(column(row, "image"))])


@_pair_format("llava-hound-caption")
def llava_hound_captions(row: Mapping[str, Any]) -> Sides:
    """LLaVA-Hound, as VLM2Vec-V2 trains on it: the first turn with its `video` finds the answer, a caption."""
    question, answer = _asked(row)
    return Sides(interleave(question, media_of(column(row, "video"), "video"), Video), [answer])


@_pair_format("llava-hound-qa")
def llava_hound_questions(row: Mapping[str, Any]) -> Sides:
    """LLaVA-Hound's questions, as VLM2Vec-V2 trains on them: an instruction, the first turn and its `video` find the answer."""
    question, answer = _asked(row)
    asked = f"Answer a question based on the content of a video. {question}"
    return Sides(interleave(asked, media_of(column(row, "video"), "video"), Video), [answer])


@_pair_format("llava-hound-video")
def llava_hound_videos(row: Mapping[str, Any]) -> Sides:
    """LLaVA-Hound the other way, as VLM2Vec-V2 trains on it: the caption finds its `video`, each behind an instruction."""
    told = {"text": "Understand the content of the provided video: "}
    asked = f"Find a video that contains the following visual content: {_asked(row)[1]}"
    return Sides(asked, [[told, *media_of(column(row, "video"), "video")]])


@_pair_format("e5")
def e5(row: Mapping[str, Any]) -> Sides:
    """Text pairs as `query`, `pos` and `neg`, lists of texts (the form that E5's sets such as MS MARCO, NQ and HotpotQA are shared in)."""
    return Sides(text_of(row, "query"), _texts(row.get("pos")), _texts(row.get("neg")), row.get("task") or None)


@_pair_format("passages")
def passages(row: Mapping[str, Any]) -> Sides:
    """MS MARCO and others as Tevatron shares them: `query`, `positive_passages` and `negative_passages` of `{"title", "text"}`."""
    return Sides(text_of(row, "query"), _texts(row.get("positive_passages")), _texts(row.get("negative_passages")))


@_pair_format("dpr")
def dpr(row: Mapping[str, Any]) -> Sides:
    """NQ and others as DPR shares them: `question`, `positive_ctxs` and `hard_negative_ctxs` of `{"title", "text"}`."""
    return Sides(text_of(row, "question"), _texts(row.get("positive_ctxs")), _texts(row.get("hard_negative_ctxs")))


@_pair_format("trl")
def trl(row: Mapping[str, Any]) -> Sides:
    """As TRL's preference data: `prompt`, `chosen` and `rejected`, each a text or chat messages; `images` belong to the prompt."""
    prompt = parts_of_messages(column(row, "prompt"), {Image: media_of(row.get("images") or row.get("image"))})
    rejected = parts_of_messages(row["rejected"], {}) if row.get("rejected") else []
    return Sides(prompt, [parts_of_messages(column(row, "chosen"), {})], [rejected] if rejected else [])


def _marked(text: Any, pictures: Any) -> list[dict[str, Any]]:
    """Return the parts of a text with marks where pictures stand; a mark without a picture goes, as in the data sets' own readers."""
    if text is not None and not isinstance(text, str):
        raise ContentError(f"a text of the row is {type(text).__name__}")
    shown = media_of(pictures or None)
    return interleave((text or "") if shown else Image.marks.sub("", text or ""), shown)


def _instance(text: Any, value: Any) -> list[dict[str, Any]]:
    """Return the parts of a VLM2Vec-V2 instance: its text with its pictures, or with a video of these frames."""
    shown = _instances(value)
    if shown and isinstance(text, str) and Video.marks.search(text):
        return interleave(text, [{"video": shown}], Video)
    return _marked(text, shown)


def _listed(row: Mapping[str, Any], name: str) -> list[str]:
    """Return a list; one that was written as text, as some of these sets have it, is read as a literal and never run."""
    value = row.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ContentError(f"{name} begins like a list and cannot be read as one") from error
    given = list(value) if isinstance(value, list | tuple) else [] if value in (None, "") else [value]
    odd = next((one for one in given if not isinstance(one, str | None)), "")
    if odd:
        raise ContentError(f"{name} is not a list of texts: it holds a {type(odd).__name__}")
    return [one or "" for one in given]


def _instances(value: Any) -> list[Any]:
    """Return the pictures of a VLM2Vec-V2 instance; without bytes its paths."""
    if not isinstance(value, Mapping):
        return []
    given, paths = list(value.get("bytes") or []), list(value.get("paths") or [])
    count = max(len(given), len(paths))
    found = [(given[at] if at < len(given) else None) or (paths[at] if at < len(paths) else None) for at in range(count)]
    return [one for one in found if one]


def _texts(value: Any) -> list[str]:
    """Return texts; a passage is its title, then its text."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Sequence):
        raise ContentError(f"a list of texts was expected, not {type(value).__name__}")
    found = []
    for one in value:
        if isinstance(one, Mapping):
            title, text = one.get("title") or "", text_of(one, "text")
            found.append(f"{title}\n{text}" if title.strip() else text)
        else:
            found.append(one)
    return found
