"""The data of `finetune`: sources become pairs, pairs become batches of one task, batches become chunks of one cost.

A step's rows are a function of seed and step. Rows that measure are held out of each task by their identities; whole sources to measure on
(`eval_data`) are never trained on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from twoway.content import ContentError, Document, processor_inputs, to_messages
from twoway.data.collators import PairEncoder, collate_pairs, join_pairs, model_inputs
from twoway.data.config import DOCUMENT, QUERY, CostWeights
from twoway.data.loader import PairLoader
from twoway.data.mixture import Pairs, open_pairs
from twoway.data.processing import Encoder, Example
from twoway.data.rows import Policy
from twoway.data.sampler import NO_EXTRA_COST, TaskBatchSampler
from twoway.embedding import open_embedder
from twoway.embedding.config import Side
from twoway.errors import UsageError, did_you_mean
from twoway.limits import Limits
from twoway.methods.counting import image_token_cost
from twoway.methods.tables import TABLES, LostRows, counted_once, feeds_cuda, lost_rows, opening_data
from twoway.models.late_interaction import tells_sides_apart

from .config import HELD_OUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from twoway.content import Place
    from twoway.data.collators import Join
    from twoway.methods.config import PairsConfig
    from twoway.methods.model import PreparedModel
    from twoway.training.module import TrainingModule

    from .config import FinetuneConfig
    from .step import ContrastiveModule

NO_TASK: Mapping[str, str] = {}


@dataclass(frozen=True)
class EvalRows:
    """Rows that retrieval is measured on: of one task, in one set. `total` is how many the set has of it."""

    name: str
    task: str
    pairs: Pairs
    rows: NDArray[np.int64]
    total: int


@dataclass(frozen=True)
class PairData:
    """The data of a run: `loader` gives the batches of any step; the rest is for looking at rows one by one."""

    pairs: Pairs
    encode: PairEncoder
    collate: Callable[..., Any]  # of rows that are looked at
    epochs: TaskBatchSampler
    loader: PairLoader
    eval_rows: tuple[EvalRows, ...]
    lost: tuple[LostRows, ...] = ()  # sources that lose many rows

    def total(self, config: PairsConfig) -> int:
        """Return the number of steps of the run."""
        return config.max_steps or self.epochs.steps(config.num_train_epochs)

    def digest(self) -> Any:
        """Return what tells this data from other data."""
        return self.pairs.digest()


def open_data(
    config: FinetuneConfig, prepared: PreparedModel[ContrastiveModule], out: Path, *, shards: int, bad_rows: Path | None, keep: bool = False
) -> PairData:
    """Open the sources of a run; with `keep` the list of bad rows is kept."""
    encoder, write = open_encoder(prepared, SentenceInputs)
    encode = PairEncoder(
        write,
        prepared.start.settings.prompts,
        config.hard_negatives,
        config.choose,
        config.seed,
        config.fill_negatives,
        config.augment if config.augment.changes else None,
        config.loss.needs_teacher,
        tells_sides_apart(prepared.processor),
    )
    guide = None if config.guide is None else Guide(config.guide, device=config.device, workers=config.dataloader_num_workers)
    return open_pair_data(config, prepared, out, encoder, encode, guide=guide, shards=shards, bad_rows=bad_rows, keep=keep)


def open_encoder(prepared: PreparedModel[TrainingModule], kind: type[SentenceInputs]) -> tuple[Encoder, Any]:
    """Return what reads a row, and what writes it: the inputs of `kind`, and in a forecast, which writes none, the first itself."""
    encoder = Encoder(prepared.processor, prepared.geometry, max_length=prepared.max_length, template="chat")
    inputs = getattr(prepared, "input_module", None)
    return encoder, encoder if inputs is None else kind(inputs, encoder)


def open_pair_data(
    config: PairsConfig,
    prepared: PreparedModel[TrainingModule],
    out: Path,
    encoder: Encoder,
    encode: PairEncoder,
    *,
    join: Join = join_pairs,
    guide: Guide | None = None,
    shards: int,
    bad_rows: Path | None,
    keep: bool = False,
) -> PairData:
    """Open the sources of a stage that trains on pairs: `encode` writes its rows, `join` says what a batch has to know of them."""
    policy = Policy(config.on_bad, bad_rows, keep=keep)
    with opening_data(config) as kept:
        how: dict[str, Any] = {"folder": kept, "policy": policy, "seed": config.seed, "limits": Limits.reading(config.limits)}
        pairs = open_pairs(config.data, **how)
        others = open_pairs(config.eval_data, **how) if config.eval_data else None
    _require_tasks(config, [*pairs.tasks, *(others.tasks if others else ())])
    parts = prepared.processor
    lost = lost_rows(pairs.mixture, encoder, most=config.max_bad_share, pairs=True)
    held = pairs.held_out(config.held_out)
    epochs = TaskBatchSampler(
        pairs,
        batch=config.global_batch_size,
        seed=config.seed,
        sampling=config.sampling,
        smoothing=config.smoothing,
        weights=config.task_weights,
        max_repeats=config.max_repeats,
        small_tasks=config.small_tasks,
        mixed=config.mixed,
        held_out=held,
        shards=shards,
    )
    chunks: dict[str, Any] = {"pad_token": prepared.pad_token, "padding_side": parts.tokenizer.padding_side}
    weights = config.cost if config.cost != NO_EXTRA_COST else _picture_cost(config, prepared, encoder, chunks, out / TABLES)
    chunks |= {"budget": config.budget, "weights": weights}
    loader = PairLoader(
        epochs,
        encode,
        **chunks,
        join=join,
        workers=config.dataloader_num_workers,
        processes=config.worker_type == "process" or (config.worker_type == "auto" and feeds_cuda(config)),
        prefetch=config.dataloader_prefetch_factor,
        keep=config.decoded_bytes,
        pin_memory=config.dataloader_pin_memory and feeds_cuda(config),
        guide=guide,
        policy=policy,
    )
    measured = (*_measured(HELD_OUT, pairs, held, None), *_of_sources(others, config.eval_rows))
    if config.load_best_model_at_end and not measured:
        raise UsageError(
            "load_best_model_at_end needs rows to measure on: name some with eval_data, or let held_out be above 0 and the data larger"
        )
    return PairData(pairs, encode, partial(collate_pairs, join=join, **chunks), epochs, loader, measured, lost)


class SentenceInputs:
    """Writes a content as `SentenceTransformer.encode` does, by the `preprocess` of the module that is saved; can be sent to workers.

    Two kinds of contents are written by `Encoder` instead: one with a string that the tokenizer would read as a special token, which stays
    text in training, and one whose pictures are more than a row holds, which `encode` refuses and training cuts before a picture.
    """

    def __init__(self, module: Any, encoder: Encoder) -> None:
        """Take the first module of the `SentenceTransformer` without its model (`checkpoint.input_module`)."""
        self.module, self.encoder = module, encoder
        self.processor, self.max_length, self.limits = encoder.processor, encoder.max_length, encoder.limits

    def __call__(self, identity: str, document: Document, instruction: str = "", side: str = "") -> Example:
        """Write one content, with an instruction before it."""
        told = {"task": side} if side else {}
        shortened, is_patch = self.encoder.shorten(document), self.encoder.geometry.is_patch
        if self.encoder.marks.hide(shortened.texts).hidden:
            return self.encoder(identity, document, instruction, side)
        messages, cut = to_messages(shortened, limits=self.limits, processor=self.processor), shortened is not document
        features = self._require(messages, instruction, document.place, told, truncation=False, verbose=False)
        if features["input_ids"].shape[1] > self.max_length:
            cut, images = True, int(is_patch(features["input_ids"]).sum())
            try:
                features = self._preprocess(messages, instruction, told, max_length=self.max_length)
            except ValueError:  # a picture would be cut
                return self.encoder(identity, document, instruction, side)
            if int(is_patch(features["input_ids"]).sum()) < images:
                return self.encoder(identity, document, instruction, side)
        return self._example(identity, features, document.place, cut=cut)

    def _example(self, identity: str, features: dict[str, Any], place: Place | None, *, cut: bool) -> Example:
        """Return what training needs of the inputs of one row."""
        inputs = self.encoder.row_tensors(features, features["input_ids"].shape[1])
        image_tokens = self.encoder.geometry.is_patch(inputs["input_ids"])
        none = torch.zeros_like(image_tokens)
        return Example(identity, inputs, none, image_tokens, torch.zeros(0, dtype=torch.long), cut=cut, place=place)

    def _require(
        self, messages: Any, instruction: str, place: Place | None, task: Mapping[str, str] = NO_TASK, **options: Any
    ) -> dict[str, Any]:
        """Return the inputs, or say that the processor refuses the row."""
        try:
            return self._preprocess(messages, instruction, task, **options)
        except ValueError as error:
            reason = str(error).partition("\n")[0]
            raise ContentError(f"{type(self.processor).__name__} refuses the row: {reason}", place) from error

    def _preprocess(self, messages: Any, instruction: str, task: Mapping[str, str], **options: Any) -> dict[str, Any]:
        batch, told = processor_inputs([messages])
        made: dict[str, Any] = self.module.preprocess(
            batch, prompt=instruction or None, processing_kwargs={"text": options, **told}, **task
        )
        return made


def _picture_cost(
    config: PairsConfig, prepared: PreparedModel[TrainingModule], encoder: Encoder, padding: dict[str, Any], folder: Path
) -> CostWeights:
    """Count what an image token costs on the model, or read what the first rank counted; a forecast has none to count on."""
    if config.calibrate == "none" or getattr(prepared, "module", None) is None:
        return NO_EXTRA_COST

    def count() -> dict[str, Any]:
        return dataclasses.asdict(image_token_cost(prepared.module, encoder, partial(model_inputs, **padding)))

    return CostWeights(**counted_once(config, prepared, folder, "cost", count))


def _of_sources(pairs: Pairs | None, rows: int) -> list[EvalRows]:
    """Return the sets of whole sources, each a set of its own name."""
    if pairs is None or not rows:
        return []
    found = []
    source_of = pairs.mixture.source_of(np.arange(len(pairs)))
    for number, source in enumerate(pairs.mixture.sources):
        found += _measured(source.label, pairs, np.flatnonzero(source_of == number), rows)
    return found


def _measured(name: str, pairs: Pairs, rows: NDArray[np.int64], most: int | None) -> list[EvalRows]:
    """Return the rows of each task, no more than asked for: those that come first by their identities' numbers."""
    found = []
    for number, task in enumerate(pairs.tasks):
        own = rows[pairs.task_of[rows] == number]
        if len(own):
            found.append(EvalRows(name, task, pairs, np.sort(pairs.shuffled(own)[:most]), len(own)))
    return found


