"""What an evaluation can be told, and what is known of each suite before it is opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twoway.config import Field, SettingPath, settings
from twoway.data.config import OnBad, PairSource
from twoway.embedding.config import OpenManyConfig
from twoway.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DRAWS = 2000  # of a bootstrap
# What a suite needs.
FOLDER = "DIR: a folder that holds one folder a task, with Parquet inside"
PAIRS = "SPEC: pairs of a query and its answers, such as test.jsonl"
MTEB = "mteb:"
IN_STYLE, NEW_STYLE, NEW_SOURCE = "known style", "unseen style", "unseen source"  # of the pictures of a nano task


@dataclass(frozen=True)
class Suite:
    """What is known of a suite: what its data is, its tasks with their group and mark, and how it may be run."""

    says: str
    data: str = ""  # what it needs: FOLDER, PAIRS, or nothing
    tasks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # where they are known beforehand
    baselines: bool = False  # whether models that cannot know are scored beside
    shows: str = ""  # the content kind that all of its tasks show, where models take texts and images alone
    whole: bool = False  # whether a task is scored whole or not at all, so that no row can be left out


NANO: dict[str, tuple[str, str]] = {
    "category": ("classification", IN_STYLE),
    "category-new-style": ("classification", NEW_STYLE),
    "capital": ("vqa", IN_STYLE),
    "continent": ("vqa", IN_STYLE),
    "called": ("vqa", IN_STYLE),
    "keywords": ("vqa", IN_STYLE),
    "picture-name": ("retrieval", IN_STYLE),
    "name-picture": ("retrieval", IN_STYLE),
    "name-picture-languages": ("retrieval", IN_STYLE),
    "picture-name-new-style": ("retrieval", NEW_STYLE),
    "name-picture-new-style": ("retrieval", NEW_STYLE),
    "name-picture-new-source": ("retrieval", NEW_SOURCE),
    "definition-picture": ("retrieval", IN_STYLE),
    "composed": ("retrieval", IN_STYLE),
    "region": ("grounding", IN_STYLE),
    "page": ("documents", IN_STYLE),
    "page-languages": ("documents", IN_STYLE),
    "definition-term": ("texts", IN_STYLE),
    "translation": ("texts", IN_STYLE),
    "beside": ("vqa", IN_STYLE),
    "changed": ("retrieval", IN_STYLE),
    "owner": ("retrieval", IN_STYLE),
    "label": ("retrieval", IN_STYLE),
    "scene-names": ("retrieval", IN_STYLE),
}
NANO_VIDEO: dict[str, tuple[str, str]] = dict.fromkeys(("clip-words", "words-clip", "motion", "order"), ("video", IN_STYLE))
SUITES: dict[str, Suite] = {
    "mmeb": Suite("MMEB's own protocol over a folder in its layout: precision@1 among each query's candidates", data=FOLDER),
    "mmeb-v2": Suite(
        "MMEB-V2's 78 tasks of images, videos and pages, from a folder in its layout: precision@1, nDCG@5 of pages", data=FOLDER
    ),
    "nano": Suite("24 tasks over the shipped samples, of things that contrastive training has not seen: MRR", baselines=True, tasks=NANO),
    "nano-video": Suite(
        "4 tasks over short clips of the same things, in which the order of frames decides: MRR, and precision@1 of a choice",
        baselines=True,
        tasks=NANO_VIDEO,
        shows="video",
    ),
    "pairs": Suite("your own pairs: each query among all answers of the files: MRR", data=PAIRS),
    "vidore-v2": Suite("pages of reports and lectures, asked for in words, through mteb: nDCG@5", whole=True),
}


def find_suite(name: str) -> Suite:
    """Return a suite by its name."""
    if name.startswith(MTEB) and name != MTEB:
        return Suite("a benchmark or task of mteb", whole=True)
    if name not in SUITES:
        raise UsageError(f"unknown suite {name!r}{did_you_mean(name, SUITES)} (there are: {', '.join(SUITES)}, and {MTEB}NAME)")
    return SUITES[name]


@settings
class EvaluateConfig(OpenManyConfig):
    """A suite and how it is run."""

    suite: str = Field(
        default="nano", metavar="NAME", description="what to score on: mmeb, mmeb-v2, nano, nano-video, pairs, vidore-v2 or mteb:NAME"
    )
    data: SettingPath | tuple[PairSource, ...] | None = Field(
        default=None, description="the folder of the suite's tasks, or the pairs that are scored"
    )
    tasks: tuple[str, ...] = Field(default=(), metavar="NAME", description="only these tasks (default: all that are there)")
    subset: int | None = Field(default=None, ge=1, description="only so many queries of each task, for a quick look")
    cache_dir: SettingPath | None = Field(
        default=None, metavar="DIR", description="folder that keeps vectors (default: $TWOWAY_CACHE, else ~/.cache/twoway)"
    )
    on_bad: OnBad = Field(
        default="fail", description="a bad row stops the run, or is left out, counted and listed in bad-rows.jsonl beside the results"
    )
    rerank: str | None = Field(
        default=None, metavar="MODEL", description="a reranker that puts each query's best candidates into its order"
    )
    rerank_top: int = Field(default=100, ge=1, description="so many of them")

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything heavy."""
        super().__post_init__()
        suite = find_suite(self.suite)
        if suite.data == PAIRS and isinstance(self.data, Path):
            object.__setattr__(self, "data", (PairSource(str(self.data)),))  # a source by its spec, as wherever pairs are named
        elif (
            suite.data == FOLDER and isinstance(self.data, tuple) and len(self.data) == 1 and self.data[0] == PairSource(self.data[0].spec)
        ):
            object.__setattr__(self, "data", Path(self.data[0].spec))
        if suite.data and not self.data:
            raise UsageError(f"the suite {self.suite} needs `data` {suite.data}")
        if suite.data == FOLDER and not isinstance(self.data, Path):
            raise UsageError(f"the suite {self.suite} reads one folder, as it is; name it alone (`data` {suite.data})")
        if not suite.data and self.data:
            raise UsageError(f"the suite {self.suite} brings its own data; leave `data` out")
        if suite.whole and self.rerank is not None:
            raise UsageError(f"the suite {self.suite} is scored by mteb, which ranks by vectors; leave `rerank` out")
        if suite.whole and self.on_bad != "fail":
            raise UsageError(f"the suite {self.suite} scores its tasks whole, so no row can be left out; leave `on_bad` out")
        for task in self.tasks if suite.tasks else ():
            if task not in suite.tasks:
                near = did_you_mean(task, suite.tasks)
                raise UsageError(f"the suite {self.suite} has no task {task!r}{near} (it has {', '.join(suite.tasks)})")

    def named(self) -> Sequence[Path | PairSource]:
        """Return what was named for the suite."""
        return () if self.data is None else (self.data,) if isinstance(self.data, Path) else self.data

    def kinds(self) -> tuple[str, ...]:
        """Return the groups and marks of the tasks that are scored; none where they are not known before the suite is opened."""
        known = find_suite(self.suite).tasks
        return tuple(dict.fromkeys(kind for task, kinds in known.items() if not self.tasks or task in self.tasks for kind in kinds))


@settings
class MtebConfig(OpenManyConfig):
    """How a model is opened for mteb."""

    cache_dir: SettingPath | None = Field(
        default=None, metavar="DIR", description="folder that keeps vectors (default: $TWOWAY_CACHE, else ~/.cache/twoway)"
    )


@settings
class CompareConfig:
    """How two results are compared."""

    seed: int = Field(default=0, description="seed of the bootstrap")
    draws: int = Field(default=DRAWS, ge=1, description="draws of the bootstrap")


def vectors_folder(cache_dir: Any) -> Path | None:
    """Return the folder of vectors within a cache; the usual one where none is named."""
    return None if cache_dir is None else Path(cache_dir) / "vectors"
