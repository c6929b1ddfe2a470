"""Do the intervals of studies hold the truth? Studies are drawn from worlds in which it is known, and counted where the interval holds it.

Three arms of one true level: `a` from the base, `b` and `c` each from a stage of its own, three seeds each. Asked is the difference of
`b` and `c`, which is zero. What varies between the rows of the table is where luck lies: in items, in seeds, in the stages before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from twoway.study.claims import Evidence
from twoway.study.outcomes import ArmRuns, ScoredRun, ScoredTask, StudyOutcomes

STUDIES, DRAWS, TASKS = 400, 400, ("one", "two")
WORLDS: dict[str, dict[str, Any]] = {
    "items": {"items": 100, "luck": 0.0},
    "items and seeds alike": {"items": 100, "luck": 0.03},
    "seeds, mostly": {"items": 400, "luck": 0.05},
    "and the stages before, done with three seeds": {"items": 200, "luck": 0.02, "stages": ("1", "2", "3"), "stage_luck": 0.04},
    "and the stages before, done with two seeds": {"items": 200, "luck": 0.02, "stages": ("1", "2"), "stage_luck": 0.04},
    "the same, with eight more arms from the models of one": {
        "items": 200,
        "luck": 0.02,
        "stages": ("1", "2"),
        "stage_luck": 0.04,
        "more": 8,
    },
    "and the stages before, **done once**": {"items": 200, "luck": 0.02, "stage_luck": 0.04},
}


def drawn(
    random: np.random.Generator, *, items: int, luck: float, stages: tuple[str, ...] = (), stage_luck: float = 0.0, more: int = 0
) -> StudyOutcomes:
    """Return a study of three arms of one true level, from a world of items; `more` arms start from the models of `b`."""
    others = [f"b{number}" for number in range(more)]
    hard, taste = random.normal(0, 0.2, items), {name: random.normal(0, 0.2, items) for name in ("a", "b", "c", *others)}
    models: dict[tuple[str, str], float] = {}
    arms = {}
    for name in taste:
        source = "base" if name == "a" else "causal" if name == "c" else "moca"
        runs = []
        for stage in stages if source != "base" and stages else ("",):
            before = models.setdefault((source, stage), 0.0 if source == "base" else random.normal(0, stage_luck))
            for seed in range(3):
                scores = hard + taste[name] + before + random.normal(0, luck) + random.normal(0, 0.1, items)
                parts = dict(zip(TASKS, (scores[: items // 2], scores[items // 2 :]), strict=True))
                runs.append(ScoredRun(seed, f"{source} {stage}", parts))
        arms[name] = ArmRuns(name, {"from": source}, tuple(runs), ())
    tasks = {name: ScoredTask(name, "mrr", "retrieval", (), items // 2, 0.0, 0.0) for name in TASKS}
    abouts: dict[str, list[tuple[str, ...]]] = {name: [() for _ in range(items // 2)] for name in tasks}
    return StudyOutcomes(Path(), {}, {"passed": True}, tasks, abouts, arms, {})


def held(random: np.random.Generator, studies: int, **world: Any) -> tuple[float, float]:
    """Return how often the interval holds the truth, and how often that of items alone does."""
    found = [Evidence(drawn(random, **world), draws=DRAWS).interval({"b": 1.0, "c": -1.0}, TASKS) for _ in range(studies)]
    whole = np.mean([one.low <= 0.0 <= one.high for one in found])
    return float(whole), float(np.mean([one.of_items[0] <= 0.0 <= one.of_items[1] for one in found]))


def main() -> None:
    """Print the table of docs/study.md."""
    print(f"\nIntervals of studies, {STUDIES} drawn of each kind")
    print("| what varies | holds the truth | over items alone |")
    print("|---|---|---|")
    for name, world in WORLDS.items():
        whole, items = held(np.random.default_rng(7), STUDIES, **world)
        print(f"| {name} | {whole:.0%} | {items:.0%} |", flush=True)


if __name__ == "__main__":
    main()
