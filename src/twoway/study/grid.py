"""A study as jobs: each arm with each seed is a recipe, and jobs of one fingerprint are one, so that shared stages are done once.

What a rate depends on is done before it: an arm whose rate is searched for has no job of its own until the search is done, and `lay_out`
is called again then. Nothing is done or written here.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from twoway.stages.evaluate_config import EvaluateConfig
from twoway.stages.fingerprint import data_identity, model_identity, plan
from twoway.stages.made_rows import located, names_of
from twoway.stages.recipe import START, Recipe, StageRecipe
from twoway.stages.records import Stand, look

from . import gate
from .reading import with_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from twoway.data.mixture import SourceConfig
    from twoway.stages.fingerprint import Job
    from twoway.stages.kinds import Kind

    from .config import Arm, Study

STAGES, RESULTS, LOGS, VECTORS = "stages", "results", "logs", "vectors"


@dataclass(frozen=True)
class Task:
    """One job of a study: where it is done, from what, and after which others."""

    title: str
    job: Job
    base: str
    folder: Path
    needs: tuple[str, ...]  # keys of the tasks whose model or rows it takes
    makers: Mapping[str, tuple[Kind, Path]] = field(default_factory=dict)  # stages whose rows it reads, and where they are made

    @property
    def key(self) -> str:
        """The fingerprint: what two studies, or two arms, have in common."""
        return self.job.fingerprint

    @property
    def stand(self) -> Stand:
        """How it stands on the disk."""
        return look(self.job, self.folder)

    def ready(self) -> Job:
        """Return the job with the places of rows that others have made by now."""

        def rows(name: str) -> tuple[str, Path | None]:
            kind, folder = self.makers[name]
            assert kind.rows is not None
            return kind.rows(folder)

        return dataclasses.replace(self.job, config=located(self.job.config, rows))


@dataclass(frozen=True)
class Run:
    """An arm with its seeds: its two tasks, and where its results come to lie."""

    arm: str
    seed: int
    stage_seeds: dict[str, int]
    finetune: str  # keys of tasks
    evaluate: str
    results: Path


@dataclass(frozen=True)
class Grid:
    """All tasks that are known, in the order in which they are best done, and the runs that they make."""

    tasks: dict[str, Task]
    runs: tuple[Run, ...]
    waiting: tuple[str, ...]  # arms whose rate is not known yet
    chains: dict[str, tuple[str, ...]]  # arm -> keys of the tasks before its contrastive stage, of its first run
    named: dict[str, tuple[str, ...]]  # stage -> keys of its tasks, one for each seed
    trials: dict[str, dict[float, str]]  # arm -> rate -> key of the task that tries it

    @property
    def gate(self) -> Task:
        """The task that asks the base whether it looks."""
        return next(task for task in self.tasks.values() if task.job.kind.name == gate.NAME)


class Layout:
    """Turns a study into tasks; what models and data are is looked up once."""

    def __init__(
        self,
        study: Study,
        out: Path,
        kinds: Mapping[str, Kind],
        *,
        of_model: Callable[[str], str] = model_identity,
        of_data: Callable[[SourceConfig], str] = data_identity,
    ) -> None:
        self.study, self.out, self.kinds = study, out, kinds
        self._models, self._data = _Kept(of_model), _Kept(of_data)
        self._grids: dict[tuple[tuple[str, float], ...], Grid] = {}

    def lay_out(self, rates: Mapping[str, float]) -> Grid:
        """Return all tasks; `rates` are the rates that were found so far, by arm."""
        key = tuple(sorted(rates.items()))
        if key not in self._grids:
            self._grids[key] = self._lay_out(rates)
        return self._grids[key]

    def _lay_out(self, rates: Mapping[str, float]) -> Grid:
        tasks: dict[str, Task] = {}
        runs: list[Run] = []
        chains: dict[str, tuple[str, ...]] = {}
        named: dict[str, dict[str, None]] = {one.recipe.name: {} for one in self.study.before}
        trials: dict[str, dict[float, str]] = {}
        self._add(tasks, [gate.stage(self.study, self.kinds)], gate.NAME)
        arms = sorted(self.study.arms, key=lambda arm: arm.name != self.study.smoke)
        for arm in arms:
            if arm.search is not None and arm.search.like is None:
                for rate in arm.search.rates:
                    chain = self._before(arm, next(self._stage_seeds(arm)))
                    tried = StageRecipe(arm.name, arm.recipe.kind, arm.recipe.source, "", _trial(arm, rate))
                    key = self._add(tasks, [*chain, tried], f"{arm.name} at {rate:g}")[-1]
                    trials.setdefault(arm.name, {})[rate] = key
        waiting = [arm.name for arm in arms if arm.search is not None and arm.name not in rates]
        # Seed by seed: a study that is cut off has as many whole seeds as possible.
        for seed, arm in itertools.product(self.study.seeds, arms):
            if arm.name in waiting:
                continue
            for stage_seeds in self._stage_seeds(arm):
                keys = self._add(tasks, self._recipe(arm, seed, stage_seeds, rates.get(arm.name)), f"{arm.name}, seed {seed}")
                names = [stage.name for stage in self._before(arm, stage_seeds)]
                chains.setdefault(arm.name, tuple(keys[: len(names)]))
                for name, key in zip(names, keys, strict=False):
                    named[name][key] = None
                runs.append(Run(arm.name, seed, stage_seeds, keys[-2], keys[-1], self._results(arm, seed, stage_seeds)))
        return Grid(tasks, tuple(runs), tuple(waiting), chains, {name: tuple(keys) for name, keys in named.items()}, trials)

    def _add(self, tasks: dict[str, Task], stages: Sequence[StageRecipe], title: str) -> list[str]:
        """Add the jobs of one recipe; return their keys in its order."""
        jobs = plan(Recipe(self.study.name, self.study.base, tuple(stages)), of_model=self._models, of_data=self._data)
        # A job that another arm has too, maybe under another name, is done in one place.
        folders = {
            job.name: tasks[job.fingerprint].folder
            if job.fingerprint in tasks
            else self.out / STAGES / f"{job.name}-{job.fingerprint[:12]}"
            for job in jobs
        }
        by_name = {job.name: job for job in jobs}
        shared = {one.recipe.name for one in self.study.before}
        for job in jobs:
            needs = {job.source, *names_of(job.config)} & by_name.keys()
            job_title = job.name if job.name in {*shared, title} else title if job.kind.makes_model else f"{title}, {job.kind.name}"
            base = job.base or str(folders[job.source])
            makers = {name: (by_name[name].kind, folders[name]) for name in names_of(job.config)}
            keys = tuple(by_name[name].fingerprint for name in sorted(needs))
            task = Task(job_title, job, base, folders[job.name], keys, makers)
            tasks.setdefault(task.key, task)
        return [job.fingerprint for job in jobs]

    def _recipe(self, arm: Arm, seed: int, stage_seeds: Mapping[str, int], rate: float | None) -> list[StageRecipe]:
        """Return the stages of an arm with its seeds, from the base to its scores."""
        changed = {"seed": seed} | ({} if rate is None else {"lr": rate})
        tuned = dataclasses.replace(arm.recipe, config=dataclasses.replace(arm.recipe.config, **changed))
        config = self.study.evaluate
        if isinstance(config, EvaluateConfig):
            config = dataclasses.replace(config, cache=config.cache or self.out / VECTORS)
        scored = StageRecipe(f"{arm.name}_scores", self.kinds["evaluate"], arm.name, "", config)
        return [*self._before(arm, stage_seeds), tuned, scored]

    def _before(self, arm: Arm, stage_seeds: Mapping[str, int]) -> list[StageRecipe]:
        """Return the stages that an arm needs, in the study's order, with their seeds."""
        listed = {one.recipe.name: one.recipe for one in self.study.before}
        needed: set[str] = set()
        open_ends = [arm.recipe]
        while open_ends:
            one = open_ends.pop()
            found = {one.source, *names_of(one.config)} & listed.keys() - needed
            needed |= found
            open_ends += [listed[name] for name in found]
        return [_seeded(stage, stage_seeds[name]) for name, stage in listed.items() if name in needed]

    def _stage_seeds(self, arm: Arm) -> Iterator[dict[str, int]]:
        """Yield every choice of seeds of the stages that an arm needs."""
        seeds = {one.recipe.name: one.seeds for one in self.study.before}
        names = [stage.name for stage in self._before(arm, {name: many[0] for name, many in seeds.items()})]
        for chosen in itertools.product(*(seeds[name] for name in names)):
            yield dict(zip(names, chosen, strict=True))

    def _results(self, arm: Arm, seed: int, stage_seeds: Mapping[str, int]) -> Path:
        """Return where the results of a run lie: seeds of stages stand before its own where they have several."""
        several = [stage_seeds[one.recipe.name] for one in self.study.before if len(one.seeds) > 1 and one.recipe.name in stage_seeds]
        return self.out / RESULTS / arm.name / f"seed-{'-'.join(str(one) for one in (*several, seed))}.json"


class _Kept:
    """A function whose answers are kept: the same files are not hashed for each arm."""

    def __init__(self, look_up: Callable[[Any], str]) -> None:
        self._look_up = look_up
        self._seen: dict[str, str] = {}

    def __call__(self, given: Any) -> str:
        key = repr(given)
        if key not in self._seen:
            self._seen[key] = self._look_up(given)
        return self._seen[key]


def _seeded(stage: StageRecipe, seed: int) -> StageRecipe:
    has_seed = any(one.name == "seed" for one in dataclasses.fields(stage.config))
    return dataclasses.replace(stage, config=dataclasses.replace(stage.config, seed=seed)) if has_seed else stage


def _trial(arm: Arm, rate: float) -> Any:
    """Return the settings of a short run at one rate."""
    search = arm.search
    assert search is not None
    config = with_rows(arm.recipe.config, search.rows, f"{arm.name}: lr")
    # Held-out rows of what is trained on decide; what is scored in the end is not looked at.
    return dataclasses.replace(config, lr=rate, seed=search.seed, held_out=search.held_out, eval_data=(), eval_steps=0, keep="last")


def base_of(task: Task) -> str:
    """Return what a stage of the study starts from, by name."""
    return START if task.job.base is not None else task.job.source
