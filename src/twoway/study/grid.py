"""A study as jobs: the grid of arms and seeds, the gates, learning rates, the part that some claims need, and how long it takes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.config import Field, settings
from twoway.data.config import SourceConfig
from twoway.errors import TwowayError, UsageError
from twoway.evaluation.config import EvaluateConfig
from twoway.evaluation.runner import items_path
from twoway.files import write_whole
from twoway.methods.finetune.config import HELD_OUT
from twoway.models.loading import read_json
from twoway.recipes.recipe import START, Recipe, StageRecipe, known_kinds, located, named_stages
from twoway.recipes.records import Stand, data_identity, job_state, model_identity, plan_jobs, read_record
from twoway.recipes.stages import StageKind

from .config import Choice, read_study, rows_read, with_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from twoway.recipes.records import Job

    from .config import Arm, Study


# A study as jobs: each arm with each seed is a recipe, and jobs of one fingerprint are one, so that shared stages are
# done once.
#
# What a rate depends on is done before it: an arm whose rate is searched for has no job of its own until the search
# is done, and `lay_out` is called again then. Nothing is done or written here.

STAGES, RESULTS, LOGS, VECTORS = "stages", "results", "logs", "vectors"


@dataclass(frozen=True)
class GridJob:
    """One job of a study: where it is done, from what, and after which others."""

    title: str
    job: Job
    base: str
    folder: Path
    needs: tuple[str, ...]  # keys of the tasks whose model or rows it takes
    makers: Mapping[str, tuple[StageKind, Path]] = field(default_factory=dict)  # stages whose rows it reads, and where they are made

    @property
    def key(self) -> str:
        """The fingerprint: what two studies, or two arms, have in common."""
        return self.job.fingerprint

    @property
    def stand(self) -> Stand:
        """Its state on the disk."""
        return job_state(self.job, self.folder)

    def ready(self) -> Job:
        """Return the job with the places of what others have made by now."""
        return dataclasses.replace(self.job, config=located(self.job.config, self.makers.__getitem__))


@dataclass(frozen=True)
class Run:
    """An arm with its seeds: its two tasks, and the path of its results. The first makes the model, by fine-tuning or a merge."""

    arm: str
    seed: int
    stage_seeds: dict[str, int]
    finetune: str  # keys of tasks
    evaluate: str
    results: Path


@dataclass(frozen=True)
class Grid:
    """All tasks that are known, in the order in which they are best done, and the runs that they make."""

    tasks: dict[str, GridJob]
    runs: tuple[Run, ...]
    waiting: tuple[str, ...]  # arms whose rate is not known yet
    chains: dict[str, tuple[str, ...]]  # arm -> keys of the tasks that it takes models or rows of, of its first run
    named: dict[str, tuple[str, ...]]  # stage -> keys of its tasks, one for each seed
    trials: dict[str, dict[Choice, str]]  # arm -> choice -> key of the task that tries it

    @property
    def gate(self) -> GridJob:
        """The task that tests whether the base uses its pictures."""
        return next(task for task in self.tasks.values() if task.job.kind.name == GATE)


class GridBuilder:
    """Turns a study into tasks; models and data are identified once."""

    def __init__(
        self,
        study: Study,
        out: Path,
        kinds: Mapping[str, StageKind],
        *,
        of_model: Callable[[str], str] = model_identity,
        of_data: Callable[[SourceConfig], str] = data_identity,
    ) -> None:
        self.study, self.out, self.kinds = study, out, kinds
        self._models, self._data = _Kept(of_model), _Kept(of_data)
        self._grids: dict[tuple[tuple[str, Choice], ...], Grid] = {}

    def lay_out(self, found: Mapping[str, Choice]) -> Grid:
        """Return all tasks; `found` are the choices that were found so far, by arm."""
        key = tuple(sorted(found.items()))
        if key not in self._grids:
            self._grids[key] = self._lay_out(found)
        return self._grids[key]

    def _lay_out(self, found: Mapping[str, Choice]) -> Grid:
        tasks: dict[str, GridJob] = {}
        runs: list[Run] = []
        chains: dict[str, tuple[str, ...]] = {}
        named: dict[str, dict[str, None]] = {one.recipe.name: {} for one in self.study.before}
        trials: dict[str, dict[Choice, str]] = {}
        self._add(tasks, [gate_stage(self.study, self.kinds)], GATE)
        arms = sorted(self.study.arms, key=lambda arm: arm.name != self.study.smoke)
        for arm in arms:
            for choice in arm.choices:
                one = arm.chosen(choice)
                chain = self._before(one, {}, next(self._stage_seeds(one, {})))
                tried = dataclasses.replace(one.recipe, folder="", config=_trial(one))
                *keys, key = self._add(tasks, [*chain, tried], arm.name, f" at {choice.label(alone=not arm.sources)}")
                trials.setdefault(arm.name, {})[choice] = key
                for stage, before in zip(chain, keys, strict=True):
                    named[stage.name][before] = None
        waiting = [arm.name for arm in arms if any(one.search and one.name not in found for one in self.study.with_parts(arm.name))]
        # Seed by seed: a study that is cut off has as many whole seeds as possible.
        tuned = {arm.name: arm.chosen(found.get(arm.name)) for arm in arms}
        for seed, arm in itertools.product(self.study.seeds, tuned.values()):
            if arm.name in waiting:
                continue
            for stage_seeds in self._stage_seeds(arm, tuned):
                chain = self._before(arm, tuned, stage_seeds | dict.fromkeys(tuned, seed))
                keys = self._add(tasks, [*chain, *self._scored(arm, seed)], arm.name, f", seed {seed}")
                chains.setdefault(arm.name, tuple(keys[: len(chain)]))
                for stage, key in zip(chain, keys, strict=False):
                    if stage.name in named:
                        named[stage.name][key] = None
                runs.append(Run(arm.name, seed, stage_seeds, keys[-2], keys[-1], self._results(arm, seed, stage_seeds)))
        return Grid(tasks, tuple(runs), tuple(waiting), chains, {name: tuple(keys) for name, keys in named.items()}, trials)

    def _add(self, tasks: dict[str, GridJob], stages: Sequence[StageRecipe], arm: str, how: str = "") -> list[str]:
        """Add the jobs of an arm's recipe, titled by the arm and by how it is done; return their keys in the recipe's order."""
        jobs = plan_jobs(Recipe(self.study.name, self.study.base, tuple(stages)), of_model=self._models, of_data=self._data)
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
            needs = {job.source, *named_stages(job.config)} & by_name.keys()
            own = job.name == arm or job.kind.makes_model  # of this arm, or of one that it merges
            title = job.name if job.name in shared else f"{job.name}{how}" if own else f"{arm}{how}, {job.kind.name}"
            base = job.base or str(folders[job.source])
            makers = {name: (by_name[name].kind, folders[name]) for name in named_stages(job.config)}
            keys = tuple(by_name[name].fingerprint for name in sorted(needs))
            task = GridJob(title, job, base, folders[job.name], keys, makers)
            tasks.setdefault(task.key, task)
        return [job.fingerprint for job in jobs]

    def _scored(self, arm: Arm, seed: int) -> list[StageRecipe]:
        """Return an arm's own stage with its seed, and its evaluation."""
        config = arm.evaluate
        if isinstance(config, EvaluateConfig):
            config = dataclasses.replace(config, cache_dir=config.cache_dir or self.out)
        return [_seeded(arm.recipe, seed), StageRecipe(f"{arm.name}_scores", self.kinds["evaluate"], arm.name, "", config)]

    def _before(self, arm: Arm, arms: Mapping[str, Arm], seeds: Mapping[str, int]) -> list[StageRecipe]:
        """Return the stages that an arm needs, and of these arms those that it merges, in the study's order, with their seeds."""
        listed = {one.recipe.name: one.recipe for one in self.study.before} | {name: one.recipe for name, one in arms.items()}
        needed: set[str] = set()
        open_ends = [arm.takes]
        while open_ends:
            found = open_ends.pop() & listed.keys() - needed
            needed |= found
            open_ends += [{listed[name].source, *named_stages(listed[name].config)} for name in found]
        return [_seeded(stage, seeds[name]) for name, stage in listed.items() if name in needed]

    def _stage_seeds(self, arm: Arm, arms: Mapping[str, Arm]) -> Iterator[dict[str, int]]:
        """Yield every choice of seeds of the stages that an arm needs, those of the arms that it merges among them."""
        seeds = {one.recipe.name: one.seeds for one in self.study.before}
        firsts = {name: many[0] for name, many in seeds.items()} | dict.fromkeys(arms, 0)
        names = [stage.name for stage in self._before(arm, arms, firsts) if stage.name in seeds]
        for chosen in itertools.product(*(seeds[name] for name in names)):
            yield dict(zip(names, chosen, strict=True))

    def _results(self, arm: Arm, seed: int, stage_seeds: Mapping[str, int]) -> Path:
        """Return the path of a run's results: seeds of earlier stages come before its own, if they have several."""
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


