"""`data check` of pairs: every source is counted and measured, a row is shown as the model sees it, and what is suspect is listed.

Suspect are rows whose query and answer are nearly the same (there is nothing to learn), and, with an evaluation set given, rows that hold
one of its texts or pictures: the same, or for pictures one that looks the same. Texts are counted by length and pictures by size, for each
side.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.config import load
from twoway.content import ContentError, Text
from twoway.data.encode import Encoder
from twoway.data.near import Known
from twoway.data.pair_batch import prompt_of
from twoway.data.pair_mixture import DOCUMENT, QUERY, Pairs, PairSource, open_pairs
from twoway.data.patches import PatchGeometry
from twoway.data.policy import Policy
from twoway.data.progress import steps
from twoway.data.sources import open_source
from twoway.data.task_batches import small_of
from twoway.errors import TwowayError, UsageError
from twoway.images import Limits, open_document
from twoway.model.pixels import set_pixels
from twoway.model.prompting import set_template
from twoway.model.source import locate
from twoway.model.start import open_reader

from .convert import _quiet
from .data_check import STREAM_ROWS, Shown, describe, seen
from .finetune_config import FinetuneConfig
from .finetune_model import place_of
from .lost_rows import too_large
from .pair_measure import SIDES, Side, measure, sides_of
from .pretrain_config import PretrainConfig
from .recipe import read_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from twoway.content import Document
    from twoway.data.mixture import SourceConfig


@dataclass(frozen=True)
class PairsReport:
    """What is known of one source of pairs; `error` says why it cannot be opened at all."""

    name: str
    spec: str
    weight: float
    error: str | None = None
    rows: int = 0
    tasks: dict[str, int] = field(default_factory=dict)
    sides: dict[str, Side] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)  # columns that hold pictures and are not read, and in how many rows
    named_pictures: dict[str, tuple[int, int]] = field(default_factory=dict)  # texts of the first rows that name picture files, and all
    twins: list[str] = field(default_factory=list)  # rows whose query is nearly their answer
    seen_exact: list[str] = field(default_factory=list)  # rows that hold a content of the evaluation set
    seen_near: list[str] = field(default_factory=list)  # rows that hold a picture like one of it
    only_first: int | None = None
    shown: dict[str, Shown] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the source can be trained on as it is; what is suspect does not stand in the way."""
        return self.error is None and not self.bad


@dataclass(frozen=True)
class PairsCheck:
    """All sources."""

    what: str
    model: str | None
    against: tuple[str, ...]
    sources: list[PairsReport]
    small: str = ""  # tasks with fewer rows than a batch has

    @property
    def ok(self) -> bool:
        """Whether nothing is bad."""
        return all(source.ok for source in self.sources)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"ok": self.ok, **asdict(self)}


def pairs_of(what: str, words: Sequence[str], *, pairs: bool) -> FinetuneConfig | None:
    """Return the configuration of a recipe of pairs, or of one source with `pairs`; None for documents."""
    if Path(what).suffix not in (".yaml", ".yml"):
        pairs = pairs or _reads_as_pairs(what)
        return dataclasses.replace(load(FinetuneConfig, None, words), data=(PairSource(what),)) if pairs else None
    try:
        load(PretrainConfig, what, words)
    except UsageError:
        # Of documents alone it is not; a recipe of several stages has those of its last stage on pairs.
        stages = [stage.config for stage in read_recipe(what, [*words, "base=none"]).stages]
        found = [config for config in stages if isinstance(config, FinetuneConfig) and config.data]
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
    config: FinetuneConfig,
    *,
    model: str | Path | None = None,
    rows: int | None = None,
    decode: bool = False,
    against: Sequence[str] = (),
) -> PairsCheck:
    """Check the sources of a configuration; `against` are evaluation sets (pairs or documents) that must not be in it."""
    encoder = None if model is None else _encoder(model, config)
    known = Known(_contents(against)) if against else None
    alone = len(config.data) == 1
    reports = [_check(source, config, encoder, rows, decode, known, alone=alone) for source in config.data]
    tasks: Counter[str] = Counter()
    for one in reports:
        tasks.update({task or one.name: rows for task, rows in one.tasks.items()})
    whole = not config.mixed and all(one.only_first is None and one.error is None for one in reports)
    small = small_of(tasks, config.batch) if whole else ""
    return PairsCheck(what, None if model is None else str(model), tuple(against), reports, small)


def _encoder(model: str | Path, config: FinetuneConfig) -> Encoder:
    """Make rows as fine-tuning does, of a model's config and processor alone."""
    with _quiet():
        folder = locate(model)
        settings, processor, own = open_reader(folder)
        set_pixels(settings, processor, min_pixels=config.min_pixels, max_pixels=config.max_pixels)
        set_template(processor, style=config.template, place=place_of(config, own))
        positions = getattr(settings.get_text_config(), "max_position_embeddings", None) or config.max_length
        return Encoder(
            processor, PatchGeometry.of(settings, processor), max_length=min(config.max_length, positions), template="chat", as_used=True
        )


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
            yield from ((identity, document) for document in (pair.query, pair.positive, *pair.others))


def _check(
    source: SourceConfig,
    config: FinetuneConfig,
    encoder: Encoder | None,
    rows: int | None,
    decode: bool,
    known: Known | None,
    *,
    alone: bool,
) -> PairsReport:
    """Look at one source; where it cannot be opened, the others are looked at all the same."""
    report = PairsReport(source.label, source.spec, source.weight)
    bound = rows or (STREAM_ROWS if source.spec.startswith("hub:") else None)
    first = bound if bound is not None and (source.cap is None or bound < source.cap) else None
    try:
        with tempfile.TemporaryDirectory() as folder:
            asked = replace(source, cap=first or source.cap)
            kept = Path(folder) if source.spec.startswith("hub:") else None
            pairs = open_pairs([asked], folder=kept, policy=Policy("skip"), limits=Limits.reading(config.limits))
            found = measure(pairs, decode, known)
            large = too_large(pairs.mixture.tables, encoder, pairs=True)
            shown = _show(pairs, encoder, config.all_prompts())
    except TwowayError as error:
        if alone and isinstance(error, UsageError):
            raise
        return replace(report, error=str(error))
    (table,) = pairs.mixture.tables
    bad = [*large, *(str(error) for error in table.bad)]
    counts = {task: int((pairs.task_of == number).sum()) for number, task in enumerate(pairs.tasks)}
    bad += found.pop("bad")
    found |= {"unread": table.unread, "named_pictures": table.named}
    return replace(report, rows=len(pairs), tasks=counts, bad=bad, only_first=first, shown=shown, **found)


def _show(pairs: Pairs, encoder: Encoder | None, prompts: Mapping[str, str]) -> dict[str, Shown]:
    """Show the sides of the first row that can be used."""
    for row in range(min(len(pairs), 16)):
        try:
            identity, pair = pairs.read(row)
            found = {}
            for side, document in dict(reversed(list(sides_of(pair)))).items():
                opened = open_document(document)
                shown = Shown(
                    identity, str(pair.place), [describe(part) if not isinstance(part, Text) else part.text for part in opened.parts]
                )
                if encoder is not None:
                    asked = prompt_of(prompts, pair.task, QUERY if side == "query" else DOCUMENT)
                    shown = seen(shown, opened, encoder, encoder(identity, opened, asked))
                found[side] = shown
        except ContentError:
            continue
        return {side: found[side] for side in SIDES if side in found}
    return {}
