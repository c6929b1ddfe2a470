"""`data prepare`: everything that training needs to know about data before its first step, computed once, in processes, on any machine.

Every source of every stage of a recipe is scanned as that stage reads it, streams are copied, and if the model is known, rows are measured
with its processor; its weights are not read, and no accelerator is used. The results go into the cache of training (`cache_dir`), so
several stages, arms or runs share them. Rows that are bad, lost to the bounds of pictures, or truncated are counted and listed, and a
source that loses so much that training would refuse it is named.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.config import gather, load, takes
from twoway.content import ContentError
from twoway.data.config import PairSource, SourceConfig
from twoway.data.dataset import data_folder
from twoway.data.lengths import room_for_pictures, row_lengths
from twoway.data.mixture import open_mixture, open_pairs
from twoway.data.rows import Policy
from twoway.data.sources.readers import scan_options
from twoway.errors import TwowayError, UsageError
from twoway.files import write_errors
from twoway.limits import Limits
from twoway.methods.bridge import method
from twoway.methods.bridge.config import BridgeSource
from twoway.methods.bridge.rows import open_bridge_mixture
from twoway.methods.convert import quiet_loading
from twoway.methods.finetune import method as finetune_method
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.pretrain import method as pretrain_method
from twoway.methods.pretrain.config import PretrainConfig
from twoway.methods.rerank import method as rerank_method
from twoway.methods.tables import count_lost, describe_excess
from twoway.processes import count_of

from .config import PrepareConfig
from .dry_run import reader_of
from .recipe import START, Recipe, StageRecipe, made_by, read_recipe, sources_of
from .stages import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twoway.data.dataset import RowTable
    from twoway.data.lengths import RowEncoder
    from twoway.data.mixture import Mixture

_METHODS = (pretrain_method.METHOD, method.METHOD, finetune_method.METHOD, rerank_method.METHOD)
_OPEN_DATA = {stage.name: stage.open_data for stage in _METHODS}
LISTED = "bad-rows.jsonl"
_LISTED = 100  # rows of a source that are named of those that are lost, and of those that are cut


@dataclass(frozen=True)
class PreparedSource:
    """The report on one source as one stage reads it; `error` says why it cannot be opened."""

    stage: str
    source: str
    error: str | None = None
    rows: int = 0
    bad: list[str] = field(default_factory=list)
    lost: int | None = None  # rows with a picture that no row has room for; not known without a model
    lost_rows: list[str] = field(default_factory=list)  # the first of them
    cut: int | None = None  # other rows that are longer than max_length, and are cut; not known without a model
    cut_rows: list[str] = field(default_factory=list)  # the first of them
    refused: str | None = None  # why training would not begin: it would lose more than max_bad_share of the rows
    known: bool = False  # whether it was prepared before
    seconds: float = 0.0
    rows_per_second: float = 0.0
    bytes_read: int = 0  # of its files; pictures that rows name by path are not among them
    kept: str | None = None  # the folder of its table; nothing for what is in memory

    @property
    def ok(self) -> bool:
        """Whether it can be trained on as it is."""
        return self.error is None and not self.bad and not self.lost and self.refused is None


@dataclass(frozen=True)
class Preparation:
    """All sources. `notes` say what could not be prepared yet."""

    what: str
    model: str | None
    cache: str
    processes: int
    sources: list[PreparedSource]
    notes: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is bad."""
        return all(source.ok for source in self.sources)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"ok": self.ok, **asdict(self)}


@takes(PrepareConfig)
def prepare_data(what: str, *, words: Sequence[str] = (), config: PrepareConfig | None = None, **options: Any) -> Preparation:
    """Prepare a recipe (a YAML file, with `key=value` words over it) or one source; `options` are the settings of `PrepareConfig`.

    Its `model` replaces the recipe's base.
    """
    config = gather(PrepareConfig, config, options, prepare_data)
    cache_dir = config.cache_dir
    count = count_of(config.processes)
    recipe = _recipe(what, words, config.model, pairs=config.pairs)
    found: list[PreparedSource] = []
    notes: list[str] = []
    chain: list[Any] = []
    named = {stage.name for stage in recipe.stages}
    cache = cache_dir
    for stage in recipe.stages:
        base = None if stage.source in named else recipe.base if stage.source == START else stage.source
        job = SimpleNamespace(name=stage.name, config=stage.config, source=stage.source, base=base, kind=stage.kind)
        chain.append(SimpleNamespace(job=job, base=base, action="do"))
        cache = cache_dir or getattr(stage.config, "cache_dir", None) or cache
        with scan_options(processes=count):
            found += _stage(
                stage, chain, data_folder(cache_dir or getattr(stage.config, "cache_dir", None)), notes, known=bool(recipe.base)
            )
    if not found and not notes:
        raise UsageError(f"{what} names no data")
    return Preparation(what, recipe.base or None, str(data_folder(cache)), count, found, list(dict.fromkeys(notes)))


def _recipe(what: str, words: Sequence[str], model: str | Path | None, *, pairs: bool) -> Recipe:
    """Read a recipe; one source is a recipe of a single stage."""
    base = [] if model is None else [f"base={model}"]
    if Path(what).suffix in (".yaml", ".yml"):
        try:
            return read_recipe(what, [*words, *base])
        except UsageError as error:
            if model is not None or "no base is named" not in str(error):
                raise
            read = read_recipe(what, [*words, "base=none"])
            return dataclasses.replace(read, base="")
    config: Any = load(FinetuneConfig if pairs else PretrainConfig, None, words)
    config = dataclasses.replace(config, data=(PairSource(what) if pairs else SourceConfig(what),))
    kind = KINDS["finetune" if pairs else "pretrain"]
    return Recipe(what, "" if model is None else str(model), (StageRecipe(kind.name, kind, START, kind.name, config),))


