"""How long rows are, without encoding them: characters times a rate that a few rows of each source show, and what pictures of a size get.

How many tokens a picture gets is asked of the processor, which knows it from the size alone, for each size once. Where a processor does
not say, it is read off encoded blank pictures of sizes that stand for the others. The rest of a row (its words, the template, what is
written around pictures) is fitted as a straight line in characters and pictures, for each source its own, since languages differ in rate.

What was found of a source lies beside its table, named by all that it depends on: the rows, the processor, the template, the longest row.
A run, a stage or an arm that asks the same of the same rows encodes none of them again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from twoway.content import ContentError, Document, Image, Media, media_kinds
from twoway.errors import TwowayError
from twoway.files import write_whole

from .dataset import reading_code
from .sampler import NO_EXTRA_COST, RowCosts

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from twoway.limits import Limits
    from twoway.parts import Size

    from .config import CostWeights
    from .dataset import RowTable
    from .mixture import Mixture
    from .processing import Example

    Floats = NDArray[np.float64]

_log = logging.getLogger(__name__)

_SAMPLE, _SIZES = 32, 64
_SIZES_KEPT = 1 << 16
# What says where a processor comes from, not what it does.
_ASIDE = ("_name_or_path", "name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures", "_attn_implementation")
_OF_PROCESSOR = ("processor", "tokenizer", "marks", "grids")  # parts of an encoder


class MediaTokens:
    """Counts the tokens of what is not text in documents from the sizes in headers; the processor is asked for each size once.

    Where it does not say, an image's area stands for them: these counts only decide which rows share a batch.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._known: dict[tuple[type[Media], Size], float] = {}

    def __call__(self, document: Document, limits: Limits) -> float:
        """Count; one whose header cannot be read is an error of its row."""
        return sum(self.of_size(type(part), part.size(document.place, limits)) for part in document.media)

    def of_size(self, kind: type[Media], size: Size) -> float:
        """Return the tokens of a part of this kind and size."""
        tokens = self._known.get((kind, size))
        if tokens is None:
            found = kind.tokens_of_sizes(self.processor, [size])
            if len(self._known) > _SIZES_KEPT:
                self._known.clear()  # which another thread may do at any time
            tokens = self._known[kind, size] = kind.guess_tokens(size) if found is None else found[0]
        return tokens


class RowEncoder(Protocol):
    """What turns a row into tokens, as far as their number goes; where rows are in two parts, `source` is what encodes the first."""

    processor: Any
    max_length: int

    def __call__(self, identity: str, item: Any, /) -> Example:
        """Encode one row: a document, or what else the encoder's mixture holds."""


def estimate_costs(mixture: Mixture, encoder: RowEncoder, weights: CostWeights = NO_EXTRA_COST, *, folder: Path | None = None) -> RowCosts:
    """Estimate what every row of a mixture costs, cut at the encoder's longest row; a `folder` keeps what was found of each source."""
    found = row_lengths(mixture, encoder, folder=folder)
    rest, shown = (np.concatenate([one[place] for one in found]) for place in (0, 1))
    images = np.concatenate([np.asarray(table.images()) for table in mixture.tables])
    # What does not fit is cut from the end; a row keeps at least a token of text.
    rest = np.clip(rest, 1, encoder.max_length)
    return RowCosts.of(rest, np.minimum(shown, encoder.max_length - rest), images, weights)


def row_lengths(mixture: Mixture, encoder: RowEncoder, *, folder: Path | None = None) -> list[tuple[Floats, Floats]]:
    """Return for each source the tokens of its rows before anything is cut, those of pictures apart."""
    conditions = None if folder is None else json.loads(json.dumps(_conditions(encoder), default=str))
    return [_lengths(mixture, number, encoder, folder, conditions) for number in range(len(mixture.tables))]


