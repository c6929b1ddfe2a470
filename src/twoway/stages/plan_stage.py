"""What one stage of a recipe reads and computes at full size: rows and lengths by source, batches, steps, and the products of them all.

Rows come in batches as training makes them: by cost (an image token costs what the tower makes it cost, counted here as `calibrate=count`
counts it), by `batch_rows`, or, for pairs, as a global batch whose contents go through in chunks of the budget, all but the first
twice (gradient caching). Every place of a row is computed, padding included.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .finetune_config import FinetuneConfig
from .plan_count import Load, Products, Training, count
from .plan_sources import Content, Means, means_of
from .pretrain_config import PretrainConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .plan_model import Anatomy
    from .recipe import StageRecipe


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
    training: Training
    notes: tuple[str, ...] = field(default=())

    @property
    def tokens(self) -> float:
        """Tokens of words and pictures, without padding."""
        return self.text + self.image


def work_of(
    model: Anatomy, stage: StageRecipe, said: Mapping[str, Means], *, ranks: int, padding: float, tokens: float | None = None
) -> Work:
    """Say what a stage computes; `tokens` sets how much it reads, instead of its rows and steps."""
    config, pairs = stage.config, stage.kind.name != "pretrain"
    means = [(one.label, means_of(one, said, pairs=pairs, where=stage.name)) for one in config.data]
    contrastive = isinstance(config, FinetuneConfig)
    means = [(name, _shown(one, model.area, config)) for name, one in means]
    made = [_contents(one, config, contrastive=contrastive) for _, one in means]
    each = [sum(content.length * times for content, times in contents) for contents in made]
    listed = sum(one.rows or 0.0 for _, one in means)
    shares = [(one.rows or 0.0) / listed for _, one in means]
    mean = sum(share * length for share, length in zip(shares, each, strict=True))
    training = training_of(config)
    shards = config.shards or ranks
    if contrastive:
        by_step = float(config.batch)
    elif config.batch_rows is not None:
        by_step = float(config.batch_rows * shards)
    else:
        weight = _image_cost(model, training, config)
        costs = (_cost(contents, weight) for contents in made)
        by_step = config.budget * shards / (sum(share * cost for share, cost in zip(shares, costs, strict=True)) * (1 + padding))
    rows, notes = _rows(config, listed, by_step, mean, tokens, stage.name)
    steps = max(rows / by_step, 1.0)
    each_step = mean * by_step * (1 + padding) / ranks  # places of a rank
    chunks = each_step / config.budget if contrastive else shards / ranks
    hold = (config.budget if config.hold is None else config.hold) if contrastive else 0.0
    second = max(1 - hold / each_step, 0.0) if contrastive else 0.0
    training = replace(training, calls=max(steps * ranks * chunks, 1.0), second=second)
    loads = [
        _load(content, rows * share * times, config, padding)
        for share, contents in zip(shares, made, strict=True)
        for content, times in contents
    ]
    products = count(model, training, loads)
    if contrastive:
        products.needed["comparison"] += 6.0 * steps * by_step**2 * (1 + config.hard_negatives) * model.language.width
    text = sum(load.rows * load.text for load in loads)
    image = sum(load.rows * load.image for load in loads)
    sources = tuple(
        Reads(name, rows * share, rows * share * length, one.assumed)
        for (name, one), share, length in zip(means, shares, each, strict=True)
    )
    places = float(config.max_length * config.batch_rows) if config.batch_rows is not None else float(config.budget)
    return Work(steps, rows, text, image, max(shards / ranks, chunks), places, sources, products, training, notes)


def _rows(config: Any, listed: float, by_step: float, mean: float, tokens: float | None, name: str) -> tuple[float, tuple[str, ...]]:
    """Return the rows that are read: by tokens, by steps, or by epochs."""
    own = config.max_steps * by_step if config.max_steps is not None else listed * config.epochs
    if tokens is None:
        return own, ()
    note = f"{name}: read until {tokens:,.0f} tokens, as was asked; the recipe's own rows are {own:,.0f}, or {own * mean:,.0f} tokens"
    return tokens / mean, (note,)


def _shown(means: Means, area: int, config: Any) -> Means:
    """Return the means with pictures as large as the stage has them."""
    content = means.content.shown(area, config.min_pixels, config.max_pixels)
    answer = means.answer.shown(area, config.min_pixels, config.max_pixels) if means.answer is not None else None
    return replace(means, content=content, answer=answer)


def _contents(means: Means, config: Any, *, contrastive: bool) -> list[tuple[Content, float]]:
    """Return what goes through the model for a row, and how often."""
    if means.answer is None:
        return [(_cut(means.content, config.max_length), 1.0)]
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
    return replace(Load.square(rows, content.text, content.pictures, content.tokens, words=words, patches=patches), padded=padded)


def training_of(config: Any) -> Training:
    """Return what of a model trains in this stage."""
    contrastive = isinstance(config, FinetuneConfig)
    restores = isinstance(config, PretrainConfig) and config.mae_weight and config.objective != "causal"
    return Training(
        freeze_tower=config.freeze_tower,
        train_layers=config.train_layers,
        lora=config.lora if config.lora.rank else None,
        checkpointing=config.gradient_checkpointing,
        decoder_depth=config.decoder_depth if restores else 0,
        logits=not contrastive and bool(getattr(config, "mlm_weight", 1.0)),
        half=config.dtype != "float32",
        skipped=config.mask.patches if restores and config.masked_patches == "skip" else 0.0,
    )


def _image_cost(model: Anatomy, training: Training, config: Any) -> float:
    """Return what an image token costs in text tokens: as said, or as the products say."""
    if config.cost.image_token != 1.0 or getattr(config, "calibrate", "none") == "none":
        return float(config.cost.image_token)
    plain = replace(training, logits=False, decoder_depth=0)
    text = count(model, plain, [Load(1, 500)]).total
    return count(model, plain, [Load.square(1, 0, 1, 500)]).total / text


def _cost(contents: Sequence[tuple[Content, float]], weight: float) -> float:
    return sum((one.text + weight * one.pictures * one.tokens) * times for one, times in contents)
