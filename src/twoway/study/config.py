"""A study: arms that differ in one thing each, seeds, and the claims that they decide. It is only read here.

    base: samples/base
    seeds: [1, 2, 3]                    # of the contrastive stage: each arm is trained with each
    stages:                             # before the contrastive stage; each runs once and is shared by arms
      moca: {stage: pretrain, recipe: ../recipes/nano-pretrain.yaml, rows: 24000}
    finetune: {recipe: ../recipes/nano-finetune.yaml, rows: 7680}      # of all arms
    evaluate: {suite: nano, tasks: [picture-name, composed]}
    arms:
      causal: {attention: causal, pooling: last, learning_rate: 2e-4}
      two-way: {from: moca, learning_rate: {rates: [2e-4, 6e-4], rows: 1280}}     # the rate that does best on rows that are held out
      other: {from: moca, pooling: last, learning_rate: {like: two-way}}
      best: {from: [moca, moca-slow], learning_rate: {rates: [2e-4, 6e-4], rows: 1280}}     # the stage that does best, too
      merged: {stage: merge, from: two-way, models: ["stage:other"]}      # of each seed's models of these arms; nothing is trained
      reranked: {from: moca, learning_rate: {like: two-way}, evaluate: {rerank: "stage:judge"}}     # a stage of the kind rerank
    claims:
      - {key: pays, claim: 2, says: "…", paper: "…", better: two-way, than: causal}

Amounts are `rows`, never minutes: an arm must not win because the machine was less busy. An unknown key is an error.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.config import Field, Given, SettingPath, build, layer, put_words, read_tree, settings
from twoway.data.config import PairSource, SourceConfig
from twoway.errors import UsageError, did_you_mean
from twoway.evaluation.config import EvaluateConfig
from twoway.recipes.recipe import PREFIX, START, known_kinds, named_stages, recipe_of, require_made

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from twoway.recipes.recipe import StageRecipe
    from twoway.recipes.stages import StageKind

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
FINETUNE, MERGE = "finetune", "merge"  # what an arm may be


@settings
class CurveConfig:
    """Arms at doses of one thing, in order, and the arms of a control at the same doses."""

    axis: str
    points: dict[str, str]
    control: dict[str, str] = Field(default_factory=dict)
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


@settings
class ClaimConfig:
    """The claim, the paper's figures, and the arms that decide it: one against another, or a curve."""

    key: str
    claim: int  # the number under which results list it; several entries may share one
    says: str
    paper: str = ""
    better: str | None = None
    than: str | None = None
    curve: CurveConfig | None = None
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


@settings
class Gate:
    """What must hold before an arm is trusted: the base uses its pictures, and the first arm is above chance."""

    gap: float = 0.5  # nats a word that the right picture saves over another row's, at least
    rows: int = 256
    data: tuple[SourceConfig, ...] = Field(default_factory=lambda: (SourceConfig("samples:pretrain"),))
    max_length: int = 512
    arm: str | None = None  # default: the first
    times: float = 4.0  # its mean score over the mean of chance, at least

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        if self.rows < 2 or self.gap < 0 or self.times < 1:
            raise UsageError("a gate has at least 2 rows, a gap of 0 or more, and times of 1 or more")


@settings
class Search:
    """How an arm's learning rate is found: short runs, measured on rows that they do not train on; the best is kept."""

    rates: tuple[float, ...] = ()
    rows: int = 0
    data: tuple[PairSource, ...] = ()  # what they train on (default: what the arm does)
    eval_data: tuple[PairSource, ...] = ()  # what they are measured on (default: held-out rows of what they train on)
    held_out: int = 64  # rows of each task that are measured
    seed: int = 0
    like: str | None = None  # the rate found for another arm, instead of a search

    def __post_init__(self) -> None:
        """Refuse half a search."""
        if (self.like is None) == (not self.rates or not self.rows):
            raise UsageError("learning_rate is a number, or {rates: [2e-4, 6e-4], rows: 1280}, or {like: ARM}")
        if self.like is not None and (self.rates or self.rows or self.data or self.eval_data):
            raise UsageError("learning_rate: {like: ARM} takes the rate of another arm; leave rates, rows and data out")
        if len(set(self.rates)) != len(self.rates) or any(not rate > 0 for rate in self.rates):
            raise UsageError("rates are different numbers above 0")


@dataclass(frozen=True)
class Before:
    """A stage before the contrastive one; with several seeds, every arm that starts from it is trained for each."""

    recipe: StageRecipe
    seeds: tuple[int, ...]


@dataclass(frozen=True, order=True)
class Choice:
    """What is found for an arm by trial: its learning rate, and the stage that it starts from."""

    learning_rate: float
    source: str

    def label(self, *, alone: bool) -> str:
        """Name it; a source that is the only one goes without saying."""
        return f"{self.learning_rate:g}" if alone else f"{self.source} {self.learning_rate:g}"