def _trial(arm: Arm) -> Any:
    """Return the settings of a short run of an arm with its rate."""
    search = arm.search
    assert search is not None
    config = with_rows(arm.recipe.config, search.rows, f"{arm.name}: learning_rate")
    config = dataclasses.replace(config, seed=search.seed, eval_steps=0, load_best_model_at_end=False)
    if search.data:
        config = dataclasses.replace(config, data=search.data)
    # What is scored in the end is not looked at.
    if search.eval_data:
        return dataclasses.replace(config, held_out=0, eval_data=search.eval_data, eval_rows=search.held_out)
    return dataclasses.replace(config, held_out=search.held_out, eval_data=())


def base_of(task: GridJob) -> str:
    """Return what a stage of the study starts from, by name."""
    return START if task.job.base is not None else task.job.source


# The gates of a study: a base that does not use its pictures, or a first arm at chance, decides nothing, whatever
# the others score.
#
# The base's gate foretells the words of held-out rows from their own picture and from another row's; the difference,
# in nats a word, is what looking gives. The first arm's scores are held against chance.

GATE, GATE_FILE = "gate", "gate.json"


@settings
class LookConfig:
    """The rows on which a base is tested."""

    data: tuple[SourceConfig, ...] = Field(default_factory=lambda: (SourceConfig("samples:pretrain"),))
    rows: int = 256
    max_length: int = 512