def _stage(stage: StageRecipe, chain: Sequence[Any], folder: Path, notes: list[str], *, known: bool) -> list[PreparedSource]:
    """Prepare the sources of one stage: each by itself, so that what one lacks stops no other."""
    listed = [one for sources in sources_of(stage.config).values() for one in sources]
    if listed:
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    here = []
    for source in listed:
        maker = made_by(source)
        if maker is None:
            here.append(source)
        else:
            notes.append(f"{stage.name}: {source.label} is made by the stage {maker}, and read when that is done")
    tried = [_open(stage, source, folder) for source in here]
    if not known:
        notes.append("no model is named, so no row was measured: --model BASE does that too")
        return [one for one, _ in tried]
    good = [mixture for _, mixture in tried if mixture is not None]
    if not good or stage.kind.name not in _OPEN_DATA:
        return [one for one, _ in tried]
    try:
        encoder = _encoder(stage, chain, folder, [mixture.sources[0] for mixture in good])
    except TwowayError as error:
        notes.append(f"{stage.name}: rows cannot be measured: {error}")
        return [one for one, _ in tried]
    most = stage.config.max_bad_share
    return [one if mixture is None else _measured(one, mixture, encoder, folder, most) for one, mixture in tried]


def _open(stage: StageRecipe, source: SourceConfig, folder: Path) -> tuple[PreparedSource, Mixture | None]:
    """Look through one source as the stage reads it."""
    policy = Policy("skip", folder / LISTED, keep=True)
    began = time.perf_counter()
    try:
        mixture: Mixture
        how: dict[str, Any] = {"folder": folder, "policy": policy, "limits": Limits.reading(stage.config.limits)}
        if isinstance(source, PairSource):
            mixture = open_pairs([source], seed=getattr(stage.config, "seed", 0), **how).mixture
        elif isinstance(source, BridgeSource) or stage.kind.name == "bridge":
            mixture = open_bridge_mixture([BridgeSource(**vars(source))], **how)
        else:
            mixture = open_mixture([source], **how)
    except TwowayError as error:
        return PreparedSource(stage.name, source.label, error=str(error)), None
    seconds = time.perf_counter() - began
    table: RowTable = mixture.tables[0]
    rows = len(table) + len(table.bad)
    return PreparedSource(
        stage.name,
        source.label,
        rows=rows,
        bad=[str(error) for error in table.bad],
        known=not table.scanned,
        seconds=round(seconds, 3),
        rows_per_second=round(rows / max(seconds, 1e-9), 1),
        bytes_read=sum(path.stat().st_size for path in table.reader.files() if path.exists()),
        kept=None if table.folder is None else str(table.folder),
    ), mixture


def _encoder(stage: StageRecipe, chain: Sequence[Any], folder: Path, sources: Sequence[SourceConfig]) -> Any:
    """Open the stage's data as training does, which measures the rows; return what encodes them."""
    alone = dict.fromkeys(("data", "eval_data"), ()) | {"data": tuple(one for one in sources if one in stage.config.data)}
    changes = {"on_bad": "skip", "max_bad_share": 1.0, "cache_dir": folder.parent, "prepared_only": False, **_ALONE, **alone}
    known = {one.name for one in dataclasses.fields(stage.config)}
    config = dataclasses.replace(stage.config, **{name: value for name, value in changes.items() if name in known})
    with tempfile.TemporaryDirectory() as scratch, quiet_loading():
        reader = reader_of(chain[-1], chain)
        return _OPEN_DATA[stage.kind.name](config, reader, Path(scratch), shards=1, bad_rows=None).encode


# Settings of what is not the data's, and would be opened or refused with it.
_ALONE: dict[str, Any] = {
    "calibrate": "none",
    "guide": None,
    "small_tasks": "keep",
    "task_weights": {},
    "prompts": {},
    "load_best_model_at_end": False,
    "held_out": 0,
}


def _measured(one: PreparedSource, mixture: Mixture, encoder: Any, folder: Path, most: float) -> PreparedSource:
    """Say which rows of a source are lost or cut; pairs are cut side by side, and no side is measured before it is read."""
    began = time.perf_counter()
    table, pairs = mixture.tables[0], isinstance(mixture.sources[0], PairSource)
    reads: RowEncoder = encoder.encode if pairs else encoder
    lost = count_lost(one.source, table, reads, room_for_pictures(reads), pairs=pairs)
    large = [
        f"{_place(table, row)}: a picture of {tokens:,} tokens, where a row has room for {lost.room:,}"
        for row, tokens in lost.which[:_LISTED]
    ]
    known: dict[str, Any] = {"lost": lost.too_large, "lost_rows": large, "refused": describe_excess([lost], most) or None}
    if not pairs:
        ((rest, shown),) = row_lengths(mixture, encoder, folder=folder)
        lengths = np.rint(rest + shown)
        lengths[[row for row, _ in lost.which]] = 0
        longer = np.flatnonzero(lengths > encoder.max_length)
        said = [
            f"{_place(table, int(row))}: about {int(lengths[row]):,} tokens, and a row has {encoder.max_length:,}"
            for row in longer[:_LISTED]
        ]
        known |= {"cut": len(longer), "cut_rows": said}
    return dataclasses.replace(one, **known, seconds=round(one.seconds + time.perf_counter() - began, 3))


def _place(table: RowTable, row: int) -> str:
    """Return the place of a row, as its reader gives it."""
    try:
        place = table.read(row).place
    except ContentError as error:
        place = error.place
    return str(place or f"{table.spec}:{table.numbers[row]}")