@dataclass(frozen=True)
class Arm:
    """A contrastive stage: from what, how, how its rate is found, and how it is scored. Or a merge of arms."""

    recipe: StageRecipe
    search: Search | None
    sources: tuple[str, ...] = ()  # stages of which the best is found together with the rate; the recipe names the first
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.recipe.name

    @property
    def merges(self) -> bool:
        """Whether it merges other arms, and trains nothing."""
        return self.recipe.kind.name == MERGE

    @property
    def takes(self) -> set[str]:
        """The stages and arms whose models or rows it takes, to be made or to be scored; `base` may be among them."""
        return {self.recipe.source, *named_stages(self.recipe.config), *named_stages(self.evaluate)}

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What is tried: every rate, from every source."""
        rates = self.search.rates if self.search is not None else ()
        return tuple(Choice(rate, source) for source in self.sources or (self.recipe.source,) for rate in rates)

    def chosen(self, choice: Choice | None) -> Arm:
        """Return the arm with its source and rate."""
        if choice is None:
            return self
        config = dataclasses.replace(self.recipe.config, learning_rate=choice.learning_rate)
        return dataclasses.replace(self, recipe=dataclasses.replace(self.recipe, config=config, source=choice.source))


@dataclass(frozen=True)
class Study:
    """The content of a study file."""

    name: str
    file: Path
    words: tuple[str, ...]
    base: str
    seeds: tuple[int, ...]
    before: tuple[Before, ...]
    arms: tuple[Arm, ...]
    evaluate: EvaluateConfig
    gate: Gate
    claims: tuple[ClaimConfig, ...]
    smallest: float = 0.01  # the smallest difference of scores that counts

    @property
    def smoke(self) -> str:
        """The arm that is done first and must clear chance."""
        return self.gate.arm or self.arms[0].name

    def arm(self, name: str) -> Arm:
        """Return an arm."""
        return next(one for one in self.arms if one.name == name)

    def merged(self, arm: Arm) -> tuple[Arm, ...]:
        """Return the arms that an arm merges, in their order."""
        return tuple(self.arm(name) for name in _parts_of(arm) if name in {one.name for one in self.arms})

    def trained(self, name: str) -> Arm:
        """Return an arm that trains: this one, or the first that it merges."""
        arm = self.arm(name)
        return self.trained(arm.recipe.source) if arm.merges else arm

    def with_parts(self, name: str) -> tuple[Arm, ...]:
        """Return an arm, and the arms whose models it is made of."""
        arm = self.arm(name)
        return (arm, *(part for one in self.merged(arm) for part in self.with_parts(one.name)))

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
        stages = [one.recipe.name for one in self.before]
        for arm in self.arms:
            if arm.sources and (arm.search is None or arm.search.like is not None):
                raise UsageError(f"{self.file}: {arm.name}: the best of several stages is found by trial; add learning_rate: {{rates: …}}")
            for source in arm.sources:
                if source not in (START, *stages):
                    known = f"{did_you_mean(source, stages)} (there are: {', '.join((START, *stages))})"
                    raise UsageError(f"{self.file}: {arm.name}: there is no stage {source!r}{known}")
        for arm in self.arms:
            self._require_parts(arm, names)
        searched = [one.name for one in self.arms if not one.merges and (one.search is None or one.search.like is None)]
        for arm in self.arms:
            if arm.search is not None and arm.search.like is not None:
                _require(arm.search.like, searched, f"{self.file}: {arm.name}: learning_rate is like that of an arm with a rate of its own")

    def _require_parts(self, arm: Arm, names: Collection[str]) -> None:
        """Refuse an arm that trains on from another one, a merge that has something to train, and one that is asked other items."""
        where = f"{self.file}: {arm.name}"
        if not arm.merges and (other := sorted(arm.takes & set(names))):
            raise UsageError(f"{where}: an arm starts from a stage, and {other[0]} is an arm; a merge alone takes arms (stage: merge)")
        if arm.merges and (arm.recipe.source not in names or arm.search is not None or arm.sources):
            raise UsageError(f"{where}: a merge trains nothing; name one arm as from and the others as models, and leave learning_rate out")
        for key in _ASKED:
            if getattr(arm.evaluate, key) != getattr(self.evaluate, key):
                raise UsageError(f"{where}: all arms are asked the same items; {key} stands under the study's evaluate alone")


def _parts_of(arm: Arm) -> tuple[str, ...]:
    """Return the names of what a merge merges; none for an arm that trains."""
    if not arm.merges:
        return ()
    return (arm.recipe.source, *(one.removeprefix(PREFIX) for one in arm.recipe.config.models))


def _require(name: Any, names: list[str], where: str) -> None:
    if name not in names:
        raise UsageError(f"{where}: there is no arm {name!r}{did_you_mean(str(name), names)} (there are: {', '.join(names)})")


# From a study's YAML to a `Study`: arms and stages become stages of one recipe, so that every rule of recipes holds
# here too.

KEYS = ("base", "seeds", "stages", "finetune", "evaluate", "arms", "gate", "smallest", "claims")
_ROWS, _SEEDS, _RATE, _FROM, _STAGE, _EVALUATE = "rows", "seeds", "learning_rate", "from", "stage", "evaluate"
_ASKED = ("suite", "data", "tasks", "subset")  # what an evaluation asks; the rest is how


def read_study(path: str | Path, words: Sequence[str] = (), *, kinds: Mapping[str, StageKind] | None = None) -> Study:
    """Read a study file, with `key=value` words over it (`seeds=[1]`, `finetune.rows=64`, `arms.causal.learning_rate=1e-4`)."""
    kinds = known_kinds(kinds)
    path, root = Path(path), read_tree(path)
    put_words(root, words)
    parts = _parts(root)
    stages, arms = _named(parts, "stages"), _named(parts, "arms")
    if not arms:
        raise UsageError(f"{path}: a study has arms, names with what each does (arms: {{causal: {{attention: causal}}}})")
    both = [name for name in arms if name in stages]
    if both:
        raise UsageError(f"{arms[both[0]].where}: {both[0]} is the name of a stage and of an arm")
    shared = parts.get("finetune", Given(str(path), children={}))
    listed = {name: _stage(one) for name, one in stages.items()}
    whole = {name: one if _verb(one, name) == MERGE else _over(shared, one) for name, one in arms.items()}
    listed |= {name: _stage(one, _verb(one, name)) for name, one in whole.items()}
    for name, one in whole.items():
        if _SEEDS in (one.children or {}):
            raise UsageError(
                f"{one.where}: {name} has seeds; all arms have those of the study, which stand beside arms, or they are no pairs"
            )
    beside = {name: _beside(one, name) for name, one in (stages | whole).items()}
    base = parts.get("base", Given(str(path)))
    tree = Given(str(path), children={"base": base, "stages": Given(str(path), children=listed)})
    recipe = recipe_of(tree, path.stem, path.parent, kinds=kinds)
    found = {one.name: _with_rows(one, beside[one.name]) for one in recipe.stages}
    asked = parts.get(_EVALUATE, Given(str(path), children={}))
    scored = {name: _evaluation(asked, one, name) for name, one in whole.items()}
    for name, config in scored.items():
        require_made(config, {stage: found[stage].kind for stage in stages}, f"{whole[name].where}: {name}")
    study = Study(
        name=path.stem,
        file=path,
        words=tuple(words),
        base=recipe.base,
        seeds=build(tuple[int, ...], parts["seeds"], _SEEDS) if _SEEDS in parts else (1, 2, 3),
        before=tuple(Before(found[name], beside[name].seeds or (getattr(found[name].config, "seed", 0),)) for name in stages),
        arms=tuple(Arm(found[name], beside[name].search, beside[name].sources, scored[name]) for name in arms),
        evaluate=build(EvaluateConfig, asked, _EVALUATE),
        gate=build(Gate, parts["gate"], "gate") if "gate" in parts else Gate(),
        claims=tuple(build(tuple[ClaimConfig, ...], parts["claims"], "claims")) if "claims" in parts else (),
        smallest=build(float, parts["smallest"], "smallest") if "smallest" in parts else 0.01,
    )
    study.require_whole()
    return study


@dataclasses.dataclass(frozen=True)
class _Beside:
    """Keys of a stage that are the study's: how many rows, which seeds, how the rate is found, from which stages."""

    where: str
    rows: int | None
    seeds: tuple[int, ...]
    search: Search | None
    sources: tuple[str, ...]


