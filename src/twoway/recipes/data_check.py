"""`data check`: open, count and measure every source of a recipe, and list bad and suspect rows, before any training."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from twoway.config import gather, load, read_tree, takes
from twoway.content import ContentError, Media, open_document
from twoway.data.collators import task_prompt
from twoway.data.config import DOCUMENT, QUERY, PairSource, SourceConfig
from twoway.data.dataset import open_source
from twoway.data.mixture import Mixture, Pairs, open_pairs, open_source_table, require_names
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder
from twoway.data.rows import Policy
from twoway.data.sampler import describe_small_tasks
from twoway.errors import TwowayError, UsageError
from twoway.images import DEFAULT
from twoway.limits import Limits
from twoway.methods.config import PairsConfig
from twoway.methods.convert import quiet_loading
from twoway.methods.duplicates import EvaluationContents, near_hashes, near_texts, perceptual_hashes
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.finetune.method import place_of
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.tables import describe_too_large
from twoway.models.loading import locate
from twoway.models.opening import open_config_and_processor
from twoway.models.processor import set_pixels, set_template
from twoway.progress import steps

from .config import CheckDataConfig
from .recipe import read_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from twoway.content import Document, Pair
    from twoway.data.processing import Example


# `data check`: open every source of a recipe, count, show one row of each as a model sees it, and list what is bad,
# before any training.
#
# Every row is read and the header of every picture; pixels are decoded for the row that is shown, and for all rows
# with `decode`.

# How much of a stream is checked unless more is requested: all of it would be a download.
STREAM_ROWS = 64
_SHOWN = 600
SourceT = TypeVar("SourceT", bound=SourceConfig)


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
    """The report on one source; `error` says why it cannot be opened."""

    name: str
    spec: str
    weight: float
    error: str | None = None
    rows: int = 0
    bad: list[str] = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)  # columns that hold images and are not read, and in how many rows
    named_pictures: dict[str, tuple[int, int]] = field(default_factory=dict)  # texts of the first rows that name image files, and all
    only_first: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the source can be trained on as it is; suspect rows do not prevent that."""
        return self.error is None and not self.bad


@dataclass(frozen=True)
class DocumentsReport(SourceReport):
    """The report on a source of documents."""

    rows_an_epoch: int = 0
    texts: int = 0  # rows with text
    pictures: int = 0
    characters: int = 0
    megapixels: float = 0.0
    shown: Shown | None = None


SourceT_co = TypeVar("SourceT_co", bound=SourceReport, covariant=True)


@dataclass(frozen=True)
class DataReport(Generic[SourceT_co]):
    """All sources."""

    what: str
    model: str | None
    sources: Sequence[SourceT_co]
    against: tuple[str, ...] = ()  # evaluation sets
    small: str = ""  # tasks with fewer rows than a batch has

    @property
    def ok(self) -> bool:
        """Whether nothing is bad."""
        return all(source.ok for source in self.sources)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"ok": self.ok, **asdict(self)}


@takes(CheckDataConfig)
def check_data(
    what: str, *, words: Sequence[str] = (), config: CheckDataConfig | None = None, **options: Any
) -> DataReport[DocumentsReport] | DataReport[PairsReport]:
    """Check a recipe (a YAML file, with `key=value` words over it) or one source; `options` are the settings of `CheckDataConfig`.

    `model` lends its tokenizer and image processor. Of pairs both sides are measured.
    """
    config = gather(CheckDataConfig, config, options, check_data)
    how: dict[str, Any] = {"model": config.model, "rows": config.rows, "decode": config.decode}
    pairs = pairs_of(what, words, pairs=config.pairs or bool(config.against))
    if pairs is not None:
        return check_pairs(what, pairs, against=config.against, **how)
    return check_documents(what, load(PretrainConfig, what if _is_recipe(what) else None, words), **how)


def check_documents(
    what: str, config: PretrainConfig, *, model: str | Path | None = None, rows: int | None = None, decode: bool = False
) -> DataReport[DocumentsReport]:
    """Check the sources of a configuration, or `what` as the only one."""
    sources = config.data if _is_recipe(what) else (SourceConfig(what),)
    if not sources:
        raise UsageError(f"{what} names no data (data: [{{spec: …}}])")
    require_names(sources)
    encoder = None if model is None else _encoder(model, config)
    reports = [_check(source, encoder, rows, decode, Limits.reading(config.limits), alone=len(sources) == 1) for source in sources]
    return DataReport(str(what), None if model is None else str(model), reports)


def _is_recipe(what: str) -> bool:
    return Path(what).suffix in (".yaml", ".yml")


