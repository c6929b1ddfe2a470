"""The gates of a study: a base that does not look at its pictures, or a first arm at chance, decides nothing, whatever the others score.

The base's gate foretells the words of held-out rows from their own picture and from another row's; the difference, in nats a word, is what
looking gives. The first arm's scores are held against chance.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twoway.data.mixture import SourceConfig
from twoway.files import write_whole
from twoway.model.source import read_json
from twoway.stages.kinds import Kind
from twoway.stages.recipe import START, StageRecipe
from twoway.stages.records import read_record

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from .config import Study
    from .grid import Grid

NAME, FILE = "gate", "gate.json"


@dataclass(frozen=True)
class LookConfig:
    """On which rows a base is asked."""

    data: tuple[SourceConfig, ...] = field(default=(SourceConfig("samples:pretrain"),))
    rows: int = 256
    max_length: int = 512


def look(base: str, out: Path, config: LookConfig, _nproc: int = 1) -> Mapping[str, float]:
    """Measure what the right picture saves, in nats a word, and write it down."""
    import torch

    from twoway.stages.next_token import NOTHING_MASKED
    from twoway.stages.pretrain_config import PretrainConfig
    from twoway.stages.pretrain_data import open_data
    from twoway.stages.pretrain_model import prepare
    from twoway.stages.row_watch import readable
    from twoway.training.pairs import pair
    from twoway.training.precision import choose
    from twoway.training.probes import SHUFFLED, Prober, measure

    asked = PretrainConfig(
        objective="causal", data=config.data, held_out=config.rows, max_length=config.max_length, calibrate="none", workers=0
    )
    out.mkdir(parents=True, exist_ok=True)
    prepared = prepare(base, asked)
    data = open_data(asked, prepared, out, shards=1, bad_rows=None)
    half = choose(torch.device("cpu")).dtype == "bfloat16"
    prober = Prober(
        data.encode, data.collate, prepared.geometry, prepared.token.id, autocast=half, words=NOTHING_MASKED.words, keep=NOTHING_MASKED.keep
    )
    found = measure(prepared.task, pair(readable(data)), prober)
    figures = {"gap": found.get(f"words_gap_{SHUFFLED}", 0.0)}
    write_whole(out / FILE, json.dumps(found, indent=2) + "\n")
    return figures


LOOK = Kind(NAME, LookConfig, look, marker=FILE, makes_model=False)


def stage(study: Study, kinds: Mapping[str, Kind]) -> StageRecipe:
    """Return the base's gate as a stage."""
    return StageRecipe(NAME, kinds.get(NAME, LOOK), START, "", LookConfig(study.gate.data, study.gate.rows, study.gate.max_length))


@dataclass(frozen=True)
class Verdict:
    """What the gates say so far; `passed` is None as long as one has not spoken."""

    base: Mapping[str, Any] | None = None
    smoke: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool | None:
        """Say whether arms may be trusted."""
        said = [None if one is None else one["passed"] for one in (self.base, self.smoke)]
        return False if False in said else None if None in said else True

    @property
    def why(self) -> str:
        """Say in a sentence what does not hold, or is not known yet."""
        if self.base is None:
            return "the base has not been asked yet whether it looks at its pictures"
        if not self.base["passed"]:
            return (
                f"the base does not look at its pictures enough: the right one saves {self.base['gap']:.2f} nats a word over another "
                f"row's, and {self.base['least']:g} is the least that a study takes"
            )
        if self.smoke is None:
            return "the first arm has no scores yet"
        if self.smoke["chance"] is None:
            return f"what chance gives is known of none of the tasks, so nothing can be held against the first arm, {self.smoke['arm']}"
        if not self.smoke["passed"]:
            return (
                f"the first arm, {self.smoke['arm']}, does not clear chance: a mean of {self.smoke['score']:.3f} where chance gives "
                f"{self.smoke['chance']:.3f}, and {self.smoke['times']:g} times that is the least that a study takes"
            )
        return ""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"passed": self.passed, "base": self.base, "smoke": self.smoke, "why": self.why}


def of_base(study: Study, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Hold what was measured against what is asked for."""
    gap = float(figures["gap"])
    return {"gap": gap, "least": study.gate.gap, "passed": gap >= study.gate.gap}


def of_arm(study: Study, found: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Hold the first arm's scores against chance."""
    # Of some tasks of mteb nobody says what luck scores. Those of which it is known speak for all.
    tasks = [one for one in found["tasks"].values() if one["chance"] is not None]
    score, chance = (sum(one[key] for one in tasks) / max(len(tasks), 1) for key in ("score", "chance"))
    passed = bool(tasks) and score >= study.gate.times * chance
    known = {"score": score, "chance": chance} if tasks else {"score": None, "chance": None}
    return {"arm": study.smoke, "seeds": list(seeds), **known, "times": study.gate.times, "passed": passed}


def ask(study: Study, grid: Grid, done: Collection[str]) -> Verdict:
    """Return what the gates say, as far as their jobs are done."""
    base = smoke = None
    record = read_record(grid.gate.folder) if grid.gate.key in done else None
    if record is not None:
        base = of_base(study, record.figures)
    first = next((one for one in grid.runs if one.arm == study.smoke and one.evaluate in done), None)
    if first is not None:
        smoke = of_arm(study, read_json(first.results), [*first.stage_seeds.values(), first.seed])
    return Verdict(base, smoke)