def _require_tasks(config: PairsConfig, tasks: Sequence[str]) -> None:
    """Refuse prompts for tasks that there are not."""
    known = [QUERY, DOCUMENT, *(f"{task}-{side}" for task in dict.fromkeys(tasks) for side in (QUERY, DOCUMENT))]
    for name in config.all_prompts():
        if name not in known:
            raise UsageError(f"prompts.{name}: there is no such task or side{did_you_mean(name, known)} (there are: {', '.join(known)})")


# A guide: another embedding model, by whose vectors negatives too near to the positive are found (GISTEmbed, arXiv
# 2402.16829).
#
# It is any model that the engine opens, with instructions of its own. It sees each content of a batch once, when the
# batch's rows have been read; a content that it cannot take has the vector zero, which is near to nothing.


class Guide:
    """Gives the vectors of a batch's contents."""

    def __init__(self, model: str, *, device: str = "auto", workers: int = 0) -> None:
        """Open the model."""
        self.embedder = open_embedder(model, device=device, workers=workers)

    def __call__(self, documents: Sequence[Document], sides: Sequence[str]) -> torch.Tensor:
        """Return one vector for each content; `sides` says which are queries."""
        vectors = torch.zeros(len(documents), self.embedder.dimension)
        for side in get_args(Side):
            numbers = [number for number, one in enumerate(sides) if one == side]
            found = self.embedder.embed([documents[number] for number in numbers], side=side, refuse=lambda *_: None)
            for place, vector in found:
                vectors[numbers[place]] = torch.from_numpy(vector)
        return vectors
