"""`run --dry-run`: what would run, how much each stage reads, and the time and memory it needs. Nothing is trained or written.

Rows, lengths and steps come from the data's tables and the plan of an epoch, as in training, with the processor of the nearest available
model: a stage's own base if the stage before is finished, else the recipe's base, with `convert`'s limits set. A stage that has already
run on this machine is forecast from its own speed. Streams of the hub are not fetched: if the hub can be reached, it is asked whether it
has them, and there are figures once `data prepare` or a run has copied them all.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from twoway.data.collators import collate
from twoway.data.config import MaskingConfig
from twoway.data.dataset import data_folder, shared_tables
from twoway.data.masking import mask_inputs
from twoway.data.patches import PatchGeometry
from twoway.data.processing import Encoder, ordinary_ids
from twoway.data.sources.parquet import copy_of, repository_of, repository_status
from twoway.errors import TwowayError
from twoway.methods.config import ConvertConfig
from twoway.methods.convert import quiet_loading
from twoway.methods.counting import measure_work, stage_module
from twoway.methods.memory import CONTEXT, ModuleSizes, count_parameters, training_memory
from twoway.methods.pretrain.step import PATCHES
from twoway.methods.run import as_begun
from twoway.methods.tables import TABLES
from twoway.models.loading import locate
from twoway.models.opening import open_config_and_processor, write_as
from twoway.models.processor import set_pixels
from twoway.training.precision import choose_dtype, peak_rate
from twoway.training.progress import peak_memory as memory_used
from twoway.training.progress import read_log

from .recipe import located, made_by, named_stages, sources_of
from .records import by_reason
from .run import DOES, Step, duration, lay_out, made_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from twoway.data.config import SourceConfig
    from twoway.methods.pretrain.step import Reconstruction

    from .stages import Amount, StageKind

# Converting reads, writes and reads the weights again, and proves the attention.
_DISK, _PROOF = 200e6, 8.0


@dataclass(frozen=True)
class Forecast:
    """One stage, before it is done."""

    name: str
    said: str
    amount: Amount | None = None
    seconds: float | None = None
    memory: int | None = None
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def cells(self) -> tuple[str, ...]:
        """Return steps, rows, tokens, time and memory as a table shows them."""
        counts = (
            ("-", "-", "-")
            if self.amount is None
            else tuple(f"{one:,}" for one in (self.amount.steps, self.amount.rows, self.amount.tokens))
        )
        seconds = "-" if self.seconds is None else f"about {duration(self.seconds)}"
        return (*counts, seconds, "-" if self.memory is None else f"about {self.memory / 2**30:,.1f} GB")

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class PreparedProcessor:
    """Replaces a prepared model when data is opened: everything except the model."""

    processor: Any
    geometry: PatchGeometry
    max_length: int
    config: Any  # of the model
    negatives: int = 0  # wrong candidates that a row will have from a stage that is not done yet
    pad_token: int = 0
    token: Any = field(default_factory=lambda: SimpleNamespace(id=0))
    start: Any = field(default_factory=lambda: SimpleNamespace(settings=SimpleNamespace(prompts={})))


def dry_run(
    recipe: str | Path,
    out: str | Path,
    words: Sequence[str] = (),
    *,
    start: str | None = None,
    only: str | None = None,
    redo: bool = False,
    nproc: int = 1,
    kinds: Mapping[str, StageKind] | None = None,
) -> tuple[Forecast, ...]:
    """Forecast each stage of a recipe; the parameters are those of `run`."""
    _, steps = lay_out(recipe, out, words, start=start, only=only, redo=redo, nproc=nproc, kinds=kinds)
    with shared_tables():
        return tuple(forecast(step, steps, nproc) for step in steps)


def forecast(step: Step, steps: Sequence[Step], nproc: int) -> Forecast:
    """Forecast one stage; unknown figures are left out, with the reason. Several stages share one scan of the data (`shared_tables`)."""
    if step.action not in DOES:
        return Forecast(step.job.name, step.said)
    problems = list(step.job.problems)
    try:
        with quiet_loading():
            if step.job.kind.count is None:
                return _without_data(step, steps, problems)
            streams, absent, notes = _streams(step)
            if problems or absent:
                return Forecast(step.job.name, step.said, notes=(*notes, *_bound(step)), problems=(*problems, *absent))
            waiting = [one.job.name for one in steps if one.job.name in named_stages(step.job.config) and one.action in DOES]
            if waiting:
                return _of_rows_to_come(step, steps, waiting[0], nproc)
            if streams:
                note = f"{step.job.name}: streams are not fetched now, so rows and tokens are known once 'twoway data prepare' has run"
                return Forecast(step.job.name, step.said, notes=(*notes, note, *_bound(step)))
            return _trained(step, located(step.job.config, made_in(steps)), reader_of(step, steps), nproc)
    except TwowayError as error:
        return Forecast(step.job.name, step.said, problems=(*problems, str(error)))


def _of_rows_to_come(step: Step, steps: Sequence[Step], maker: str, nproc: int) -> Forecast:
    """Forecast a stage whose rows are not made yet, by the rows that these are made from."""
    name, config = step.job.name, step.job.config
    found = [_read_by(one, steps) for one in getattr(config, "data", ())]
    sources = tuple(source for listed, _ in found for source in listed)
    if not sources or any(one.spec.startswith("hub:") for one in sources):
        note = f"{name}: what it reads is made by {maker}, so rows and tokens are not known before that is done"
        return Forecast(name, step.said, notes=(note,))
    count = max(count for _, count in found)
    reader = replace(reader_of(step, steps), negatives=count)
    forecast = _trained(step, located(replace(config, data=sources), made_in(steps)), reader, nproc)
    note = f"{name}: what it reads is made by {maker}; counted as all rows that this reads, each with up to {count} wrong candidates"
    return replace(forecast, notes=(*forecast.notes, note))


def _read_by(source: SourceConfig, steps: Sequence[Step]) -> tuple[tuple[SourceConfig, ...], int]:
    """Return what is read to make a source, and how many wrong candidates a row gets on the way; a source that is there is itself."""
    maker = next((one for one in steps if one.job.name == made_by(source) and one.action in DOES), None)
    if maker is None:
        return (source,), 0
    found = [_read_by(one, steps) for one in getattr(maker.job.config, "data", ())]
    mined = int(getattr(maker.job.config, "num_negatives", 0))
    return tuple(one for listed, _ in found for one in listed), max([mined, *(count for _, count in found)])


_STATES = {
    "there": "there to be fetched",
    "gated": "gated (ask for access there, then `hf auth login`)",
    "unreachable": "not looked for, as the hub cannot be reached",
}


def _streams(step: Step) -> tuple[int, list[str], list[str]]:
    """Count the streams that are not copied yet, say which of them the hub does not have, and what is known of the others."""
    config = step.job.config
    listed = [one for sources in sources_of(config).values() for one in sources]
    streams = {one.spec: one for one in listed if one.spec.startswith("hub:")}
    folder = data_folder(getattr(config, "cache_dir", None))
    left: dict[str, str | None] = {}
    for spec, one in streams.items():
        argument = spec.removeprefix("hub:")
        if one.cap is None or not copy_of(argument, one.cap, folder).is_dir():
            left[spec] = repository_of(argument)
    states: dict[str | None, str] = {None: "there"}  # a folder of this machine, read as a stream
    for name in left.values():
        if name not in states and "unreachable" not in states.values():
            states[name] = repository_status(str(name))
    found: dict[str, list[str]] = {}
    for spec, name in left.items():
        found.setdefault(states.get(name, "unreachable"), []).append(spec)
    absent = [(spec, f"there is no {spec} (or not for you: see `hf auth login`)") for spec in found.get("missing", [])]
    counts = [f"{len(found[state])} {said}" for state, said in _STATES.items() if state in found]
    if len(left) < len(streams):
        counts.insert(0, f"{len(streams) - len(left)} copied here")
    notes = [f"{step.job.name}: {len(streams)} of {len(listed)} sources are of the hub: {', '.join(counts)}"] if counts else []
    return len(left), by_reason(absent, len(listed)), notes


def _bound(step: Step) -> tuple[str, ...]:
    """Say how many rows there are at most where none can be counted: what the caps of all sources allow."""
    config = step.job.config
    if not all(one.cap for one in config.data):
        return ()
    rows = round(sum(one.cap * one.weight for one in config.data)) * config.num_train_epochs
    return (f"{step.job.name}: at most {rows:,} rows, by the caps of its sources, of at most {config.max_length:,} tokens",)


def _trained(step: Step, config: Any, reader: PreparedProcessor, nproc: int) -> Forecast:
    """Forecast a stage that trains."""
    count = step.job.kind.count
    assert count is not None
    if hasattr(config, "calibrate"):
        config = replace(config, calibrate="none")  # there is no model to count on
    here, config = torch.device("cuda" if torch.cuda.is_available() else "cpu"), as_begun(config, step.folder)
    if config.dtype == "auto":
        config = replace(config, dtype=choose_dtype(here).dtype)
    begun = (step.folder / TABLES).is_dir()
    with tempfile.TemporaryDirectory() as folder:
        amount = count(config, reader, step.folder if begun else Path(folder), config.batches_per_step or nproc)
    module = module_of(config, reader)
    needed = bytes_needed(module, config, reader, amount, nproc)
    last = (
        next((entry for entry in reversed(read_log(step.folder)) if entry.get("tokens_per_second")), None) if step.folder.exists() else None
    )
    if last is not None:
        seconds = (1 - min(last["step"] / amount.steps, 1)) * amount.tokens / last["tokens_per_second"]
        own = f"{last['tokens_per_second']:,.0f} tokens a second"
        note = f"{step.job.name}: time by its own speed so far, {own}, from step {last['step']:,} on"
        return Forecast(step.job.name, step.said, amount, seconds, needed, (note,))
    speed = peak_rate(here, config.dtype)
    # Ranks on an accelerator each have their own; on a processor they share its cores.
    ranks = nproc if torch.cuda.is_available() else 1
    seconds = operations(module, config, reader, amount) / (SHARE * speed * ranks)
    note = f"time at {SHARE:.0%} of the {speed / 1e9:,.0f} GFLOP/s that a {config.dtype} product reaches here now"
    return Forecast(step.job.name, step.said, amount, seconds, needed, (note,))


def _without_data(step: Step, steps: Sequence[Step], problems: Sequence[str]) -> Forecast:
    """Forecast a stage that reads only a model."""
    if problems:
        return Forecast(step.job.name, step.said, problems=tuple(problems))
    if not step.job.kind.makes_model:
        return Forecast(step.job.name, step.said, notes=(f"{step.job.name}: not estimated",))
    size = (2 if torch.cuda.is_available() else 4) * count_parameters(reader_of(step, steps).config)
    return Forecast(step.job.name, step.said, seconds=_PROOF + 3 * size / _DISK, memory=2 * size)


def reader_of(step: Step, steps: Sequence[Step]) -> PreparedProcessor:
    """Open the processor and the config of the nearest model that is there."""
    chain = [step]
    while chain[-1].job.base is None:
        before = next(one for one in steps if one.job.name == chain[-1].job.source)
        if before.action not in DOES:
            break
        chain.append(before)
    folder = locate(chain[-1].base)
    config, processor, _ = open_config_and_processor(folder)
    own = step.job.config
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    limits = [positions, getattr(own, "max_length", None)]
    for one in chain[1:]:
        if isinstance(one.job.config, ConvertConfig):
            limits.append(one.job.config.max_length)
    # From the base on, as each stage leaves its bounds and its template in the processor that it saves.
    for one in reversed(chain):
        least, most = (getattr(one.job.config, name, None) for name in ("min_pixels", "max_pixels"))
        set_pixels(config, processor, min_pixels=least, max_pixels=most)
        if getattr(one.job.config, "template", None) == "plain":
            write_as(processor, "plain")
    geometry = PatchGeometry.of(config, processor)
    return PreparedProcessor(processor, geometry, min(int(limit) for limit in limits if limit), config)


# What a stage costs in operations, time and memory, from its module without weights and the tokens that it reads: the
# operations of a few rows are counted on it, forward and backward, and a line through them gives those of all
# (`methods.counting`). Time is operations over a rate: what this machine reaches in one large product, measured now,
# times the stated share of it that a training step reaches. It is an estimate: half or twice is near.

# Of the rate that one large product reaches, what a whole training step does.
SHARE = 0.35


def module_of(config: Any, reader: PreparedProcessor) -> Reconstruction:
    """Make what a stage trains, without weights."""
    geometry = reader.geometry
    return stage_module(reader.config, config, values=geometry.width, pad_token=reader.pad_token, token_keys=geometry.token_keys)


def operations(module: Reconstruction, config: Any, reader: PreparedProcessor, amount: Amount) -> float:
    """Return the floating-point operations of a training run, padding and what is computed again included."""
    masks = getattr(config, "mask", MaskingConfig(words=0.0, patches=0.0))
    tokens = reader.processor.tokenizer
    encode = Encoder(reader.processor, reader.geometry, max_length=reader.max_length, template=getattr(config, "template", "chat"))
    mask = partial(
        mask_inputs, config=masks, seed=0, mask_token=reader.token.id, geometry=reader.geometry, ordinary=ordinary_ids(reader.processor)
    )
    together = partial(collate, pad_token=reader.pad_token, padding_side=tokens.padding_side)
    work = measure_work(module, lambda name, document: together([mask(encode(name, document), epoch=0)]), reader.geometry)
    length, read = amount.padded / max(amount.rows, 1), float(module.decoder is not None and amount.image_tokens > 0)
    squares = amount.image_tokens**2 / max(amount.rows, 1)  # as if each row had one picture
    facts = (amount.padded, amount.padded * length, amount.padded * read, amount.padded * length * read, amount.image_tokens, squares)
    seen = {module.word_loss_name: masks.words * (amount.tokens - amount.image_tokens), PATCHES: masks.patches * amount.image_tokens * read}
    needed = float(np.dot(work.line, facts)) + sum(seen.get(name, 0.0) * each for name, each in work.targets.items())
    return needed * (1 + work.forward * (bool(config.gradient_checkpointing) + amount.passes))


def bytes_needed(module: Reconstruction, config: Any, reader: PreparedProcessor, amount: Amount, nproc: int = 1) -> int:
    """Return the memory of one rank."""
    sizes, image = ModuleSizes.of(module, reader.geometry.patches), amount.batch_images / max(amount.batch, 1)
    parallel = "fsdp" if config.parallel == "fsdp" else "ddp"
    found = training_memory(sizes, config, places=amount.batch, image=image, parallel=parallel, ranks=nproc)
    here = 0 if torch.cuda.is_available() else memory_used(torch.device("cpu")) - CONTEXT
    return int(found.total + here)
