"""`run --dry-run`: what would be done, how much each stage reads, and what that costs in time and memory. Nothing is done or written.

Rows, lengths and steps come from the data's tables and the plan of an epoch, as training makes them, with the processor of the nearest
model that is there: a stage's own base where the stage before is done, else the recipe's, with `convert`'s limits set. A stage that has
run before on this machine forecasts by its own speed. Streams of the hub are not fetched: the hub is asked whether it has them, where it
can be reached, and there are figures once `data prepare` or a run has copied them all.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from twoway.data.find_hub import copy_of
from twoway.data.hub import ask_for, repository_of
from twoway.data.patches import PatchGeometry
from twoway.data.table_sharing import shared_tables
from twoway.errors import TwowayError
from twoway.model.layout import write_as
from twoway.model.pixels import set_pixels
from twoway.model.source import locate
from twoway.model.start import open_reader
from twoway.training.peak import peak
from twoway.training.precision import choose
from twoway.training.progress import read_log

from .convert import ConvertConfig, _quiet
from .fingerprint import by_reason
from .made_rows import located, names_of, sources_of
from .run_report import duration
from .run_stage import TABLES, as_begun
from .steps import DOES, Step, lay_out, rows_in
from .tables import data_folder
from .workload import SHARE, Shape, bytes_needed, operations, shape_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .amounts import Amount
    from .kinds import Kind

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
class Reader:
    """What stands for a prepared model where its data is opened: all but the model."""

    processor: Any
    geometry: PatchGeometry
    max_length: int
    shape: Shape
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
    kinds: Mapping[str, Kind] | None = None,
) -> tuple[Forecast, ...]:
    """Forecast each stage of a recipe; the parameters are those of `run`."""
    _, steps = lay_out(recipe, out, words, start=start, only=only, redo=redo, nproc=nproc, kinds=kinds)
    with shared_tables():
        return tuple(forecast(step, steps, nproc) for step in steps)


def forecast(step: Step, steps: Sequence[Step], nproc: int) -> Forecast:
    """Forecast one stage; what cannot be known is left out, with the reason. Of several, data is looked through once (`shared_tables`)."""
    if step.action not in DOES:
        return Forecast(step.job.name, step.said)
    problems = list(step.job.problems)
    try:
        with _quiet():
            if step.job.kind.count is None:
                return _without_data(step, steps, problems)
            streams, absent, notes = _streams(step)
            if problems or absent:
                return Forecast(step.job.name, step.said, notes=(*notes, *_bound(step)), problems=(*problems, *absent))
            waiting = [one.job.name for one in steps if one.job.name in names_of(step.job.config) and one.action in DOES]
            if waiting:
                note = f"{step.job.name}: its rows are made by {waiting[0]}, so rows and tokens are not known before that is done"
                return Forecast(step.job.name, step.said, notes=(note,))
            if streams:
                note = f"{step.job.name}: streams are not fetched now, so rows and tokens are known once 'twoway data prepare' has run"
                return Forecast(step.job.name, step.said, notes=(*notes, note, *_bound(step)))
            return _trained(step, located(step.job.config, rows_in(steps)), reader_of(step, steps), nproc)
    except TwowayError as error:
        return Forecast(step.job.name, step.said, problems=(*problems, str(error)))


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
            states[name] = ask_for(str(name))
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
    rows = round(sum(one.cap * one.weight for one in config.data)) * config.epochs
    return (f"{step.job.name}: at most {rows:,} rows, by the caps of its sources, of at most {config.max_length:,} tokens",)


def _trained(step: Step, config: Any, reader: Reader, nproc: int) -> Forecast:
    """Forecast a stage that trains."""
    count = step.job.kind.count
    assert count is not None
    if hasattr(config, "calibrate"):
        config = replace(config, calibrate="none")  # there is no model to count on
    here, config = torch.device("cuda" if torch.cuda.is_available() else "cpu"), as_begun(config, step.folder)
    if config.dtype == "auto":
        config = replace(config, dtype=choose(here).dtype)
    begun = (step.folder / TABLES).is_dir()
    with tempfile.TemporaryDirectory() as folder:
        amount = count(config, reader, step.folder if begun else Path(folder), config.shards or nproc)
    needed = bytes_needed(reader.shape, config, amount, nproc)
    last = (
        next((entry for entry in reversed(read_log(step.folder)) if entry.get("tokens_per_second")), None) if step.folder.exists() else None
    )
    if last is not None:
        seconds = (1 - min(last["step"] / amount.steps, 1)) * amount.tokens / last["tokens_per_second"]
        own = f"{last['tokens_per_second']:,.0f} tokens a second"
        note = f"{step.job.name}: time by its own speed so far, {own}, from step {last['step']:,} on"
        return Forecast(step.job.name, step.said, amount, seconds, needed, (note,))
    speed = peak(here, config.dtype)
    # Ranks on an accelerator each have their own; on a processor they share its cores.
    ranks = nproc if torch.cuda.is_available() else 1
    seconds = operations(reader.shape, config, amount) / (SHARE * speed * ranks)
    note = f"time at {SHARE:.0%} of the {speed / 1e9:,.0f} GFLOP/s that a {config.dtype} product reaches here now"
    return Forecast(step.job.name, step.said, amount, seconds, needed, (note,))


def _without_data(step: Step, steps: Sequence[Step], problems: Sequence[str]) -> Forecast:
    """Forecast a stage that reads a model alone."""
    if problems:
        return Forecast(step.job.name, step.said, problems=tuple(problems))
    if not step.job.kind.makes_model:
        return Forecast(step.job.name, step.said, notes=(f"{step.job.name}: not estimated",))
    size = 2 * reader_of(step, steps).shape.total if torch.cuda.is_available() else 4 * reader_of(step, steps).shape.total
    return Forecast(step.job.name, step.said, seconds=_PROOF + 3 * size / _DISK, memory=2 * size)


def reader_of(step: Step, steps: Sequence[Step]) -> Reader:
    """Open the processor and the config of the nearest model that is there."""
    chain = [step]
    while chain[-1].job.base is None:
        before = next(one for one in steps if one.job.name == chain[-1].job.source)
        if before.action not in DOES:
            break
        chain.append(before)
    folder = locate(chain[-1].base)
    config, processor, _ = open_reader(folder)
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
    return Reader(processor, geometry, min(int(limit) for limit in limits if limit), shape_of(folder, geometry))