def measure_image_gain(base: str, out: Path, config: LookConfig, _nproc: int = 1) -> Mapping[str, float]:
    """Measure what the right picture saves, in nats a word, and write it down."""
    import torch

    from twoway.methods.pretrain.callbacks import readable_rows
    from twoway.methods.pretrain.config import PretrainConfig
    from twoway.methods.pretrain.data import open_data
    from twoway.methods.pretrain.method import prepare
    from twoway.methods.pretrain.step import NOTHING_MASKED
    from twoway.training.precision import choose_dtype
    from twoway.training.probes import SHUFFLED, Prober, measure_modalities, pair_pictured_rows

    asked = PretrainConfig(
        objective="causal", data=config.data, held_out=config.rows, max_length=config.max_length, calibrate="none", dataloader_num_workers=0
    )
    out.mkdir(parents=True, exist_ok=True)
    prepared = prepare(base, asked)
    data = open_data(asked, prepared, out, shards=1, bad_rows=None)
    half = choose_dtype(torch.device("cpu")).dtype == "bfloat16"
    prober = Prober(
        data.encode, data.collate, prepared.geometry, prepared.token.id, autocast=half, words=NOTHING_MASKED.words, keep=NOTHING_MASKED.keep
    )
    found = measure_modalities(prepared.module, pair_pictured_rows(readable_rows(data)), prober)
    figures = {"gap": found.get(f"words_gap_{SHUFFLED}", 0.0)}
    write_whole(out / GATE_FILE, json.dumps(found, indent=2) + "\n")
    return figures


LOOK = StageKind(GATE, LookConfig, measure_image_gain, marker=GATE_FILE, makes_model=False)


def gate_stage(study: Study, kinds: Mapping[str, StageKind]) -> StageRecipe:
    """Return the base's gate as a stage."""
    return StageRecipe(GATE, kinds.get(GATE, LOOK), START, "", LookConfig(study.gate.data, study.gate.rows, study.gate.max_length))