def _parts(root: Given) -> dict[str, Given]:
    parts = root.children or {}
    for key, one in parts.items():
        if key not in KEYS:
            raise UsageError(f"{one.where}: a study has no key {key}{did_you_mean(key, KEYS)} (it has: {', '.join(KEYS)})")
    return parts


def _named(parts: Mapping[str, Given], key: str) -> dict[str, Given]:
    """Return a group of names; an empty entry takes the shared settings."""
    group = parts.get(key)
    if group is None or group.is_null:
        return {}
    if group.children is None:
        raise UsageError(f"{group.where}: {key} takes names with what each does, not {group.shown}")
    found = {}
    for name, one in group.children.items():
        if one.children is None and not one.is_null:
            raise UsageError(f"{one.where}: {key}.{name} takes a group of keys, not {one.shown}")
        found[name] = dataclasses.replace(one, children=one.children or {})
    return found


def _over(shared: Given, arm: Given) -> Given:
    """Lay an arm over what all arms share; one that takes another arm's rate is not searched for."""
    rate = (arm.children or {}).get(_RATE)
    if rate is not None and "like" in (rate.children or {}):
        shared = dataclasses.replace(shared, children={key: one for key, one in (shared.children or {}).items() if key != _RATE})
    return layer(shared, arm)


def _verb(arm: Given, name: str) -> str:
    """Return what an arm does: a contrastive stage, or a merge of others."""
    said = (arm.children or {}).get(_STAGE)
    verb = FINETUNE if said is None else build(str, said, f"{name}.{_STAGE}")
    if verb not in (FINETUNE, MERGE):
        assert said is not None
        raise UsageError(f"{said.where}: an arm is a contrastive stage (finetune) or a merge of arms; other stages stand under stages:")
    return verb


