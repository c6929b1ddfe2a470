"""`data check`: open every source of a recipe, count, show one row of each as a model sees it, and list what is bad, before any training.

Every row is read and the header of every picture; pixels are decoded for the row that is shown, and for all rows with `decode`.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.config import load
from twoway.content import ContentError, Text
from twoway.data.encode import Encoder
from twoway.data.mixture import Mixture, SourceConfig, open_source_table, require_names
from twoway.data.patches import PatchGeometry
from twoway.data.policy import Policy
from twoway.data.progress import steps
from twoway.errors import TwowayError, UsageError
from twoway.images import Limits, open_document
from twoway.model.pixels import set_pixels
from twoway.model.source import locate
from twoway.model.start import open_reader

from .convert import _quiet
from .lost_rows import too_large
from .pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twoway.content import Document
    from twoway.data.encode import Example

# How much of a stream is looked at, unless more is asked for: all of it would be a download.
STREAM_ROWS = 64
_SHOWN = 600


@dataclass(frozen=True)
class Shown:
    """One row: what is in it, and with a model what the model reads. `tokens` counts words of the document, picture tokens, and others."""

    identity: str
    place: str
    parts: list[str]
    prompt: str | None = None
    pictures: list[dict[str, Any]] = field(default_factory=list)
    tokens: dict[str, int] = field(default_factory=dict)
    cut: bool = False


@dataclass(frozen=True)
class SourceReport:
    """What is known of one source; `error` says why it cannot be opened at all."""

    name: str
    spec: str
    weight: float
    error: str | None = None
    rows: int = 0
    rows_an_epoch: int = 0
    texts: int = 0  # rows with text
    pictures: int = 0
    characters: int = 0
    megapixels: float = 0.0
    bad: list[str] = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)  # columns that hold pictures and are not read, and in how many rows
    named_pictures: dict[str, tuple[int, int]] = field(default_factory=dict)  # texts of the first rows that name picture files, and all
    only_first: int | None = None
    shown: Shown | None = None

    @property
    def ok(self) -> bool:
        """Whether the source can be trained on as it is."""
        return self.error is None and not self.bad


@dataclass(frozen=True)
class DataReport:
    """All sources."""

    what: str
    model: str | None
    sources: list[SourceReport]

    @property
    def ok(self) -> bool:
        """Whether nothing is bad."""
        return all(source.ok for source in self.sources)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"ok": self.ok, **asdict(self)}


def check_data(
    what: str, *, model: str | Path | None = None, words: Sequence[str] = (), rows: int | None = None, decode: bool = False
) -> DataReport:
    """Check a recipe (a YAML file, with `key=value` words over it) or one spec; `model` lends its tokenizer and image processor."""
    if rows is not None and rows < 1:
        raise UsageError(f"the number of rows to look at is above 0, not {rows}")
    config = load(PretrainConfig, what, words) if Path(what).suffix in (".yaml", ".yml") else load(PretrainConfig, None, words)
    sources = config.data if Path(what).suffix in (".yaml", ".yml") else (SourceConfig(what),)
    if not sources:
        raise UsageError(f"{what} names no data (data: [{{spec: …}}])")
    require_names(sources)
    encoder = None if model is None else _encoder(model, config)
    reports = [_check(source, encoder, rows, decode, Limits.reading(config.limits), alone=len(sources) == 1) for source in sources]
    return DataReport(str(what), None if model is None else str(model), reports)


def _encoder(model: str | Path, config: PretrainConfig) -> Encoder:
    """Make rows of a model's config and processor alone; its weights are not read."""
    with _quiet():
        folder = locate(model)
        settings, processor, _ = open_reader(folder)
        set_pixels(settings, processor, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
        positions = getattr(settings.get_text_config(), "max_position_embeddings", None) or config.max_length
        return Encoder(
            processor, PatchGeometry.of(settings, processor), max_length=min(config.max_length, positions), template=config.template
        )


def _check(source: SourceConfig, encoder: Encoder | None, rows: int | None, decode: bool, limits: Limits, *, alone: bool) -> SourceReport:
    """Look at one source; where it cannot be opened, the others are looked at all the same."""
    report = SourceReport(source.label, source.spec, source.weight)
    bound = rows or (STREAM_ROWS if source.spec.startswith("hub:") else None)
    first = bound if bound is not None and (source.cap is None or bound < source.cap) else None
    asked = replace(source, cap=first or source.cap)
    try:
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) if source.spec.startswith("hub:") else None
            table = open_source_table(asked, folder=kept, policy=Policy("skip"), limits=limits)
            mixture = Mixture((asked,), (table,))
            bad = [*too_large([table], encoder), *(str(error) for error in table.bad)] + (_undecodable(mixture) if decode else [])
            shown, failed = _show(mixture, encoder)
    except TwowayError as error:
        if alone and isinstance(error, UsageError):
            raise
        return replace(report, error=str(error))
    return replace(
        report,
        rows=len(table),
        rows_an_epoch=len(mixture.epoch(0, 0)),
        texts=int((np.asarray(table.characters) > 0).sum()),
        pictures=int(table.first[-1]),
        characters=int(np.asarray(table.characters).sum()),
        megapixels=round(float(np.prod(np.asarray(table.sizes, np.float64), axis=1).sum()) / 1e6, 3),
        bad=list(dict.fromkeys([*bad, *failed])),
        unread=table.unread,
        named_pictures=table.named,
        only_first=first,
        shown=shown,
    )


