"""`plan`: the cost of a recipe at full size on other hardware: operations, tokens, hours, cost, and what fits in memory.

Only the model's config is read, and for known published sizes not even that. Operations are counted on the very module that a stage trains,
without weights (`methods.counting`). Hours depend on one assumption: the share of the data sheet's peak that is reached in all
operations, recomputed ones included; the share without these (MFU, as papers count) is shown too. Row lengths are assumed by format unless
the user gives them. Reading data, saving and evaluating are not counted.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from twoway import progress
from twoway.config import gather, takes
from twoway.errors import UsageError, did_you_mean
from twoway.losses.contrastive import contrastive_loss
from twoway.methods.config import PairsConfig
from twoway.methods.counting import Load, PictureGrid, Products, StageWork, count, stage_module, total
from twoway.methods.finetune.config import FinetuneConfig
from twoway.methods.memory import ModuleSizes, batch_places, config_of, training_memory
from twoway.methods.rerank.config import RerankConfig
from twoway.models import late_interaction, loading

from .config import PlanConfig
from .recipe import START, made_by, read_recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from twoway.data.config import SourceConfig
    from twoway.methods.config import MethodConfig
    from twoway.methods.memory import TrainingMemory

    from .recipe import Recipe, StageRecipe

_PLANNED = ("pretrain", "bridge", "finetune", "rerank")


@dataclass(frozen=True)
class Base:
    """The model that a recipe starts from, as its config has it."""

    name: str
    config: Any = field(hash=False)
    sizes: dict[str, int] = field(hash=False)  # parameters by part

    @classmethod
    @cache
    def of(cls, name: str | Path) -> Base:
        """Build it without weights; a tower that plans know nothing of is refused."""
        config = config_of(name)
        PictureGrid.of(str(name), config)
        module = stage_module(config, FinetuneConfig(), values=0)
        return cls(str(name), config, loading.parts(module.model).sizes())

    @property
    def total(self) -> int:
        """Count all parameters."""
        return sum(self.sizes.values())


@dataclass(frozen=True)
class StagePlan:
    """One stage on this hardware."""

    name: str
    dtype: str  # that auto means there
    work: Work
    trained: int
    hours: float
    mfu: float
    price: float
    choices: tuple[TrainingMemory, ...]
    taken: TrainingMemory  # the one that the recipe's own settings take

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        work = self.work
        numbers = {key: getattr(work, key) for key in ("steps", "rows", "tokens", "text", "image", "batches", "places")}
        return {
            "stage": self.name,
            "dtype": self.dtype,
            **numbers,
            "sources": [vars(one) for one in work.sources],
            "operations": {"needed": dict(work.products.needed), "again": dict(work.products.again), "total": work.products.total},
            "trained": self.trained,
            "hours": self.hours,
            "mfu": self.mfu,
            "price": self.price,
            "memory": [one.as_json() for one in self.choices],
            "taken": self.taken.as_json(),
        }


@dataclass(frozen=True)
class Plan:
    """A whole recipe on this hardware."""

    recipe: str
    model: Base
    hardware: Hardware
    utilisation: float
    stages: tuple[StagePlan, ...]
    notes: tuple[str, ...]

    @property
    def hours(self) -> float:
        """Hours of all stages."""
        return sum(one.hours for one in self.stages)

    @property
    def price(self) -> float:
        """Dollars of all stages."""
        return sum(one.price for one in self.stages)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "recipe": self.recipe,
            "model": {"name": self.model.name, "sizes": self.model.sizes, "total": self.model.total},
            "hardware": vars(self.hardware),
            "utilisation": self.utilisation,
            "stages": [one.as_json() for one in self.stages],
            "hours": self.hours,
            "price": self.price,
            "notes": list(self.notes),
        }


@takes(PlanConfig)
def plan(recipe: str | Path, hardware: str, words: Sequence[str] = (), *, config: PlanConfig | None = None, **options: Any) -> Plan:
    """Plan the training stages of a recipe; `options` are the settings of `PlanConfig`, `source` and `tokens` as NAME=…."""
    config = gather(PlanConfig, config, options, plan)
    machine, said = find_hardware(hardware, config.price), read_means(config.source)
    read = read_recipe(recipe, words)
    chosen = [_with_sources(one, read) for one in read.stages if one.kind.name in _PLANNED]
    if not chosen:
        raise UsageError(f"{recipe} trains nothing, so there is nothing to plan")
    require_used(said, (one.label for stage in chosen for one in stage.config.data))
    wanted = _tokens(config.tokens, [one.name for one in chosen])
    names = {one.name for one in read.stages}
    apart = [one for one in chosen if one.source not in names and one.source != START]
    if apart:
        raise UsageError(f"{recipe}: {apart[0].name} starts from {apart[0].source}; plan knows one model a recipe, its base")
    model = Base.of(read.base)
    planned = []
    for stage in progress.steps(chosen, "counting operations, stages", total=len(chosen)):
        done = work_of(model, stage, said, ranks=machine.count, padding=config.padding, tokens=wanted.get(stage.name))
        planned.append(_stage(stage, done, machine, config.utilisation))
    left = [one.name for one in read.stages if one.kind.name not in _PLANNED]
    notes = (*_assumed(machine, config, planned), *((f"not planned: {', '.join(left)}",) if left else ()))
    return Plan(str(recipe), model, machine, config.utilisation, tuple(planned), notes)


def _with_sources(stage: StageRecipe, recipe: Recipe) -> StageRecipe:
    """Return a stage that reads, instead of rows that others make, what those read: mined and scored pairs are as many as they were."""
    by_name = {one.name: one for one in recipe.stages}

    def read(source: SourceConfig) -> Iterator[SourceConfig]:
        maker = made_by(source)
        if maker is None:
            yield source
        else:
            for one in by_name[maker].config.data:
                yield from (replace(found, weight=found.weight * source.weight) for found in read(one))

    data = tuple(found for one in stage.config.data for found in read(one))
    return stage if data == stage.config.data else replace(stage, config=replace(stage.config, data=data))


def _stage(stage: StageRecipe, work: Work, machine: Hardware, utilisation: float) -> StagePlan:
    """Price one stage, and try how it may be spread."""
    config = stage.config
    hours = work.products.total / (machine.rate(config.dtype) * machine.count * utilisation) / 3600
    mfu = utilisation * sum(work.products.needed.values()) / work.products.total
    batch: dict[str, Any] = {
        "places": batch_places(config),
        "image": work.image / work.tokens,
        "ranks": machine.count,
        "room": machine.memory,
    }
    choices = [
        training_memory(work.sizes, config, parallel=parallel, checkpointing=again, **batch)
        for parallel in (("ddp", "fsdp") if machine.count > 1 else ("ddp",))
        for again in (True, False)
    ]
    wanted = config.parallel if machine.count > 1 else "ddp"
    own = [one for one in choices if one.checkpointing == config.gradient_checkpointing and wanted in (one.parallel, "auto")]
    taken = next((one for one in own if one.fits), own[-1])
    dtype, price = "float32" if config.dtype == "float32" else "bfloat16", hours * machine.count * machine.price
    return StagePlan(stage.name, dtype, work, work.sizes.trained, hours, mfu, price, tuple(choices), taken)


def _tokens(said: Sequence[str], stages: Sequence[str]) -> dict[str, float]:
    """Read STAGE=NUMBER."""
    found = {}
    for one in said:
        name, _, number = one.partition("=")
        if name not in stages:
            raise UsageError(
                f"--tokens {one}: no training stage is called {name!r}{did_you_mean(name, stages)} (there are: {', '.join(stages)})"
            )
        try:
            found[name] = float(number.replace("_", ""))
        except ValueError:
            found[name] = 0.0
        if not 1 <= found[name] < float("inf"):
            raise UsageError(f"--tokens {one}: say a number of tokens, as in {name}=30e9")
    return found


def _assumed(machine: Hardware, config: PlanConfig, planned: Sequence[StagePlan]) -> tuple[str, ...]:
    """List the assumptions of the figures."""
    peaks = dict.fromkeys(f"{machine.rate(one.dtype) / 1e12:,.0f}" for one in planned)
    share = f"{config.utilisation:.0%} of the peak of {' or '.join(peaks)} TFLOP/s a rank"
    notes = [f"assumed: {share} is reached, not measured (--utilisation)"]
    if config.price is None:
        notes.append(f"assumed: ${machine.price:.2f} an hour for one {machine.name}, as of {PRICES_OF} (--price)")
    notes.append(f"assumed: {config.padding:.0%} of padding (--padding)")
    guessed = dict.fromkeys(one.name for stage in planned for one in stage.work.sources if one.assumed)
    if guessed:
        notes.append(f"assumed: lengths of the rows of {len(guessed)} sources, by their format (--source)")
    notes += [note for stage in planned for note in stage.work.notes]
    return (*notes, *(_run_as(stage) for stage in planned))


def _run_as(stage: StagePlan) -> str:
    """Say how the stage runs as the recipe has it, and what it takes of the machine's own memory."""
    one = stage.taken
    fits = "fits" if one.fits else "does not fit: take a smaller budget, or more ranks"
    again = "" if one.checkpointing else ", activations kept"
    host = f"{one.host / 2**30:,.1f} GiB of the machine's memory a rank for the copy that a checkpoint is written from"
    return f"{stage.name}: as it stands it runs by {one.parallel}{again} and {fits}; {host}"


