"""What a study has measured so far, read from its folder alone: arms, their runs, and the score of every item in every run.

A run is an arm with one seed of the contrastive stage, and of earlier stages if they have several. Missing runs are listed by name with
the reason: a table never hides an arm.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.errors import UsageError
from twoway.evaluation.compare import kept_scores
from twoway.evaluation.runner import read

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BASE = "base"
DONE = "done"
_BESIDE = ("mine", "score", "rerank")  # stages that an arm does not start from
_SAID = {"new": "not begun", "begun": "started, not finished"}
_NO_RATE = "its learning rate is not known yet"


@dataclass(frozen=True)
class ScoredTask:
    """A task as results describe it."""

    name: str
    metric: str
    group: str
    marks: tuple[str, ...]
    n: int
    chance: float
    luck: float  # what a random ranking reaches in 39 of 40 draws: a score up to here is at chance


@dataclass(frozen=True)
class ScoredRun:
    """One run: its seed, which seeds the stages before had where there are several, and the score of each item by task."""

    seed: int
    before: str
    scores: dict[str, Floats]


@dataclass(frozen=True)
class ArmRuns:
    """One arm: its description in the study, its runs, and the reasons of missing runs."""

    name: str
    about: dict[str, Any]
    runs: tuple[ScoredRun, ...]
    missing: tuple[tuple[str, str], ...]  # which run, and why it is not there

    @property
    def source(self) -> str:
        """Return the stage that its contrastive stage starts from."""
        return str(self.about.get("from") or BASE)

    @property
    def made_of(self) -> str:
        """Return what it starts from, or the arms that it merges."""
        return " + ".join(self.about.get("merges") or ()) or self.source

    def called(self, run: ScoredRun) -> str:
        """Name a run by its seeds; only by that of its contrastive stage if no other differs."""
        return f"{run.seed} ({run.before})" if len({one.before for one in self.runs}) > 1 else str(run.seed)

    @property
    def rate(self) -> str:
        """Say its learning rate, and whether a larger or smaller one than those that were tried might do better."""
        rate = self.about.get("learning_rate")
        if rate is None:
            return ""
        tried = sorted({float(one.split()[-1]) for one, score in (self.about.get("rates") or {}).items() if score is not None})
        ends = {} if len(tried) < 2 else {tried[0]: ", the smallest tried", tried[-1]: ", the largest tried"}
        return f"{rate:g}{ends.get(rate, '')}"

    def at_end(self) -> str:
        """Say that its rate is the smallest or largest of three or more: there may be a better one beyond."""
        tried = [score for score in (self.about.get("rates") or {}).values() if score is not None]
        return f"{self.name} took {self.rate}" if len(tried) > 2 and "," in self.rate else ""

    def part(self) -> str:
        """Say which of its runs are not there, where others are."""
        return f"{self.name} without {self.gone()}" if self.runs and self.missing else ""

    def why(self) -> str:
        """Say why it has no run."""
        return f"{self.name} was not run" + (f" ({self.gone()})" if self.missing else "")

    def gone(self) -> str:
        """Say which runs are not there and why, the same reason once."""
        reasons: dict[str, list[str]] = {}
        for run, reason in self.missing:
            reasons.setdefault(reason, []).append(run)
        if len(reasons) == 1 and not self.runs:
            return f"every seed: {next(iter(reasons))}"
        return "; ".join(f"{', '.join(runs)}: {reason}" for reason, runs in reasons.items())


@dataclass(frozen=True)
class StudyOutcomes:
    """A study as far as it has come."""

    out: Path
    about: dict[str, Any]
    gate: dict[str, Any]
    tasks: dict[str, ScoredTask]
    abouts: dict[str, list[tuple[str, ...]]]  # task -> item -> what it is about
    arms: dict[str, ArmRuns]
    baselines: dict[str, dict[str, float]]  # models that cannot know: name -> task -> score

    def scope(self, tasks: Sequence[str] = (), groups: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the tasks that are named, or of a group or mark that is named; all where nothing is."""
        wanted, kinds = set(tasks), set(groups)
        found = [one for one in self.tasks.values() if one.name in wanted or kinds & {one.group, *one.marks}]
        return tuple(one.name for one in (found if wanted or kinds else self.tasks.values()))

    def unscored(self, tasks: Sequence[str], groups: Sequence[str]) -> list[str]:
        """Return names that match no scored task."""
        kinds = {kind for one in self.tasks.values() for kind in (one.group, *one.marks)}
        return [*(name for name in tasks if name not in self.tasks), *(name for name in groups if name not in kinds)]

    def beside(self, arm: str) -> list[str]:
        """Return the stages, done once, that made rows of an arm, or a reranker that scored them or reranks what it finds."""
        stages = self.about.get("stages") or {}
        before = (self.arms[arm].about.get("before") or {}).get("stages") or ()
        return [one for one in before if (stages.get(one) or {}).get("stage") in _BESIDE and len(stages[one].get("seeds") or ()) < 2]

    def groups(self, scope: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return groups and marks with their tasks within a scope."""
        found: dict[str, tuple[str, ...]] = {}
        for kinds in (lambda one: (one.group,), lambda one: one.marks):
            for name in scope:
                for kind in kinds(self.tasks[name]):
                    found[kind] = (*found.get(kind, ()), name)
        return found


def require_study(out: str | Path, study: str | Path) -> None:
    """Refuse a folder that is another study's than the one of this file, by its name; the file may be what the study itself wrote there."""
    about = facts(Path(out))
    if about.get("study") != Path(study).stem and Path(study).resolve() != Path(out).resolve() / "study.yaml":
        raise UsageError(f"{out} holds the study {about.get('study')} ({about.get('file')}), not {study}; name that one, or another OUT")


def read_outcomes(out: str | Path) -> StudyOutcomes:
    """Read a study's folder."""
    out = Path(out)
    about = facts(out)
    tasks: dict[str, ScoredTask] = {}
    order: dict[str, list[str]] = {}
    sizes: dict[str, dict[str, int]] = {}  # how many candidates each item has
    abouts: dict[str, list[tuple[str, ...]]] = {}
    baselines: dict[str, dict[str, float]] = {}
    arms = {}
    several = _several(about)
    for name, arm in about.get("arms", {}).items():
        runs, missing = [], []
        if not arm.get("runs"):
            missing.append(("every seed", str(arm.get("waits") or _NO_RATE)))
        for one in arm.get("runs", ()):
            path = out / str(one.get("file") or "")
            before = _before(one, several)
            if one.get("state") != DONE or not path.is_file():
                missing.append((f"seed {one.get('seed')}{f' after {before}' if before else ''}", _why_not(one)))
                continue
            found, items = read(path)
            if not tasks:
                tasks = {task: _task(task, entry) for task, entry in found["tasks"].items()}
                order = {task: list(items.get(task, {})) for task in tasks}
                sizes = {task: {key: kept.size for key, kept in items.get(task, {}).items()} for task in tasks}
                abouts = {task: [items[task][key].about for key in keys] for task, keys in order.items()}
                baselines = found.get("baselines", {})
            for task, keys in order.items():
                if not keys:
                    raise UsageError(
                        f"{path}: no single items are kept of {task}, and intervals are drawn from them; leave it out of the study"
                    )
                if {key: kept.size for key, kept in items.get(task, {}).items()} != sizes[task]:
                    raise UsageError(f"{path}: the items of {task} are not those of the study's other runs; evaluate this arm again")
            scores = {task: kept_scores(tasks[task].metric, items[task], keys) for task, keys in order.items()}
            runs.append(ScoredRun(int(one["seed"]), before, scores))
        arms[name] = ArmRuns(name, arm, tuple(runs), tuple(missing))
    gate = _json(out / "gate.json") or {"passed": None, "why": "the gate has not been tested yet"}
    return StudyOutcomes(out, about, gate, tasks, abouts, arms, baselines)


def facts(out: Path) -> dict[str, Any]:
    """Return the facts in a study's summary."""
    about = _json(out / "study.json")
    if about is None:
        raise UsageError(f"{out} is not a folder of a study: there is no study.json in it; twoway study writes one")
    return about


def _several(about: dict[str, Any]) -> set[str]:
    """Return the stages that are done with several seeds: one that is done once is the same for all who start from it."""
    seeds: dict[str, set[Any]] = {}
    for arm in about.get("arms", {}).values():
        for run in arm.get("runs", ()):
            for stage, seed in (run.get("stage_seeds") or {}).items():
                seeds.setdefault(stage, set()).add(seed)
    return {stage for stage, found in seeds.items() if len(found) > 1}


def _before(run: dict[str, Any], several: set[str]) -> str:
    """Say which seeds the stages before a run had, of those that have several."""
    return ", ".join(f"{stage} {seed}" for stage, seed in (run.get("stage_seeds") or {}).items() if stage in several)


def _why_not(run: dict[str, Any]) -> str:
    """Say why a run has no results."""
    state = str(run.get("state") or "new")
    return str(run.get("error") or ("its results are not there" if state == DONE else _SAID.get(state, state)))


def _task(name: str, entry: dict[str, Any]) -> ScoredTask:
    chance = entry["chance"] or 0.0
    luck = (entry.get("chance95") or (0.0, chance))[1]
    return ScoredTask(name, entry["metric"], entry.get("group", ""), tuple(entry.get("marks", ())), entry["n"] or 0, chance, luck)


def _json(path: Path) -> dict[str, Any] | None:
    """Return a JSON file, or nothing where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UsageError(f"{path} cannot be read ({error}); give the study's command again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} cannot be read: it is not a mapping; run the study's command again")
    return found
