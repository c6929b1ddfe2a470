"""`plan`: what a recipe costs at full size on hardware that is not here: operations, tokens, hours, money, and what fits in memory.

Nothing is loaded, read or fetched but the model's config, and of published sizes not even that. Operations are counted from the model's
parts (`plan_count`, which a test holds against a counted run to 2%). Hours rest on one assumption, the share of the data sheet's peak that
is reached in all operations that are done, those done twice included; what it comes to without these (MFU, as papers count) is said beside
it. Lengths of rows are assumptions by format where the user says nothing (`plan_sources`). Reading data, saving and evaluating are not
counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from twoway.errors import UsageError, did_you_mean

from .plan_hardware import PRICES_OF, hardware
from .plan_memory import memory, trained
from .plan_model import anatomy
from .plan_sources import read_means, require_used
from .plan_stage import work_of
from .recipe import START, read_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .plan_hardware import Hardware
    from .plan_memory import Memory
    from .plan_model import Anatomy
    from .plan_stage import Work
    from .recipe import StageRecipe

UTILISATION, PADDING = 0.4, 0.03
_PLANNED = ("pretrain", "bridge", "finetune")


@dataclass(frozen=True)
class StagePlan:
    """One stage on this hardware."""

    name: str
    dtype: str  # that auto means there
    work: Work
    trained: float
    hours: float
    mfu: float
    price: float
    choices: tuple[Memory, ...]
    taken: Memory  # the one that the recipe's own settings take

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
    model: Anatomy
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


def plan(
    recipe: str | Path,
    on: str,
    words: Sequence[str] = (),
    *,
    sources: Sequence[str] = (),
    tokens: Sequence[str] = (),
    utilisation: float = UTILISATION,
    padding: float = PADDING,
    price: float | None = None,
) -> Plan:
    """Plan the training stages of a recipe; `sources` and `tokens` are NAME=… as on the command line."""
    if not 0 < utilisation <= 1:
        raise UsageError(f"--utilisation is a share of the peak, above 0 and at most 1, not {utilisation}")
    if not 0 <= padding < 1:
        raise UsageError(f"--padding is a share from 0 to below 1, not {padding}")
    machine, said = hardware(on, price), read_means(sources)
    read = read_recipe(recipe, words)
    chosen = [one for one in read.stages if one.kind.name in _PLANNED]
    if not chosen:
        raise UsageError(f"{recipe} trains nothing, so there is nothing to plan")
    require_used(said, (one.label for stage in chosen for one in stage.config.data))
    wanted = _tokens(tokens, [one.name for one in chosen])
    names = {one.name for one in read.stages}
    apart = [one for one in chosen if one.source not in names and one.source != START]
    if apart:
        raise UsageError(f"{recipe}: {apart[0].name} starts from {apart[0].source}; plan knows one model a recipe, its base")
    model = anatomy(read.base)
    planned = []
    for stage in chosen:
        done = work_of(model, stage, said, ranks=machine.count, padding=padding, tokens=wanted.get(stage.name))
        planned.append(_stage(model, stage, done, machine, utilisation))
    left = [one.name for one in read.stages if one not in chosen]
    notes = (*_assumed(machine, utilisation, padding, price, planned), *((f"not planned: {', '.join(left)}",) if left else ()))
    return Plan(str(recipe), model, machine, utilisation, tuple(planned), notes)


def _stage(model: Anatomy, stage: StageRecipe, work: Work, machine: Hardware, utilisation: float) -> StagePlan:
    """Price one stage, and try how it may be spread."""
    hours = work.products.total / (machine.rate(stage.config.dtype) * machine.count * utilisation) / 3600
    mfu = utilisation * sum(work.products.needed.values()) / work.products.total
    image = work.image / work.tokens
    choices = []
    for parallel in ("ddp", "fsdp") if machine.count > 1 else ("ddp",):
        for again in (True, False):
            training = replace(work.training, checkpointing=again)
            choices.append(
                memory(
                    model, training, places=work.places, image=image, parallel=parallel, ranks=machine.count, room=machine.memory
                )
            )  # fmt: skip
    wanted = stage.config.parallel if machine.count > 1 else "ddp"
    own = [one for one in choices if one.checkpointing == work.training.checkpointing and wanted in (one.parallel, "auto")]
    taken = next((one for one in own if one.fits), own[-1])
    dtype, price = "bfloat16" if work.training.half else "float32", hours * machine.count * machine.price
    return StagePlan(stage.name, dtype, work, trained(model, work.training), hours, mfu, price, tuple(choices), taken)


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


def _assumed(machine: Hardware, utilisation: float, padding: float, price: float | None, planned: Sequence[StagePlan]) -> tuple[str, ...]:
    """Say what the figures rest on that nobody measured here."""
    peaks = dict.fromkeys(f"{machine.rate(one.dtype) / 1e12:,.0f}" for one in planned)
    notes = [f"assumed: {utilisation:.0%} of the peak of {' or '.join(peaks)} TFLOP/s a rank is reached, not measured (--utilisation)"]
    if price is None:
        notes.append(f"assumed: ${machine.price:.2f} an hour for one {machine.name}, as of {PRICES_OF} (--price)")
    notes.append(f"assumed: {padding:.0%} of padding (--padding)")
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