# What one stage of a recipe reads and computes at full size: rows and lengths by source, batches, steps, and the
# products of them all.
#
# Rows come in batches as training makes them: by cost (an image token costs what the tower makes it cost, counted
# here as `calibrate=count` counts it), by `per_device_train_batch_size`, or, for pairs, as a global batch whose contents go through in
# chunks of the budget, all but the first twice (gradient caching). Every place of a row is computed, padding
# included.


@dataclass(frozen=True)
class Reads:
    """Rows of one source, as a run reads them."""

    name: str
    rows: float
    tokens: float
    assumed: bool


@dataclass(frozen=True)
class Work:
    """One stage at full size."""

    steps: float
    rows: float
    text: float
    image: float
    batches: float  # that a rank adds up in a step
    places: float  # of a rank's largest batch
    sources: tuple[Reads, ...]
    products: Products
    sizes: ModuleSizes
    repeated: float  # share of the rows that go forward once before (gradient caching)
    notes: tuple[str, ...] = field(default=())

    @property
    def tokens(self) -> float:
        """Tokens of words and pictures, without padding."""
        return self.text + self.image


def work_of(model: Base, stage: StageRecipe, said: Mapping[str, Means], *, ranks: int, padding: float, tokens: float | None = None) -> Work:
    """Say what a stage computes; `tokens` sets how much it reads, instead of its rows and steps."""
    config, pairs = stage.config, stage.kind.name != "pretrain"
    means = [(one.label, means_of(one, said, pairs=pairs, where=stage.name)) for one in config.data]
    contrastive = isinstance(config, PairsConfig)
    grid = PictureGrid.of(model.name, model.config)
    together = getattr(model.config.vision_config, "temporal_patch_size", 1)
    means = [(name, _shown(one, grid.area, config, -(-config.limits.num_frames // together))) for name, one in means]
    made = [_contents(one, config, contrastive=contrastive) for _, one in means]
    each = [sum(content.length * times for content, times in contents) for contents in made]
    listed = sum(one.rows or 0.0 for _, one in means)
    shares = [(one.rows or 0.0) / listed for _, one in means]
    mean = sum(share * length for share, length in zip(shares, each, strict=True))
    kind: Any = type(config)
    counted, sizes = _counted(model, tuple((name, getattr(config, name)) for name in _COUNTED if hasattr(config, name)), kind)
    shards = config.batches_per_step or ranks
    if contrastive:
        by_step = float(config.global_batch_size)
    elif config.per_device_train_batch_size is not None:
        by_step = float(config.per_device_train_batch_size * shards)
    else:
        given = config.cost.image_token != 1.0 or getattr(config, "calibrate", "none") == "none"
        weight = float(config.cost.image_token) if given else counted.image_token()
        costs = (_cost(contents, weight) for contents in made)
        by_step = config.budget * shards / (sum(share * cost for share, cost in zip(shares, costs, strict=True)) * (1 + padding))
    rows, notes = _rows(config, listed, by_step, mean, tokens, stage.name)
    steps = max(rows / by_step, 1.0)
    each_step = mean * by_step * (1 + padding) / ranks  # places of a rank
    chunks = each_step / config.budget if contrastive else shards / ranks
    hold = (config.budget if config.keep_graph_tokens is None else config.keep_graph_tokens) if contrastive else 0.0
    repeated = max(1 - hold / each_step, 0.0) if contrastive else 0.0
    loads = [
        _load(content, rows * share * times, config, padding)
        for share, contents in zip(shares, made, strict=True)
        for content, times in contents
    ]
    products = counted.of(loads, calls=max(steps * ranks * chunks, 1.0), repeated=repeated)
    if isinstance(config, FinetuneConfig) and config.late_interaction:
        sides = [[content.length * times for content, times in contents] for contents in made]
        asked, offered = (sum(share * one[side] for share, one in zip(shares, sides, strict=True)) for side in (0, 1))
        sizes = _add_late_interaction(products, sizes, config, loads, asked * offered * steps, repeated=repeated)
    elif isinstance(config, FinetuneConfig):
        products.needed["comparison"] += steps * _comparison(config, model)
    text = sum(load.rows * load.text for load in loads)
    image = sum(load.rows * load.image for load in loads)
    sources = tuple(
        Reads(name, rows * share, rows * share * length, one.assumed)
        for (name, one), share, length in zip(means, shares, each, strict=True)
    )
    places = batch_places(config)
    return Work(
        steps,
        rows,
        text,
        image,
        max(shards / ranks, chunks),
        places,
        sources,
        products,
        sizes,
        repeated,
        notes,
    )


# What the operations of a row follow from; stages that are alike in it are counted once.
_COUNTED = (
    "objective", "mask", "masked_patches", "mlm_weight", "mae_weight", "decoder_depth", "freeze_tower", "train_layers", "lora",
    "gradient_checkpointing",
)  # fmt: skip


@cache
def _counted(model: Base, settings: tuple[tuple[str, Any], ...], kind: type[MethodConfig]) -> tuple[StageWork, ModuleSizes]:
    """Count a stage's rows on its module, and measure that."""
    config, grid = kind(**dict(settings)), PictureGrid.of(model.name, model.config)
    module = stage_module(model.config, config, values=grid.values)
    return StageWork(module, model.config, masked=config.mask.patches if module.decoder else 0.0), ModuleSizes.of(module, grid.merged)  # type: ignore[attr-defined]


def _comparison(config: FinetuneConfig, model: Base) -> float:
    """Count the loss of one global batch, of every query with every candidate, on a sixteenth of both."""
    width, queries = int(model.config.get_text_config().hidden_size), max(config.global_batch_size // 16, 1)
    asked = torch.empty(queries, width, device="meta", requires_grad=True)
    offered = torch.empty(queries * (1 + config.hard_negatives), width, device="meta", requires_grad=True)
    allowed = torch.ones(len(asked), len(offered), dtype=torch.bool)

    def loss() -> torch.Tensor:
        return contrastive_loss(asked, offered, torch.arange(queries), allowed, temperature=config.loss.temperature).total

    return total(count(torch.nn.Identity(), loss)) * (config.global_batch_size / queries) ** 2


def _add_late_interaction(
    products: Products,
    sizes: ModuleSizes,
    config: FinetuneConfig,
    loads: Sequence[Load],
    compared: float,
    *,
    repeated: float,
) -> ModuleSizes:
    """Add the projection of each token, and MaxSim of all tokens of the queries with all of the candidates; return the sizes with it.

    A product of a x b with b x c takes 2abc operations, and twice as many backward. `compared`: of one row, tokens of its query x tokens of
    its candidates, in all steps.
    """
    dim = config.projection_dim or late_interaction.DIM
    weights = sizes.language.width * dim
    forward = 2.0 * weights * sum(load.rows * load.length for load in loads)
    products.needed["projection"] += 3 * forward
    products.again["projection"] += repeated * forward
    products.needed["comparison"] += 6 * dim * config.global_batch_size**2 * compared
    return replace(sizes, held=sizes.held + weights, trained=sizes.trained + weights)


def _rows(
    config: MethodConfig, listed: float, by_step: float, mean: float, tokens: float | None, name: str
) -> tuple[float, tuple[str, ...]]:
    """Return the rows that are read: by tokens, by steps, or by epochs."""
    own = config.max_steps * by_step if config.max_steps is not None else listed * config.num_train_epochs
    if tokens is None:
        return own, ()
    note = f"{name}: read until {tokens:,.0f} tokens, as was asked; the recipe's own rows are {own:,.0f}, or {own * mean:,.0f} tokens"
    return tokens / mean, (note,)


def _shown(means: Means, area: int, config: MethodConfig, frames: int) -> Means:
    """Return the means with pictures as large, and videos as long, as the stage has them."""

    def shown(one: Content) -> Content:
        return one.shown(area, config.min_pixels, config.max_pixels, frames)

    return replace(means, content=shown(means.content), answer=None if means.answer is None else shown(means.answer))


_LAYOUT = 70.0  # tokens of the question that a reranker is asked, around query and candidate


def _contents(means: Means, config: Any, *, contrastive: bool) -> list[tuple[Content, float]]:
    """Return what goes through the model for a row, and how often."""
    if means.answer is None:
        return [(_cut(means.content, config.max_length), 1.0)]
    if isinstance(config, RerankConfig):  # each candidate is read with the query
        query, answer = means.content, means.answer
        pictures = query.pictures + answer.pictures
        shown = (query.pictures * query.tokens + answer.pictures * answer.tokens) / pictures if pictures else 0.0
        both = Content(query.text + answer.text + _LAYOUT, pictures, shown)
        return [(_cut(both, config.max_length), 1.0 + config.hard_negatives)]
    if contrastive:
        return [(_cut(means.content, config.max_length), 1.0), (_cut(means.answer, config.max_length), 1.0 + config.hard_negatives)]
    # A, EOS, B: the words of the answer behind the query.
    words = min(means.answer.text, float(config.max_target))
    return [(_cut(replace(means.content, text=means.content.text + 1 + words), config.max_length), 1.0)]


def _cut(content: Content, most: int) -> Content:
    return replace(content, text=max(min(content.text, most - content.pictures * content.tokens), 0.0))


def _load(content: Content, rows: float, config: Any, padding: float) -> Load:
    """Return rows of a content with their targets."""
    mask = getattr(config, "mask", None)
    words = content.text * (mask.words if mask is not None else 0.0)
    shown = bool(getattr(config, "mae_weight", False))
    patches = content.pictures * content.tokens * (mask.patches if mask is not None and shown else 0.0)
    if getattr(config, "objective", "") == "causal":
        words, patches = content.text, 0.0
    padded = content.length * (1 + padding)
    return Load(rows, content.text, content.pictures, content.tokens, words, patches, padded)


def _cost(contents: Sequence[tuple[Content, float]], weight: float) -> float:
    return sum((one.text + weight * one.pictures * one.tokens) * times for one, times in contents)


# How long rows are where the data is not here: assumptions by format, each replaced by what the user says.
#
# A content is its words' tokens, its pictures, and the image tokens of each; a pair has two contents. The figures
# assume photographs of 700 x 550 pixels and pages of 1700 x 2200, brought within the stage's `min_pixels` and
# `max_pixels`, frames of 640 x 360, captions of 140 tokens, web texts cut to 2,048. None is measured here: `twoway data check` measures a
# source that is there. Rows are the source's cap, or what a set is known to hold where it has none.

_PHOTO, _PAGE, _FRAME = 700.0 * 550.0, 1700.0 * 2200.0, 640.0 * 360.0


@dataclass(frozen=True)
class Content:
    """What one content holds on average."""

    text: float
    pictures: float = 0.0
    tokens: float = 0.0  # of one picture
    pixels: float = 0.0  # of one picture whose tokens are not said
    frames: bool = field(default=False, kw_only=True)  # whether a picture is a video, with frames of so many pixels

    def shown(self, area: int, least: int | None, most: int | None, frames: int) -> Content:
        """Return it with the tokens that its pictures get, `area` pixels each, where they are brought within bounds.

        A video counts as so many pictures, one for the `frames` that share tokens, which the processor has bounds of its own for.
        """
        if self.tokens or not self.pixels:
            return self
        if self.frames:
            return replace(self, pictures=self.pictures * frames, tokens=self.pixels / area)
        return replace(self, tokens=min(max(self.pixels, least or 0.0), most or math.inf) / area)

    @property
    def length(self) -> float:
        """Tokens of words and pictures."""
        return self.text + self.pictures * self.tokens


@dataclass(frozen=True)
class Means:
    """Rows of one source. A row that is no pair has no answer."""

    content: Content
    answer: Content | None = None
    rows: float | None = None
    assumed: bool = True


_PAGES = Means(Content(40, 1, pixels=_PAGE))
_SEARCHED = Means(Content(40), Content(10, 1, pixels=_PAGE))
ROWS: dict[str, Means] = {
    "dclm": Means(Content(1000)),
    "pixelprose": Means(Content(140, 1, pixels=_PHOTO)),
    "mammoth-vl": Means(Content(300, 1, pixels=_PHOTO)),
    "mmeb-train": Means(Content(60, 1, pixels=_PHOTO)),
    "docmatix": Means(Content(150, 1, pixels=_PAGE)),
    "visrag": _PAGES,
    "colpali": _PAGES,
    "llava-hound": Means(Content(140, 1, pixels=_FRAME, frames=True)),
}
PAIRS: dict[str, Means] = {
    "mmeb-train": Means(Content(60, 0.8, pixels=_PHOTO), Content(20, 0.3, pixels=_PHOTO)),
    "mme5": Means(Content(60, 0.8, pixels=_PHOTO), Content(40, 0.3, pixels=_PHOTO)),
    "visrag": _SEARCHED,
    "colpali": _SEARCHED,
    "llava-hound-caption": Means(Content(30, 1, pixels=_FRAME, frames=True), Content(140)),
    "llava-hound-qa": Means(Content(40, 1, pixels=_FRAME, frames=True), Content(30)),
    "llava-hound-video": Means(Content(150), Content(10, 1, pixels=_FRAME, frames=True)),
    "e5": Means(Content(30), Content(150)),
}
# Sets prepared by MoCa's authors (`moca`, `moca-pairs`), by the last name in their spec: rows as long as those of this format.
PREPARED = {
    "dclm_20b": "dclm",
    "pixelprose_commonpool": "pixelprose",
    "pixelprose_cc12m_sub_005": "pixelprose",
    "pixelprose_redcaps_sub_010": "pixelprose",
    "MAmmoTH-VL-Instruct-12M": "mammoth-vl",
    "MMEB-train": "mmeb-train",
    "docmatix": "docmatix",
    "visrag_ind": "visrag",
    "visrag_syn": "visrag",
    "tevatron_colpali": "colpali",
    "video_240k_caption_15k.jsonl": "llava-hound",  # conversations about videos, read as those of mammoth-vl
}
FIELDS = "ROWS:TEXT:PICTURES:TOKENS, and for pairs :TEXT:PICTURES:TOKENS of the answer"


def read_means(said: Iterable[str]) -> dict[str, Means]:
    """Read NAME=ROWS:TEXT:PICTURES:TOKENS[:TEXT:PICTURES:TOKENS]."""
    found = {}
    for one in said:
        name, _, numbers = one.partition("=")
        try:
            values = [float(number.replace("_", "")) for number in numbers.split(":")]
        except ValueError:
            values = []
        if not name or len(values) not in (4, 7) or min(values) < 0 or values[0] < 1:
            raise UsageError(f"--source {one}: say NAME={FIELDS}; numbers of 0 or more")
        answer = Content(*values[4:]) if values[4:] else None
        found[name] = Means(Content(*values[1:4]), answer, values[0], assumed=False)
    return found


def means_of(source: SourceConfig, said: Mapping[str, Means], *, pairs: bool, where: str) -> Means:
    """Return the given or assumed means of a source."""
    known = PAIRS if pairs else ROWS
    found = said.get(source.label) or known.get(_length_as(source))
    if found is None:
        raise UsageError(f"{where}: how long the rows of {source.label} are is not known; say --source {source.label}={FIELDS}")
    if pairs and found.answer is None:
        raise UsageError(f"{where}: {source.label} has pairs; say of the answer too: --source {source.label}={FIELDS}")
    rows = found.rows if found.rows is not None else source.cap
    held = HELD.get(_last_name(source), HELD.get(source.row_template or ""))
    if held is not None and found.rows is None:
        rows = min(held, rows or held)
    if rows is None:
        raise UsageError(
            f"{where}: {source.label} has no cap, and how many rows it holds is not known; say --source {source.label}={FIELDS}"
        )
    return replace(found, rows=float(rows) * source.weight)


def _last_name(source: SourceConfig) -> str:
    """Return the last name of a spec: the configuration of a data set, or the data set."""
    kind, _, rest = source.spec.partition(":")
    return (rest.partition(":")[0] if kind == "hub" else source.spec).rstrip("/").rpartition("/")[2]


def _length_as(source: SourceConfig) -> str:
    """Return the format whose rows are as long as a source's."""
    if source.row_template == "moca":
        return PREPARED.get(_last_name(source), "")
    if source.row_template == "mammoth-vl":
        return PREPARED.get(_last_name(source), "mammoth-vl")
    # In `MoCa-CL-Pairs` all that is no page is MMEB-train with negatives.
    return PREPARED.get(_last_name(source), "mme5") if source.row_template == "moca-pairs" else source.row_template or ""


# Rows of sets that recipes read whole: the 20 sets of MMEB-train, as its page says; 560,000 in the three of mmE5-synthetic, as mmE5's paper
# says, shared as it samples them.
HELD = {"mmeb-train": 662_000, "Classification": 140_000, "Retrieval": 280_000, "VQA": 140_000}


def require_used(said: Mapping[str, Means], known: Iterable[str]) -> None:
    """Refuse a source that no stage has."""
    known = sorted(set(known))
    for name in said:
        if name not in known:
            raise UsageError(f"--source {name}: no stage reads it{did_you_mean(name, known)} (there are: {', '.join(known)})")


# What is rented: accelerators by name, with the peak and memory of their data sheets and a price that is an
# assumption.
#
# Peaks are those of dense products in bfloat16, which `dtype: auto` means on all of these, and in float32 (SXM
# boards; no sparsity, no TF32). Memory is what torch sees of it. Prices move, and differ threefold between vendors:
# those of a100, h100 and h200 lie within what was posted for on-demand hours in May 2026, that of b200 is a guess;
# say your own with --price.

PRICES_OF = "May 2026"
_NAME = re.compile(r"([a-z0-9]+?)(?:x(\d+))?")
_COUNT_FIRST = re.compile(r"^(\d+)x(\w+)$")
_GIB = 2**30


@dataclass(frozen=True)
class Hardware:
    """So many accelerators of one kind, one rank each."""

    name: str
    peak: float  # operations a second, dense bfloat16
    single: float  # the same in float32
    memory: float  # bytes
    price: float  # of one for an hour, in dollars
    count: int = 1

    def rate(self, dtype: str) -> float:
        """Return the peak in the type that a stage computes in."""
        return self.single if dtype == "float32" else self.peak

    def __str__(self) -> str:
        return f"{self.name}x{self.count}"


KNOWN = {
    one.name: one
    for one in (
        Hardware("a100", 312e12, 19.5e12, 79 * _GIB, 1.50),
        Hardware("h100", 989e12, 67e12, 79 * _GIB, 3.00),
        Hardware("h200", 989e12, 67e12, 139 * _GIB, 4.00),
        Hardware("b200", 2250e12, 75e12, 178 * _GIB, 6.00),
    )
}


def find_hardware(said: str, price: float | None = None) -> Hardware:
    """Read NAMExCOUNT or COUNTxNAME, as in h200x8 and 8xh200; one accelerator without a count."""
    word = _COUNT_FIRST.sub(r"\2x\1", said.strip().lower())
    match = _NAME.fullmatch(word)
    name, count = (match[1], int(match[2] or 1)) if match else (said, 1)
    if name not in KNOWN:
        raise UsageError(
            f"--hardware {said}: there is no {name!r}{did_you_mean(name, KNOWN)} (there are: {', '.join(KNOWN)}; h200x8 is eight)"
        )
    if count < 1:
        raise UsageError(f"--hardware {said}: at least one is needed")
    if price is not None and price < 0:
        raise UsageError(f"--price is 0 or more, not {price}")
    return replace(KNOWN[name], count=count, price=KNOWN[name].price if price is None else price)


# What it takes to embed and keep a great many pages: operations, machines, bytes and money, each by a formula of a
# few named numbers.
#
# Operations are counted from the model's parts, as `plan` counts them for training, forward alone. All other numbers
# are given: those of the machine by the hardware, the rest by who asks, who knows whether they were measured,
# published or assumed.

_HOUR, _DAY = 3600, 86_400
# Bits of a number of a vector as it is stored.
FORMS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}


@dataclass(frozen=True)
class Pages:
    """The pages, and what one of them costs besides operations."""

    count: float = 1e9
    text: float = 400  # tokens of its words and the prompt
    image: float = 1000  # tokens of its picture
    bytes: float = 250_000  # of its file
    core_seconds: float = 0.1  # to render or decode it, resize it, and cut it into patches
    record: float = 1200  # bytes kept beside its vector: id, place, text, metadata, compressed

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (name == "count" and not value):
                raise UsageError(f"{name} of the pages is {'above 0' if name == 'count' else '0 or more'}, not {value:g}")


@dataclass(frozen=True)
class Prices:
    """In dollars; that of an accelerator comes with the hardware."""

    core_hour: float = 0.04
    byte_month: float = 0.023e-9  # on object storage
    memory_month: float = 3.8e-9  # of a byte of memory


@dataclass(frozen=True)
class PagePlan:
    """What comes out."""

    model: str
    hardware: Hardware
    operations: float  # of a page
    accelerator_hours: float
    days: float  # on all of the hardware
    rate: float  # pages a second and accelerator
    cores: float  # that keep one accelerator busy
    core_hours: float
    moved: float  # bytes read
    dollars: dict[str, float]  # by stage, once
    kept: dict[str, tuple[float, float, float]]  # by form: bytes of vectors, dollars a month on disk, and in memory


def plan_pages(
    base: str | Path,
    machine: str,
    *,
    pages: Pages | None = None,
    dim: int = 1024,
    utilisation: float = 0.4,
    padding: float = 0.03,
    prices: Prices | None = None,
    price: float | None = None,
) -> PagePlan:
    """Plan; `machine` is as for `plan`, with so many accelerators that work at once."""
    pages, prices, rented = pages or Pages(), prices or Prices(), find_hardware(machine, price)
    if not 0 < utilisation <= 1 or padding < 0 or dim < 1:
        raise UsageError(f"utilisation is a share, padding 0 or more, dim 1 or more; not {utilisation:g}, {padding:g}, {dim}")
    operations = forward_operations(base, pages) * (1 + padding)
    rate = rented.peak * utilisation / operations
    hours = pages.count / rate / _HOUR
    core_hours = pages.count * pages.core_seconds / _HOUR
    moved = pages.count * pages.bytes
    dollars = {
        "make pages ready": core_hours * prices.core_hour,
        "embed": hours * rented.price,
        "keep the pages, a month": moved * prices.byte_month,
    }
    kept = {}
    for form, bits in FORMS.items():
        size = pages.count * dim * bits / 8
        kept[form] = (size, (size + pages.count * pages.record) * prices.byte_month, size * prices.memory_month)
    days = hours * _HOUR / _DAY / rented.count
    return PagePlan(str(base), rented, operations, hours, days, rate, rate * pages.core_seconds, core_hours, moved, dollars, kept)


def forward_operations(base: str | Path, pages: Pages) -> float:
    """Count the operations of one page: forward pass only, without logits."""
    return _forward_of(base).forward(Load(1, pages.text, 1 if pages.image else 0, pages.image))


@cache
def _forward_of(base: str | Path) -> StageWork:
    config = config_of(base)
    return StageWork(stage_module(config, FinetuneConfig(), values=0), config)