def _encoder(model: str | Path, config: PretrainConfig | PairsConfig) -> Encoder:
    """Encode rows with only a model's config and processor; its weights are not read."""
    with quiet_loading():
        folder = locate(model)
        settings, processor, own = open_config_and_processor(folder)
        set_pixels(settings, processor, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
        template = config.template
        if isinstance(config, PairsConfig):
            set_template(processor, style=template, place=place_of(config, own) if isinstance(config, FinetuneConfig) else "system")
            template = "chat"  # which the style is part of now
        positions = getattr(settings.get_text_config(), "max_position_embeddings", None) or config.max_length
        return Encoder(processor, PatchGeometry.of(settings, processor), max_length=min(config.max_length, positions), template=template)


@contextmanager
def _first_rows(source: SourceT, rows: int | None) -> Iterator[tuple[SourceT, Path | None, int | None]]:
    """Give the source with its first rows alone where so many are asked for, or it is a stream; the folder for a stream's; and how many."""
    stream = source.spec.startswith("hub:")
    bound = rows or (STREAM_ROWS if stream else None)
    first = bound if bound is not None and (source.cap is None or bound < source.cap) else None
    with tempfile.TemporaryDirectory() as folder:
        yield replace(source, cap=first or source.cap), Path(folder) if stream else None, first


def _check(
    source: SourceConfig, encoder: Encoder | None, rows: int | None, decode: bool, limits: Limits, *, alone: bool
) -> DocumentsReport:
    """Check one source; if it cannot be opened, the others are still checked."""
    report = DocumentsReport(source.label, source.spec, source.weight)
    try:
        with _first_rows(source, rows) as (asked, kept, first):
            table = open_source_table(asked, folder=kept, policy=Policy("skip"), limits=limits)
            mixture = Mixture((asked,), (table,))
            bad = [*describe_too_large([table], encoder), *(str(error) for error in table.bad)] + (_undecodable(mixture) if decode else [])
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
        megapixels=round(float(np.prod(np.asarray(table.sizes, np.float64)[:, 1:], axis=1).sum()) / 1e6, 3),
        bad=list(dict.fromkeys([*bad, *failed])),
        unread=table.unread_pictures,
        named_pictures=table.picture_paths,
        only_first=first,
        shown=shown,
    )


def _undecodable(mixture: Mixture) -> list[str]:
    """Decode every picture and return what fails."""
    found = []
    for row in steps(range(len(mixture)), f"decoding {mixture.sources[0].label}", total=len(mixture)):
        try:
            for document in mixture.read(row)[1].documents:
                open_document(document)
        except ContentError as error:
            found.append(str(error))
    return found


def _show(mixture: Mixture, encoder: Encoder | None) -> tuple[Shown | None, list[str]]:
    """Show the first row that can be used, and say what is wrong with those before it."""
    failed = []
    for row in range(min(len(mixture), 16)):
        try:
            identity, item = mixture.read(row)
            (document,) = item.documents
            opened = open_document(document)
            example = None if encoder is None else encoder(identity, opened)
        except ContentError as error:
            failed.append(str(error))
            continue
        parts = [part.describe(_SHOWN) for part in opened.parts]
        shown = Shown(identity, str(document.place), parts)
        return (shown if encoder is None or example is None else seen(shown, opened, encoder, example)), failed
    return None, failed


def seen(shown: Shown, document: Document, encoder: Encoder, example: Example) -> Shown:
    """Add what the model reads."""
    words, images = int(example.words.sum()), int(example.image_tokens.sum())
    numbers = example.pictures.numpy()
    pictures, kinds = [], {"image": 0, "video": 0, "audio": 0}
    for number, part in enumerate(document.media[: len(document.media) - example.images_cut]):
        # What processors give for each picture says how its tokens lie: a grid of patches, or the size it was resized to.
        said = [(name, value) for name, value in example.inputs.items() if name.startswith(f"{part.modality}_") and value.ndim == 2]
        layout = {name: value[kinds[part.modality]].tolist() for name, value in said}
        kinds[part.modality] += 1
        pictures.append({"size": _size(part, document), "tokens": int((numbers == number).sum()), **layout})
    tokens = {"words": words, "image": images, "other": len(example.words) - words - images}
    return replace(shown, prompt=_prompt(encoder, example)[: 4 * _SHOWN], pictures=pictures, tokens=tokens, cut=example.cut)


def _size(part: Media, document: Document) -> list[int]:
    """Return width and height, and of what has a length that too."""
    width, height, length = part.size(document.place, DEFAULT)
    return [width, height] if length == 1 else [width, height, length]


def _prompt(encoder: Encoder, example: Example) -> str:
    """Decode the tokens, a run of image tokens as one word."""
    ids, images = example.inputs["input_ids"].tolist(), example.image_tokens.tolist()
    pieces, start = [], 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or images[at] != images[start]:
            pieces.append(f"[{at - start} image tokens]" if images[start] else encoder.tokenizer.decode(ids[start:at]))
            start = at
    return "".join(pieces)