def _evaluation(shared: Given, arm: Given, name: str) -> EvaluateConfig:
    """Return how an arm is scored: as the study says, with what the arm says over it."""
    own = (arm.children or {}).get(_EVALUATE)
    return build(EvaluateConfig, shared if own is None else layer(shared, own), f"{name}.{_EVALUATE}")


def _stage(given: Given, verb: str | None = None) -> Given:
    """Return a stage as a recipe has it, an arm without how it is scored; what does not say what it starts from starts from the base."""
    beside = (_ROWS, _SEEDS, *([_EVALUATE] if verb else []))
    children = {key: one for key, one in (given.children or {}).items() if key not in beside and not _is_search(key, one)}
    if verb and (listed := children.get(_FROM)) is not None and listed.items:
        children[_FROM] = listed.items[0]  # the others stand beside
    said = {_FROM: START} | ({_STAGE: verb} if verb else {})
    for key, text in said.items():
        children.setdefault(key, Given(given.where, text, written=text))
    return dataclasses.replace(given, children=children)


def _is_search(key: str, given: Given) -> bool:
    return key == _RATE and given.children is not None


def _beside(given: Given, name: str) -> _Beside:
    children = given.children or {}
    rows, seeds, rate, source = (children.get(key) for key in (_ROWS, _SEEDS, _RATE, _FROM))
    return _Beside(
        given.where,
        None if rows is None else build(int, rows, f"{name}.{_ROWS}"),
        () if seeds is None else build(tuple[int, ...], seeds, f"{name}.{_SEEDS}"),
        build(Search, rate, f"{name}.{_RATE}") if rate is not None and _is_search(_RATE, rate) else None,
        build(tuple[str, ...], source, f"{name}.{_FROM}") if source is not None and source.items is not None else (),
    )


def _with_rows(stage: StageRecipe, beside: _Beside) -> StageRecipe:
    """Turn rows into steps."""
    if beside.rows is None:
        return stage
    return dataclasses.replace(stage, config=with_rows(stage.config, beside.rows, f"{beside.where}: {stage.name}"))


def with_rows(config: Any, rows: int, where: str) -> Any:
    """Return the configuration with as many steps as `rows` make."""
    each = rows_of_step(config)
    if each is None:
        raise UsageError(f"{where}: rows are counted in steps of a fixed number of rows; set per_device_train_batch_size beside rows")
    if rows < each or rows % each:
        raise UsageError(
            f"{where}: rows is a multiple of the {each} rows of a step, not {rows} (the next: {max(1, round(rows / each)) * each})"
        )
    return dataclasses.replace(config, max_steps=rows // each)


def rows_of_step(config: Any) -> int | None:
    """Return the rows of a training step, where they are fixed."""
    if (rows := getattr(config, "global_batch_size", None)) is not None:
        return int(rows)
    each = getattr(config, "per_device_train_batch_size", None)
    return None if each is None else int(each) * (config.batches_per_step or 1)


def rows_read(config: Any) -> int | None:
    """Return the rows that a stage reads, where they are fixed."""
    each, steps = rows_of_step(config), getattr(config, "max_steps", None)
    return None if each is None or steps is None else each * steps


@settings
class StudyRunConfig:
    """How a study is run."""

    jobs: int | None = Field(default=None, ge=1, description="processes at a time, of one thread each (default: one for each core)")
    claims: tuple[int, ...] = Field(default=(), metavar="1,2", description="do, or forecast, only what claims of these numbers need")
    dry_run: bool = Field(default=False, description="say what would be done and what it would cost, and do nothing")
    report: bool = Field(default=False, description="write the report, and with write the page, of what stands in OUT; run nothing")
    write: SettingPath | None = Field(default=None, metavar="FILE", description="write the results as a Markdown page, too")

    def __post_init__(self) -> None:
        """Refuse what a call would not obey."""
        if self.dry_run and (self.report or self.write):
            raise UsageError(f"`dry_run` writes nothing; leave it out, or {'`report`' if self.report else '`write`'}")