@dataclass(frozen=True)
class GateVerdict:
    """The state of the gates; `passed` is None while one has no result."""

    base: Mapping[str, Any] | None = None
    smoke: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool | None:
        """Say whether arms may be trusted."""
        said = [None if one is None else one["passed"] for one in (self.base, self.smoke)]
        return False if False in said else None if None in said else True

    @property
    def why(self) -> str:
        """Describe in a sentence what does not hold, or is unknown yet."""
        if self.base is None:
            return "the base has not been tested yet"
        if not self.base["passed"]:
            return (
                f"the base does not use its pictures enough: the right one saves {self.base['gap']:.2f} nats a word over another "
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
    """Compare the measured gap with the required one."""
    gap = float(figures["gap"])
    return {"gap": gap, "least": study.gate.gap, "passed": gap >= study.gate.gap}


def of_arm(study: Study, found: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Compare the first arm's scores with chance."""
    # Of some tasks of mteb nobody says what luck scores. Those of which it is known speak for all.
    tasks = [one for one in found["tasks"].values() if one["chance"] is not None]
    score, chance = (sum(one[key] for one in tasks) / max(len(tasks), 1) for key in ("score", "chance"))
    passed = bool(tasks) and score >= study.gate.times * chance
    known = {"score": score, "chance": chance} if tasks else {"score": None, "chance": None}
    return {"arm": study.smoke, "seeds": list(seeds), **known, "times": study.gate.times, "passed": passed}


def ask_gate(study: Study, grid: Grid, done: Collection[str]) -> GateVerdict:
    """Return what the gates say, as far as their jobs are done."""
    base = smoke = None
    record = read_record(grid.gate.folder) if grid.gate.key in done else None
    if record is not None:
        base = of_base(study, record.figures)
    first = next((one for one in grid.runs if one.arm == study.smoke and one.evaluate in done), None)
    if first is not None:
        smoke = of_arm(study, read_json(first.results), [*first.stage_seeds.values(), first.seed])
    return GateVerdict(base, smoke)


# The learning rate of an arm, and the stage that it starts from where several are named: short runs, measured on rows of
# their own or on held-out rows of what the arm trains on; the best is kept.
#
# The scored items are never used for this, so no arm is chosen for its luck on the test.

SCORE = "mrr"  # a rate is chosen by the mean over tasks, as a contrastive stage says it of what it is measured on


def tried(grid: Grid) -> dict[str, dict[Choice, float | None]]:
    """Return the score of every choice that is tried, by arm; None where it is not known yet."""
    return {arm: {choice: _score(grid.tasks[key]) for choice, key in trials.items()} for arm, trials in grid.trials.items()}


def found_choices(study: Study, grid: Grid) -> dict[str, Choice]:
    """Return what is found: of arms whose tries are all done, the best that holds; of equal ones the smallest rate."""
    found = {}
    for arm, scores in tried(grid).items():
        known = {choice: score for choice, score in scores.items() if score is not None}
        sound = {choice: score for choice, score in known.items() if math.isfinite(score)}
        if len(known) == len(scores) and sound:
            found[arm] = max(sorted(sound), key=lambda choice: sound[choice])
    return found | _alike(study, found)


def first_choices(study: Study) -> dict[str, Choice]:
    """Return a choice for each arm whose rate is searched for: the first, until one is found."""
    found = {arm.name: arm.choices[0] for arm in study.arms if arm.choices}
    return found | _alike(study, found)


def _alike(study: Study, found: Mapping[str, Choice]) -> dict[str, Choice]:
    """Return the choices of arms that take the rate of another one, where that is known; they start from their own stage."""
    taken = {}
    for arm in study.arms:
        if arm.search is not None and arm.search.like is not None:
            other = study.arm(arm.search.like)
            rate = found[other.name].learning_rate if other.name in found else None if other.search else other.recipe.config.learning_rate
            if rate is not None:
                taken[arm.name] = Choice(rate, arm.recipe.source)
    return taken


def _score(task: GridJob) -> float | None:
    """Return the score of a try that is done: of several sources the mean."""
    record = read_record(task.folder) if task.stand.standing == "done" else None
    if record is None:
        return None
    names = [f"{SCORE}/{source.label}" for source in task.job.config.eval_data] or [f"{SCORE}/{HELD_OUT}"]
    for name in names:
        if name not in record.figures:
            why = "where no task has twenty rows for each that is held out, there are none; give the arm a number for learning_rate"
            raise TwowayError(
                f"{task.folder} has measured no {name}, by which a rate is chosen: {why}, eval_data for the tries, or more data"
            )
    return sum(float(record.figures[name]) for name in names) / len(names)


# Part of a study: the jobs that some claims need, so that a long one can be done claim by claim.


def opened(study: str | Path, out: str | Path, words: Sequence[str], *, jobs: int, kinds: Mapping[str, StageKind] | None) -> GridBuilder:
    """Read a study, and return it laid out in the folder `out`. What cannot be done is refused."""
    if jobs < 1:
        raise UsageError(f"--jobs is at least 1, not {jobs}")
    kinds = known_kinds(kinds)
    return GridBuilder(read_study(study, words, kinds=kinds), Path(out), kinds)


def chosen_arms(study: Study, claims: Collection[int]) -> frozenset[str]:
    """Return the arms that claims of these numbers compare, those whose rate they take, and the first arm; all arms for no numbers."""
    known = {claim.claim for claim in study.claims}
    for number in claims:
        if number not in known:
            raise UsageError(f"{study.file} has no claim {number} (it has {', '.join(map(str, sorted(known)))})")
    if not claims:
        return frozenset(arm.name for arm in study.arms)
    named = {name for claim in study.claims if claim.claim in claims for name in claim.arms()}
    compared = {part.name for name in named for part in study.with_parts(name)}
    rates = {arm.search.like for arm in study.arms if arm.name in compared and arm.search is not None and arm.search.like}
    return frozenset({study.smoke, *compared, *rates})


def needed(grid: Grid, arms: Collection[str]) -> frozenset[str]:
    """Return the keys of the tasks that arms need, the base's gate among them."""
    open_ends = [grid.gate.key]
    open_ends += [key for run in grid.runs if run.arm in arms for key in (run.finetune, run.evaluate)]
    open_ends += [key for arm, trials in grid.trials.items() if arm in arms for key in trials.values()]
    found: set[str] = set()
    while open_ends:
        key = open_ends.pop()
        if key not in found:
            found.add(key)
            open_ends += grid.tasks[key].needs
    return frozenset(found)


# How long the rest of a study takes, by what a row has taken so far in stages of the same kind.


def amount(task: GridJob) -> int:
    """Return the rows of a task; 1 where none are counted."""
    return rows_read(task.job.config) or 1


def paces(grid: Grid, done: Collection[str]) -> dict[str, float]:
    """Return the seconds of a row, by kind of stage, of what is done."""
    seconds: dict[str, float] = defaultdict(float)
    rows: dict[str, int] = defaultdict(int)
    for key in done:
        record = read_record(grid.tasks[key].folder) if key in grid.tasks else None
        if record is not None:
            kind = grid.tasks[key].job.kind.name
            seconds[kind] += record.seconds
            rows[kind] += amount(grid.tasks[key])
    return {kind: seconds[kind] / rows[kind] for kind in seconds}


def seconds_left(grid: Grid, done: Collection[str], jobs: int) -> float | None:
    """Return how long the rest takes with so many jobs at a time; None if no stage of a kind has run yet."""
    known, total = paces(grid, done), 0.0
    for key, task in grid.tasks.items():
        if key in done:
            continue
        if task.job.kind.name not in known:
            return None
        begun = read_record(task.folder)
        total += max(known[task.job.kind.name] * amount(task) - (begun.seconds if begun else 0.0), 0.0)
    return total / jobs


# Scores where the report looks for them: copies under `results/ARM`, of what the jobs have written under `stages`.


def take_over(run: Run, task: GridJob, *, done: bool) -> None:
    """Copy a run's scores; a copy of an earlier design of the study goes, and its original stays."""
    made = task.folder / task.job.kind.marker
    pairs = ((items_path(made), items_path(run.results)), (made, run.results))
    if not done:
        for _, target in pairs:
            target.unlink(missing_ok=True)
    elif not run.results.exists() or run.results.read_bytes() != made.read_bytes():
        run.results.parent.mkdir(parents=True, exist_ok=True)
        for source, target in pairs:
            if source.exists():
                write_whole(target, source.read_bytes())