# `data check` of pairs: every source is counted and measured, a row is shown as the model sees it, and what is
# suspect is listed.
#
# Suspect are rows whose query and answer are nearly the same (there is nothing to learn), and, with an evaluation set
# given, rows that hold one of its texts or pictures: the same, or for pictures one that looks the same. Texts are
# counted by length and pictures by size, for each side.


@dataclass(frozen=True)
class PairsReport(SourceReport):
    """The report on a source of pairs."""

    tasks: dict[str, int] = field(default_factory=dict)
    sides: dict[str, Side] = field(default_factory=dict)
    twins: list[str] = field(default_factory=list)  # rows whose query is nearly their answer
    seen_exact: list[str] = field(default_factory=list)  # rows that hold a content of the evaluation set
    seen_near: list[str] = field(default_factory=list)  # rows that hold an image like one of it
    shown: dict[str, Shown] = field(default_factory=dict)


def pairs_of(what: str, words: Sequence[str], *, pairs: bool) -> PairsConfig | None:
    """Return the configuration of a recipe of pairs, or of one source with `pairs`; None for documents."""
    if not _is_recipe(what):
        pairs = pairs or _reads_as_pairs(what)
        return dataclasses.replace(load(FinetuneConfig, None, words), data=(PairSource(what),)) if pairs else None
    try:
        load(PretrainConfig, what, words)
    except UsageError:
        if (read_tree(what).children or {}).keys() <= {one.name for one in dataclasses.fields(PretrainConfig)}:
            raise
        # Of documents alone it is not; a recipe of several stages has those of its last stage on pairs.
        stages = [stage.config for stage in read_recipe(what, [*words, "base=none"]).stages]
        found = [config for config in stages if isinstance(config, PairsConfig) and config.data]
        if found:
            return found[-1]
        if pairs:
            raise UsageError(f"{what} has no stage on pairs") from None
        return None
    return load(FinetuneConfig, what, words) if pairs else None


def _reads_as_pairs(spec: str) -> bool:
    """Say whether the first row of a source is a pair; of a stream nothing is fetched to find that out."""
    if spec.startswith("hub:"):
        return False
    try:
        return len(open_pairs([PairSource(spec, cap=1)])) > 0
    except TwowayError:
        return False


def check_pairs(
    what: str,
    config: PairsConfig,
    *,
    model: str | Path | None = None,
    rows: int | None = None,
    decode: bool = False,
    against: Sequence[str] = (),
) -> DataReport[PairsReport]:
    """Check the sources of a configuration; `against` are evaluation sets (pairs or documents) that must not be in it."""
    encoder = None if model is None else _encoder(model, config)
    known = EvaluationContents(_contents(against)) if against else None
    alone = len(config.data) == 1
    reports = [_check_pairs(source, config, encoder, rows, decode, known, alone=alone) for source in config.data]
    tasks: Counter[str] = Counter()
    for one in reports:
        tasks.update({task or one.name: rows for task, rows in one.tasks.items()})
    whole = not config.mixed and all(one.only_first is None and one.error is None for one in reports)
    small = describe_small_tasks(tasks, config.global_batch_size) if whole else ""
    return DataReport(what, None if model is None else str(model), reports, tuple(against), small)


def _contents(specs: Sequence[str]) -> Iterator[tuple[str, Document]]:
    """Yield the contents of evaluation sets, with the names of their rows."""
    for spec in specs:
        try:
            pairs = open_pairs([spec])
        except TwowayError:
            documents = enumerate(open_source(spec, images="lazy"), 1)
            yield from ((f"{spec}#{number}", document) for number, document in documents)
            continue
        for row in steps(range(len(pairs)), f"reading {spec}", total=len(pairs)):
            identity, pair = pairs.read(row)
            yield from ((identity, document) for document in (pair.query, *pair.positives))


def _check_pairs(
    source: SourceConfig,
    config: PairsConfig,
    encoder: Encoder | None,
    rows: int | None,
    decode: bool,
    known: EvaluationContents | None,
    *,
    alone: bool,
) -> PairsReport:
    """Check one source; if it cannot be opened, the others are still checked."""
    report = PairsReport(source.label, source.spec, source.weight)
    try:
        with _first_rows(source, rows) as (asked, kept, first):
            pairs = open_pairs([asked], folder=kept, policy=Policy("skip"), limits=Limits.reading(config.limits))
            found = measure_pairs(pairs, decode, known)
            large = describe_too_large(pairs.mixture.tables, encoder, pairs=True)
            shown = _show_pairs(pairs, encoder, config.all_prompts())
    except TwowayError as error:
        if alone and isinstance(error, UsageError):
            raise
        return replace(report, error=str(error))
    (table,) = pairs.mixture.tables
    bad = [*large, *(str(error) for error in table.bad)]
    counts = {task: int((pairs.task_of == number).sum()) for number, task in enumerate(pairs.tasks)}
    bad += found.pop("bad")
    found |= {"unread": table.unread_pictures, "named_pictures": table.picture_paths}
    return replace(report, rows=len(pairs), tasks=counts, bad=bad, only_first=first, shown=shown, **found)


