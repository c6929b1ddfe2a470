"""Ready mappings of public contrastive data sets: from a row with columns of its own to the sides of a pair.

The list is that of MoCa's second stage (arXiv 2506.23115, section 4.1): what its authors have prepared (`moca-pairs`), or by hand long
documents (VisRAG, ColPali), curated pairs (MMEB-train, mmE5 synthetic), and text pairs (E5). None downloads anything: pictures named by
path are unpacked beforehand, beside the rows or below `root`. Texts stay as they stand, line breaks at both ends included, and so do
instructions that a data set writes into them (MMEB); for others (VisRAG, text pairs) they are the recipe's `prompts`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..content import ContentError
from ..errors import UsageError, did_you_mean
from . import formats
from .pair_rows import PairForm, Sides, columns
from .rows import MARKS, interleave, parts_of_messages

PAIR_FORMATS: dict[str, PairForm] = {"columns": columns}


@dataclass(frozen=True)
class Drawing:
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


def pair_form_of(name: str | None, seed: int = 0) -> PairForm:
    """Return a mapping by name; without one, rows have the usual columns. What it draws is a function of the seed and of the row."""
    name = name or "columns"
    if name not in PAIR_FORMATS:
        raise UsageError(
            f"there is no format of pairs {name!r}{did_you_mean(name, PAIR_FORMATS)} (there are: {', '.join(sorted(PAIR_FORMATS))})"
        )
    found = PAIR_FORMATS[name]
    return replace(found, seed=seed) if isinstance(found, Drawing) else found


def _format(name: str) -> Callable[[PairForm], PairForm]:
    """Register a mapping."""

    def register(form: PairForm) -> PairForm:
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
    said = _filled(texts, row, seed)
    negatives = [_marked(said[at], paths[at]) for at in range(count) if texts[at] or paths[at]]
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
PAIR_FORMATS |= {name: Drawing(_hard_negatives) for name in ("mmeb-train", "mme5", "moca-pairs")}


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
    prompt = parts_of_messages(formats.column(row, "prompt"), formats.pictures_of(row.get("images") or row.get("image")))
    rejected = parts_of_messages(row["rejected"], []) if row.get("rejected") else []
    return Sides(prompt, [parts_of_messages(formats.column(row, "chosen"), [])], [rejected] if rejected else [])


def _marked(text: Any, pictures: Any) -> list[dict[str, Any]]:
    """Return the parts of a text with marks where pictures stand; a mark without a picture goes, as in the data sets' own readers."""
    if text is not None and not isinstance(text, str):
        raise ContentError(f"a text of the row is {type(text).__name__}")
    shown = formats.pictures_of(pictures or None)
    return interleave((text or "") if shown else MARKS.sub("", text or ""), shown)


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
        raise ContentError(f"{name} is no list of texts: it holds a {type(odd).__name__}")
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
            title, text = one.get("title") or "", formats.text_of(one, "text")
            found.append(f"{title}\n{text}" if title.strip() else text)
        else:
            found.append(one)
    return found
