"""A study: arms that differ in one thing each, seeds, and the claims that they decide; read here and nothing done yet.

    base: samples/base
    seeds: [1, 2, 3]                    # of the contrastive stage: each arm is done with each
    stages:                             # what comes before it; each is done once, whichever arms start from it
      moca: {stage: pretrain, recipe: ../recipes/nano-pretrain.yaml, rows: 24000}
    finetune: {recipe: ../recipes/nano-finetune.yaml, rows: 7680}      # of all arms
    evaluate: {suite: nano, tasks: [picture-name, composed]}
    arms:
      causal: {attention: causal, pooling: last, lr: 2e-4}
      two-way: {from: moca, lr: {rates: [2e-4, 6e-4], rows: 1280}}     # the rate that does best on held-out training rows
      other: {from: moca, pooling: last, lr: {like: two-way}}
    claims:
      - {key: pays, claim: 2, says: "…", paper: "…", better: two-way, than: causal}

Amounts are `rows`, never minutes: an arm must not win by running on a quieter machine. A key that nothing has is an error.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twoway.data.mixture import SourceConfig
from twoway.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from twoway.stages.evaluate_config import EvaluateConfig
    from twoway.stages.recipe import StageRecipe

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Curve:
    """Arms at doses of one thing, in order, and the arms of a control at the same doses."""

    axis: str
    points: dict[str, str]
    control: dict[str, str] = field(default_factory=dict)
    best: str | None = None  # the dose that is said to be the best

    def __post_init__(self) -> None:
        """Refuse what is no curve."""
        if self.best is not None and self.best not in self.points:
            raise UsageError(f"best is one of the doses {', '.join(self.points)}, not {self.best}")
        if len(self.points) < 2:
            raise UsageError("a curve has at least two points, {dose: arm}")
        for dose in self.control:
            if dose not in self.points:
                raise UsageError(f"the control has a dose {dose} that the curve has not (it has: {', '.join(self.points)})")


@dataclass(frozen=True)
class Claim:
    """What is said, by whom with what figures, and which arms decide it: one against another, or a curve."""

    key: str
    claim: int  # the number under which results list it; several entries may share one
    says: str
    paper: str = ""
    better: str | None = None
    than: str | None = None
    curve: Curve | None = None
    tasks: tuple[str, ...] = ()  # only these (default: all that are scored)
    groups: tuple[str, ...] = ()  # only tasks of these groups or marks
    smallest: float | None = None  # the smallest difference that counts (default: the study's)

    def __post_init__(self) -> None:
        """Refuse what cannot be decided."""
        if self.smallest is not None and self.smallest < 0:
            raise UsageError(f"{self.key}: smallest is a difference of 0 or more, not {self.smallest:g}")
        if not NAME.fullmatch(self.key):
            raise UsageError(f"the key of a claim is letters, digits, - and _, not {self.key!r}")
        if (self.curve is None) != (self.better is not None and self.than is not None) or (self.better is None) != (self.than is None):
            raise UsageError(f"{self.key}: a claim names two arms (better: and than:), or a curve")

    def arms(self) -> tuple[str, ...]:
        """Return the arms that it needs."""
        if self.curve is not None:
            return tuple(dict.fromkeys([*self.curve.points.values(), *self.curve.control.values()]))
        return tuple(one for one in (self.better, self.than) if one is not None)


@dataclass(frozen=True)
class Gate:
    """What must hold before an arm is trusted: the base looks at its pictures, and a first arm finds what chance does not."""

    gap: float = 0.5  # nats a word that the right picture saves over another row's, at least
    rows: int = 256
    data: tuple[SourceConfig, ...] = (SourceConfig("samples:pretrain"),)
    max_length: int = 512
    arm: str | None = None  # default: the first
    times: float = 4.0  # its mean score over the mean of chance, at least

    def __post_init__(self) -> None:
        """Refuse what says nothing."""
        if self.rows < 2 or self.gap < 0 or self.times < 1:
            raise UsageError("a gate has at least 2 rows, a gap of 0 or more, and times of 1 or more")


@dataclass(frozen=True)
class Search:
    """How an arm's learning rate is found: short runs, measured on held-out rows of what it trains on; the best is kept."""

    rates: tuple[float, ...] = ()
    rows: int = 0
    held_out: int = 64  # rows of each task
    seed: int = 0
    like: str | None = None  # the rate found for another arm, instead of a search

    def __post_init__(self) -> None:
        """Refuse half a search."""
        if (self.like is None) == (not self.rates or not self.rows):
            raise UsageError("lr is a number, or {rates: [2e-4, 6e-4], rows: 1280}, or {like: ARM}")
        if self.like is not None and (self.rates or self.rows):
            raise UsageError("lr: {like: ARM} takes the rate of another arm; leave rates and rows out")
        if len(set(self.rates)) != len(self.rates) or any(not rate > 0 for rate in self.rates):
            raise UsageError("rates are different numbers above 0")