def _show_pairs(pairs: Pairs, encoder: Encoder | None, prompts: Mapping[str, str]) -> dict[str, Shown]:
    """Show the sides of the first row that can be used."""
    for row in range(min(len(pairs), 16)):
        try:
            identity, pair = pairs.read(row)
            found = {}
            for side, document in dict(reversed(list(sides_of(pair)))).items():
                opened = open_document(document)
                shown = Shown(identity, str(pair.place), [part.describe() for part in opened.parts])
                if encoder is not None:
                    asked = task_prompt(prompts, pair.task, QUERY if side == "query" else DOCUMENT)
                    shown = seen(shown, opened, encoder, encoder(identity, opened, asked))
                found[side] = shown
        except ContentError:
            continue
        return {side: found[side] for side in SIDES if side in found}
    return {}


# Each side of pairs, counted and measured in one pass, and suspect rows.

SIDES = ("query", "positive", "negative")


@dataclass(frozen=True)
class Side:
    """One side of a source's rows; sizes and lengths as minimum, median, 95th percentile and maximum."""

    documents: int = 0
    with_text: int = 0
    with_picture: int = 0
    characters: tuple[int, ...] = ()
    pixels: tuple[int, ...] = ()
    aspect: float = 1.0  # of the longest side to the shortest, the most


def measure_pairs(pairs: Pairs, decode: bool, known: EvaluationContents | None) -> dict[str, Any]:
    """Go through the rows once."""
    lengths: dict[str, list[int]] = {side: [] for side in SIDES}
    sizes: dict[str, list[tuple[int, int]]] = {side: [] for side in SIDES}
    counts = {side: [0, 0, 0] for side in SIDES}
    lists: dict[str, list[str]] = {name: [] for name in ("bad", "twins", "seen_exact", "seen_near")}
    for row in steps(range(len(pairs)), f"measuring {pairs.mixture.sources[0].label}", total=len(pairs)):
        try:
            identity, pair = pairs.read(row)
            for side, document in sides_of(pair):
                counts[side][0] += 1
                counts[side][1] += bool(document.texts)
                counts[side][2] += bool(document.media)
                lengths[side] += [sum(map(len, document.texts))] if document.texts else []
                sizes[side] += [part.size(document.place, DEFAULT)[:2] for part in document.media]
                if decode:
                    open_document(document)
            if _twins(pair, decode):
                lists["twins"].append(identity)
            if known is not None:
                _overlap(identity, pair, known, lists)
        except ContentError as error:
            lists["bad"].append(str(error))
    sides = {
        side: Side(
            counts[side][0],
            counts[side][1],
            counts[side][2],
            _spread(lengths[side]),
            _spread([width * height for width, height in sizes[side]]),
            _aspect(sizes[side]),
        )
        for side in SIDES
        if counts[side][0]
    }
    return {"sides": sides, **lists}


def sides_of(pair: Pair) -> Iterator[tuple[str, Document]]:
    """Yield the documents of a pair with the sides they stand on."""
    yield "query", pair.query
    yield from (("positive", one) for one in pair.positives)
    yield from (("negative", one) for one in pair.negatives)


def _twins(pair: Pair, decode: bool) -> bool:
    """Say whether a query is nearly its answer: their texts, and where pictures are decoded their pictures too."""
    query, positive = pair.query, pair.positive
    if len(query.media) != len(positive.media) or bool(query.texts) != bool(positive.texts):
        return False
    if query.texts and not near_texts(" ".join(query.texts), " ".join(positive.texts)):
        return False
    if not query.media:
        return True
    return decode and all(
        near_hashes(left, right) for left, right in zip(perceptual_hashes(query), perceptual_hashes(positive), strict=True)
    )


def _overlap(identity: str, pair: Pair, known: EvaluationContents, lists: dict[str, list[str]]) -> None:
    """List a row that holds a content of the evaluation set."""
    for _, document in sides_of(pair):
        if (name := known.exact(document)) is not None:
            lists["seen_exact"].append(f"{identity} has a content of {name}")
            return
    for _, document in sides_of(pair):
        if (name := known.near(document)) is not None:
            lists["seen_near"].append(f"{identity} has a picture like one of {name}")
            return


def _spread(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(one) for one in np.percentile(values, [0, 50, 95, 100])) if values else ()


def _aspect(sizes: Sequence[tuple[int, int]]) -> float:
    return round(max((max(size) / min(size) for size in sizes), default=1.0), 2)
