"""Rows with columns of their own become parts: a template such as `"{photo:image}{caption}"`, or a ready mapping by name.

A mapping is a small pure function from a row to parts. `moca` reads the sets that MoCa's authors have prepared for their first stage
(arXiv 2506.23115, section 4.1); each other one knows a public data set of that list, as its own authors share it. Texts stay as they stand:
what a template or a text has at its ends, the model reads. None downloads anything: where a data set has addresses instead of pictures,
they are fetched beforehand into a column `image`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from typing import TYPE_CHECKING, Any

from ..content import ContentError
from ..errors import UsageError, did_you_mean
from .rows import interleave, say

if TYPE_CHECKING:
    from .rows import Form, Parts

FORMATS: dict[str, Form] = {}
_KINDS = ("text", "image")
# Where MoCa's prepared sets have a picture in their texts.
_MOCA = re.compile(re.escape("<|vision_start|><|image_pad|><|vision_end|>"))
# Columns of these names hold pictures without being told so.
_PICTURES = ("image", "images")


def form_of(template: str) -> Form:
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
    """`{column}` is a text, `{column:image}` a picture or a list of them; what stands between is text."""

    def __init__(self, template: str) -> None:
        self.pieces: list[tuple[str, str, bool]] = []
        try:
            pieces = list(Formatter().parse(template))
        except ValueError as error:
            raise UsageError(f"the template {template!r} cannot be read ({error})") from error
        for literal, column, kind, _ in pieces:
            if column == "" or (kind and kind not in _KINDS):
                raise UsageError(f"the template {template!r} has a field that is not {{column}}, {{column:text}} or {{column:image}}")
            self.pieces.append((literal, column or "", column in _PICTURES if not kind else kind == "image"))
        if not any(column for _, column, _ in self.pieces):
            raise UsageError(f"the template {template!r} names no column")

    def __call__(self, row: Mapping[str, Any]) -> Parts:
        """Fill the template."""
        parts: Parts = []
        for literal, name, picture in self.pieces:
            say(parts, literal)
            if not name:
                continue
            value = column(row, name)
            if picture:
                parts += pictures_of(value)
            elif value is not None:
                say(parts, value if isinstance(value, str) else str(value))
        return parts


def _format(name: str) -> Callable[[Form], Form]:
    """Register a mapping."""

    def register(form: Form) -> Form:
        FORMATS[name] = form
        return form

    return register


@_format("moca")
def moca(row: Mapping[str, Any]) -> Parts:
    """MoCa's prepared sets (`moca-embed/…`): `text` with a mark for each picture, and `images`, files as bytes."""
    text, pictures = text_of(row, "text"), pictures_of(row.get("images") or [])
    marks = len(_MOCA.findall(text))
    if marks != len(pictures):
        raise ContentError(f"the text has {marks} marks of pictures, and the row has {len(pictures)} pictures")
    return interleave(text, pictures, _MOCA)


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
    return _page(pictures_of(row["image"]), caption)


@_format("mammoth-vl")
def mammoth_vl(row: Mapping[str, Any]) -> Parts:
    """MAmmoTH-VL: `conversations` of `{"from", "value"}` with `<image>` where a picture stands; `image` is a path or a list of them."""
    if row.get("video"):
        raise ContentError("the row has a video, which is not read; take the single_image and multi_image rows")
    turns = column(row, "conversations")
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) and isinstance(turn.get("value"), str) for turn in turns):
        raise ContentError('conversations is not a list of {"from": …, "value": …}')
    return interleave("\n".join(turn["value"] for turn in turns), pictures_of(row.get("image")), strict=True)


@_format("mmeb-train")
def mmeb_train(row: Mapping[str, Any]) -> Parts:
    """MMEB-train: `qry` and `pos_text` with `<|image_1|>` for the picture at `qry_image_path` and `pos_image_path` (empty: none)."""
    sides = [("qry", "qry_image_path"), ("pos_text", "pos_image_path")]
    parts: Parts = []
    for text, path in sides:
        parts += interleave(row.get(text) or "", pictures_of(row.get(path) or None), strict=True)
    return parts


@_format("docmatix")
def docmatix(row: Mapping[str, Any]) -> Parts:
    """DocMatix: `images`, the pages of one document, and `texts` of `{"user", "assistant"}`, questions and answers on them."""
    texts = column(row, "texts")
    if not isinstance(texts, Sequence) or not all(isinstance(pair, Mapping) for pair in texts):
        raise ContentError('texts is not a list of {"user": …, "assistant": …}')
    spoken = [f"{text_of(pair, 'user').strip()} {text_of(pair, 'assistant').strip()}" for pair in texts]
    return _page(pictures_of(column(row, "images")), "\n".join(spoken))


@_format("visrag")
def visrag(row: Mapping[str, Any]) -> Parts:
    """VisRAG training data: `image`, a page, and the `query` it answers."""
    return _page(pictures_of(column(row, "image")), text_of(row, "query"))


@_format("colpali")
def colpali(row: Mapping[str, Any]) -> Parts:
    """ColPali train set: `image`, a page, `query`, and `answer` where there is one (a string, or a list in one source)."""
    answer = row.get("answer")
    words = answer if isinstance(answer, str) else " ".join(map(str, answer or ()))
    return _page(pictures_of(column(row, "image")), f"{text_of(row, 'query')} {words}" if words else text_of(row, "query"))


def _page(pictures: Parts, text: str) -> Parts:
    """Return pictures and then a text, if there is one."""
    say(pictures, text)
    return pictures


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


def pictures_of(value: Any) -> Parts:
    """Return a picture, a list of them, or none."""
    values = value if isinstance(value, list | tuple) else [value]
    return [{"image": one} for one in values if one is not None]