def _lengths(mixture: Mixture, number: int, encoder: RowEncoder, folder: Path | None, conditions: Any) -> tuple[Floats, Floats]:
    """Return the tokens of each row of a source, those of pictures apart; from the folder, where they were found before."""
    table = mixture.tables[number]
    if folder is None:
        tokens = picture_tokens(table, encoder)
        return _rest(mixture, number, tokens, encoder), tokens
    rows = table.digest()
    key = hashlib.sha256(json.dumps([conditions, rows], sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"lengths-{rows[:16]}-{key}.npy"
    if not path.exists():
        before = [name for other in sorted(folder.glob(f"lengths-{rows[:16]}-*.json")) for name in _differs(conditions, other)]
        if before:
            _log.warning("%s was measured before with another %s; it is measured once more", table.spec, before[0])
        tokens, content = picture_tokens(table, encoder), io.BytesIO()
        np.save(content, np.stack([_rest(mixture, number, tokens, encoder), tokens]), allow_pickle=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path.with_suffix(".json"), json.dumps(conditions))
        write_whole(path, content.getvalue())
    try:
        rest, tokens = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TwowayError(f"{path} cannot be read ({error}); delete it and it is made again") from error
    return rest, tokens


def _conditions(encoder: RowEncoder) -> dict[str, Any]:
    """Return all that decides how long a row is, beside the row."""
    processor = processor_settings(encoder.processor)
    # Special tokens are never read out of a text; and a stage that masks may have made one of its own.
    added = processor.get("tokenizer", {}).get("added_tokens", [])
    processor.get("tokenizer", {})["added_tokens"] = [one for one in added if not one.get("special")]
    return {"code": reading_code(), "processor": _hash(processor), **_settings(encoder)}


def _settings(value: Any) -> Any:
    """Return the settings of our own parts, at any depth; what belongs to the processor is told by the processor."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, list | tuple):
        return [_settings(item) for item in value]
    if type(value).__module__.startswith("twoway."):
        own = {name: item for name, item in sorted(vars(value).items()) if not name.startswith("_") and name not in _OF_PROCESSOR}
        plain = {name: _settings(item) for name, item in own.items()}
        return {"kind": type(value).__name__, **{name: item for name, item in plain.items() if item is not None}}
    return None


def _differs(conditions: dict[str, Any], other: Path) -> list[str]:
    """Return which conditions were others when the same rows were measured before."""
    try:
        before = json.loads(other.read_text())
    except (OSError, ValueError):
        return []
    return [name for name in conditions if conditions[name] != before.get(name)]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def processor_settings(processor: Any) -> dict[str, Any]:
    """Return all that decides what a processor makes of a row.

    Names of folders and versions are left out, and so is what a tokenizer remembers of its latest call (padding, truncation).
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    image = getattr(processor, "image_processor", None)
    found: dict[str, Any] = {"template": getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)}
    if image is not None:
        found["image"] = clean(image.to_dict())
    for name in ("video_processor", "feature_extractor"):
        if getattr(processor, name, None) is not None:
            found[name] = clean(getattr(processor, name).to_dict())
    backend = getattr(tokenizer, "backend_tokenizer", None) or getattr(tokenizer, "_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        settings = json.loads(backend.to_str())
        found["tokenizer"] = {key: value for key, value in settings.items() if key not in ("padding", "truncation")}
        found["side"] = [getattr(tokenizer, name, None) for name in ("padding_side", "truncation_side")]
    return found


def clean(value: Any) -> Any:
    """Leave out what says nothing about results, at any depth."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items() if key not in _ASIDE and item is not None}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value


def picture_tokens(table: RowTable, encoder: RowEncoder) -> Floats:
    """Return how many tokens the pictures of each row get together."""
    sums = np.concatenate([[0.0], np.cumsum(_each(table, encoder))])
    return np.asarray(sums[table.first[1:]] - sums[table.first[:-1]], np.float64)


def deciding_picture_tokens(table: RowTable, encoder: RowEncoder, *, pairs: bool = False) -> Floats:
    """Return the tokens of the picture that decides whether a row can be used: a document's first, or the largest of a pair's sides."""
    each, first = _each(table, encoder), np.asarray(table.first)
    found = np.zeros(len(table))
    shown = np.flatnonzero(np.diff(first) > 0)
    if len(shown):
        # Rows without pictures lie between these and have none of their own, so each stretch ends where the next begins.
        found[shown] = np.maximum.reduceat(each, first[shown]) if pairs else each[first[shown]]
    return found


def room_for_pictures(encoder: RowEncoder) -> int:
    """Return how many tokens a row has for its first picture, beside what the template writes around it."""
    encode: RowEncoder = getattr(encoder, "source", encoder)
    try:
        example = encode("blank", Document((Image.sample((8, 8, 1)),)))
    except ContentError:
        return 0
    return encode.max_length - (len(example.words) - int(example.image_tokens.sum()))


def _each(table: RowTable, encoder: RowEncoder) -> Floats:
    """Return how many tokens each picture of a table gets."""
    if not len(table.sizes):
        return np.zeros(0)
    given = np.asarray(table.sizes, np.int64)
    # One number for each size, because unique rows take many times as long.
    key = np.zeros(len(given), np.int64)
    for column in given.T:
        values, place = np.unique(column, return_inverse=True)
        key = key * len(values) + place
    _, one, which = np.unique(key, return_index=True, return_inverse=True)
    sizes, found = given[one], np.zeros(len(one))
    for number, kind in enumerate(media_kinds()):
        own = sizes[:, 0] == number
        if own.any():
            said = kind.tokens_of_sizes(encoder.processor, sizes[own, 1:].tolist())
            found[own] = _tokens_by_trial(kind, sizes[own, 1:], encoder) if said is None else np.array(said, np.float64)
    return np.asarray(found[which], np.float64)


def _tokens_by_trial(kind: type[Media], sizes: NDArray[np.int64], encoder: RowEncoder) -> Floats:
    """Encode blank parts of a few sizes, and give every size the tokens of the nearest one."""
    ratio = np.log(sizes.astype(np.float64))
    order = np.lexsort((ratio[:, 0] - ratio[:, 1], ratio.sum(axis=1)))
    chosen = order[np.unique(np.linspace(0, len(order) - 1, _SIZES).astype(int))]
    found = []
    encode: RowEncoder = getattr(encoder, "source", encoder)
    for width, height, length in sizes[chosen].tolist():
        blank = Document((kind.sample((width, height, length)),))
        try:
            found.append(float(encode("blank", blank).image_tokens.sum()))
        except ContentError:
            found.append(float(encoder.max_length))
    nearest = np.empty(len(sizes), np.int64)
    for start in range(0, len(sizes), 4096):
        part = ratio[start : start + 4096, None] - ratio[chosen][None]
        nearest[start : start + 4096] = np.square(part).sum(axis=2).argmin(axis=1)
    return np.array(found)[nearest]


def _rest(mixture: Mixture, number: int, tokens: Floats, encoder: RowEncoder) -> Floats:
    """Fit the part of the length that is no picture on a few rows of one source."""
    table, start = mixture.tables[number], int(mixture.starts[number])
    known = np.stack([np.ones(len(table)), np.asarray(table.characters, np.float64), np.asarray(table.images(), np.float64)], axis=1)
    # Spread over the rows by length, so that the line is not drawn through one corner.
    order = np.argsort(known[:, 1], kind="stable")
    chosen = order[np.unique(np.linspace(0, len(table) - 1, _SAMPLE).astype(int))]
    rows, left, failed = [], [], []
    for row in chosen:
        try:
            example = encoder(*mixture.read(start + int(row)))
        except ContentError as error:
            failed.append(error)
            continue
        if not example.cut:
            rows.append(known[row])
            left.append(len(example.words) - tokens[row])
    if len(failed) == len(chosen):
        raise TwowayError(f"none of {len(chosen)} rows of {table.spec} that were tried can be used, the first: {failed[0]}")
    if not rows:
        return np.full(len(table), float(encoder.max_length))  # every one is cut
    line, *_ = np.linalg.lstsq(np.array(rows), np.array(left), rcond=None)
    return np.asarray(known @ line, np.float64)