@dataclass(frozen=True)
class Before:
    """A stage before the contrastive one; with several seeds, whatever starts from it is done for each."""

    recipe: StageRecipe
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Arm:
    """A contrastive stage: from what, how, and how its rate is found."""

    recipe: StageRecipe
    search: Search | None

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.recipe.name


@dataclass(frozen=True)
class Study:
    """Everything that a study file says."""

    name: str
    file: Path
    words: tuple[str, ...]
    base: str
    seeds: tuple[int, ...]
    before: tuple[Before, ...]
    arms: tuple[Arm, ...]
    evaluate: EvaluateConfig
    gate: Gate
    claims: tuple[Claim, ...]
    smallest: float = 0.01  # the smallest difference of scores that counts

    @property
    def smoke(self) -> str:
        """The arm that is done first and must clear chance."""
        return self.gate.arm or self.arms[0].name

    def arm(self, name: str) -> Arm:
        """Return an arm."""
        return next(one for one in self.arms if one.name == name)

    def require_whole(self) -> None:
        """Refuse seeds, claims, gates and rates that name what is not there."""
        names = [one.name for one in self.arms]
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UsageError(f"{self.file}: seeds are different numbers, at least one")
        if self.smallest < 0:
            raise UsageError(f"{self.file}: smallest is a difference of 0 or more, not {self.smallest:g}")
        kinds = self.evaluate.kinds()
        if self.gate.arm is not None:
            _require(self.gate.arm, names, f"{self.file}: gate")
        for claim in self.claims:
            for one in claim.arms():
                _require(one, names, f"{self.file}: claim {claim.key}")
            for task in claim.tasks:
                if self.evaluate.tasks and task not in self.evaluate.tasks:
                    known = f"{did_you_mean(task, self.evaluate.tasks)} (it has: {', '.join(self.evaluate.tasks)})"
                    raise UsageError(f"{self.file}: claim {claim.key}: the study scores no task {task!r}{known}")
            for kind in claim.groups if kinds else ():
                if kind not in kinds:
                    known = f"{did_you_mean(kind, kinds)} (there are: {', '.join(kinds)})"
                    raise UsageError(f"{self.file}: claim {claim.key}: the study scores no task of {kind!r}{known}")
        for key, count in Counter(claim.key for claim in self.claims).items():
            if count > 1:
                raise UsageError(f"{self.file}: two claims have the key {key}")
        searched = [one.name for one in self.arms if one.search is None or one.search.like is None]
        for arm in self.arms:
            if arm.search is not None and arm.search.like is not None:
                _require(arm.search.like, searched, f"{self.file}: {arm.name}: lr is like that of an arm with a rate of its own")


def _require(name: Any, names: list[str], where: str) -> None:
    if name not in names:
        raise UsageError(f"{where}: there is no arm {name!r}{did_you_mean(str(name), names)} (there are: {', '.join(names)})")
