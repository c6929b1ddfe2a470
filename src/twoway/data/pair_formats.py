"""Ready mappings of public contrastive data sets: from a row with columns of its own to the sides of a pair.

The list is that of MoCa's second stage (arXiv 2506.23115, section 4.1): long documents (VisRAG, ColPali), curated pairs (MMEB-train, mmE5
synthetic), and text pairs (E5). None downloads anything: pictures named by path are unpacked beforehand, beside the rows or below `root`.
Instructions that a data set writes into its texts (MMEB) stay there; for others (VisRAG, text pairs) they are the recipe's `prompts`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..content import ContentError
from ..errors import UsageError, did_you_mean
from . import formats
from .pair_rows import PairForm, Sides, columns

PAIR_FORMATS: dict[str, PairForm] = {"columns": columns}
# Where a picture stands in the text, in the words of the models that data sets were made for.
_MARKS = re.compile(r"<\|image_1\|>|<\|image_pad\|>|<\|image\|>|<image>")
_MARK = "<image>"


def pair_form_of(name: str | None) -> PairForm:
    """Return a mapping by name; without one, rows have the usual columns."""
    name = name or "columns"
    if name not in PAIR_FORMATS:
        raise UsageError(
            f"there is no format of pairs {name!r}{did_you_mean(name, PAIR_FORMATS)} (there are: {', '.join(sorted(PAIR_FORMATS))})"
        )
    return PAIR_FORMATS[name]


def _format(name: str) -> Callable[[PairForm], PairForm]:
    """Register a mapping."""

    def register(form: PairForm) -> PairForm:
        PAIR_FORMATS[name] = form
        return form

    return register


@_format("mmeb-train")
def mmeb_train(row: Mapping[str, Any]) -> Sides:
    """MMEB-train (20 sets): `qry`, `qry_image_path`, `pos_text`, `pos_image_path`; `neg_text`, `neg_image_path` where there are some."""
    query = _marked(row.get("qry"), row.get("qry_image_path"))
    positive = _marked(row.get("pos_text"), row.get("pos_image_path"))
    return Sides(query, [positive] if positive else [], _negatives(row.get("neg_text"), row.get("neg_image_path")))


@_format("mme5")
def mme5(row: Mapping[str, Any]) -> Sides:
    """mmE5 synthetic and MMEB with hard negatives: as MMEB-train, `neg_text` and `neg_image_path` lists, or lists written as text."""
    return mmeb_train(row)


@_format("vlm2vec-v2")
def vlm2vec_v2(row: Mapping[str, Any]) -> Sides:
    """VLM2Vec-V2: `query_text`, `query_image` of `{"paths", "bytes"}`, the same for `pos`, lists of them for `neg`."""
    texts, pictures = row.get("neg_text") or [], row.get("neg_image") or []
    texts, pictures = (value if isinstance(value, list | tuple) else [value] for value in (texts, pictures))
    count = max(len(texts), len(pictures))
    negatives = [
        _marked(texts[at] if at < len(texts) else None, _instances(pictures[at] if at < len(pictures) else None)) for at in range(count)
    ]
    query = _marked(row.get("query_text"), _instances(row.get("query_image")))
    positive = _marked(row.get("pos_text"), _instances(row.get("pos_image")))
    return Sides(query, [positive] if positive else [], [one for one in negatives if one], row.get("global_dataset_name") or None)


@_format("visrag")
def visrag(row: Mapping[str, Any]) -> Sides:
    """VisRAG training data (in-domain and synthetic): `query`, and `image`, the page that answers it."""
    return Sides(formats.text_of(row, "query"), [formats.pictures_of(formats.column(row, "image"))])


@_format("colpali")
def colpali(row: Mapping[str, Any]) -> Sides:
    """ColPali train set: `query`, and `image`, the page that answers it (the columns `answer` and `options` are not used)."""
    return Sides(formats.text_of(row, "query"), [formats.pictures_of(formats.column(row, "image"))])


@_format("e5")
def e5(row: Mapping[str, Any]) -> Sides:
    """Text pairs as `query`, `pos` and `neg`, lists of texts (the form that E5's sets such as MS MARCO, NQ and HotpotQA are shared in)."""
    return Sides(formats.text_of(row, "query"), _texts(row.get("pos")), _texts(row.get("neg")), row.get("task") or None)


@_format("passages")
def passages(row: Mapping[str, Any]) -> Sides:
    """MS MARCO and others as Tevatron shares them: `query`, `positive_passages` and `negative_passages` of `{"title", "text"}`."""
    return Sides(formats.text_of(row, "query"), _texts(row.get("positive_passages")), _texts(row.get("negative_passages")))


@_format("dpr")
def dpr(row: Mapping[str, Any]) -> Sides:
    """NQ and others as DPR shares them: `question`, `positive_ctxs` and `hard_negative_ctxs` of `{"title", "text"}`."""
    return Sides(formats.text_of(row, "question"), _texts(row.get("positive_ctxs")), _texts(row.get("hard_negative_ctxs")))


@_format("trl")
def trl(row: Mapping[str, Any]) -> Sides:
    """As TRL's preference data: `prompt`, `chosen` and `rejected`, each a text or chat messages; `images` belong to the prompt."""
    prompt = _messages(formats.column(row, "prompt"), formats.pictures_of(row.get("images") or row.get("image")))
    rejected = _messages(row.get("rejected"), [])
    return Sides(prompt, [_messages(formats.column(row, "chosen"), [])], [rejected] if rejected else [])


def _marked(text: Any, pictures: Any) -> list[dict[str, Any]]:
    """Return the parts of a text with marks where pictures stand; a mark without a picture goes, as in the data sets' own readers."""
    if text is not None and not isinstance(text, str):
        raise ContentError(f"a text of the row is {type(text).__name__}")
    shown = formats.pictures_of(pictures or None)
    plain = _MARKS.sub(_MARK if shown else "", text or "")
    return formats.interleave(plain, _MARK, shown)


def _negatives(texts: Any, paths: Any) -> list[list[dict[str, Any]]]:
    """Pair texts and pictures of negatives by their place; places where both are empty are no negatives."""
    said, shown = _listed(texts), _listed(paths)
    found = []
    for at in range(max(len(said), len(shown))):
        parts = _marked(said[at] if at < len(said) else None, (shown[at] if at < len(shown) else None) or None)
        if parts:
            found.append(parts)
    return found


def _listed(value: Any) -> list[Any]:
    """Return a list; one that was written as text, as some of these sets have it, is read as a literal and never run."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            read = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return [value]  # a text that begins with a bracket
        return list(read) if isinstance(read, list) else [value]
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


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
            title, text = (one.get("title") or "").strip(), formats.text_of(one, "text").strip()
            found.append(f"{title}\n{text}" if title else text)
        else:
            found.append(one)
    return found


def _messages(value: Any, pictures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts of a text or of chat messages; pictures stand at their places in the messages, the others come first."""
    turns = [{"content": value}] if isinstance(value, str) else list(value or [])
    parts: list[dict[str, Any]] = []
    left = list(pictures)
    for turn in turns:
        content = turn.get("content") if isinstance(turn, Mapping) else None
        if content is None:
            raise ContentError('a message is not {"role": …, "content": …}')
        for piece in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if piece.get("type") == "image":
                given = piece.get("image")
                if given is None and not left:
                    raise ContentError("the messages have more places for pictures than the row has pictures")
                parts.append({"image": given} if given is not None else left.pop(0))
            else:
                parts.append({"text": piece.get("text")})
    return [*left, *parts]