def _undecodable(mixture: Mixture) -> list[str]:
    """Decode every picture and return what fails."""
    found = []
    for row in steps(range(len(mixture)), f"decoding {mixture.sources[0].label}", total=len(mixture)):
        try:
            open_document(mixture.read(row)[1])
        except ContentError as error:
            found.append(str(error))
    return found


def _show(mixture: Mixture, encoder: Encoder | None) -> tuple[Shown | None, list[str]]:
    """Show the first row that can be used, and say what is wrong with those before it."""
    failed = []
    for row in range(min(len(mixture), 16)):
        try:
            identity, document = mixture.read(row)
            opened = open_document(document)
            example = None if encoder is None else encoder(identity, opened)
        except ContentError as error:
            failed.append(str(error))
            continue
        parts = [part.text[:_SHOWN] if isinstance(part, Text) else describe(part) for part in opened.parts]
        shown = Shown(identity, str(document.place), parts)
        return (shown if encoder is None or example is None else seen(shown, opened, encoder, example)), failed
    return None, failed


def describe(image: Any) -> str:
    """Say how large an opened picture is."""
    return "x".join(map(str, _size(image))) + " picture"


def _size(image: Any) -> tuple[int, int]:
    size: tuple[int, int] = image.source.size
    return size


def seen(shown: Shown, document: Document, encoder: Encoder, example: Example) -> Shown:
    """Add what the model reads."""
    words, images = int(example.words.sum()), int(example.image_tokens.sum())
    numbers = example.pictures.numpy()
    pictures = []
    for number, image in enumerate(document.images[: len(np.unique(numbers))]):
        # What processors give for each picture says how its tokens lie: a grid of patches, or the size it was resized to.
        layout = {name: value[number].tolist() for name, value in example.inputs.items() if name.startswith("image_") and value.ndim == 2}
        pictures.append({"size": list(_size(image)), "tokens": int((numbers == number).sum()), **layout})
    tokens = {"words": words, "image": images, "other": len(example.words) - words - images}
    return replace(shown, prompt=_prompt(encoder, example)[: 4 * _SHOWN], pictures=pictures, tokens=tokens, cut=example.cut)


def _prompt(encoder: Encoder, example: Example) -> str:
    """Decode the tokens, a run of image tokens as one word."""
    ids, images = example.inputs["input_ids"].tolist(), example.image_tokens.tolist()
    pieces, start = [], 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or images[at] != images[start]:
            pieces.append(f"[{at - start} image tokens]" if images[start] else encoder.tokenizer.decode(ids[start:at]))
            start = at
    return "".join(pieces)
