"""An interval holds the truth in 95 of 100 studies, whether luck lies in items, in seeds or in the stages before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from twoway.study.evidence import Evidence
from twoway.study.outcomes import Arm, Reading, Run, Task

STUDIES = 120


def drawn(random, *, items, luck, stages=(), stage_luck=0.0):
    """Return a study of three arms of one true level, from a world of items."""
    hard, taste = random.normal(0, 0.2, items), {name: random.normal(0, 0.2, items) for name in "abc"}
    arms = {}
    for name in "abc":
        source = "base" if name == "a" else "moca" if name == "b" else "causal"
        runs = []
        for stage in stages if source != "base" and stages else ("",):
            before = random.normal(0, stage_luck) if source != "base" else 0.0
            for seed in range(3):
                scores = hard + taste[name] + before + random.normal(0, luck) + random.normal(0, 0.1, items)
                runs.append(Run(seed, f"{source} {stage}", {"one": scores[: items // 2], "two": scores[items // 2 :]}))
        arms[name] = Arm(name, {"from": source}, tuple(runs), ())
    tasks = {name: Task(name, "mrr", "retrieval", (), items // 2, 0.0, 0.0) for name in ("one", "two")}
    abouts = {name: [() for _ in range(items // 2)] for name in tasks}
    return Reading(Path(), {}, {"passed": True}, tasks, abouts, arms, {})


@pytest.mark.parametrize(
    "world",
    [
        {"items": 100, "luck": 0.0},
        {"items": 100, "luck": 0.03},
        {"items": 400, "luck": 0.05},
        {"items": 200, "luck": 0.02, "stages": ("1", "2", "3"), "stage_luck": 0.04},
    ],
)
def test_intervals_hold_the_truth(world):
    random = np.random.default_rng(7)
    held = []
    for _ in range(STUDIES):
        found = Evidence(drawn(random, **world), draws=400).interval({"b": 1.0, "c": -1.0}, ("one", "two"))
        held.append(found.low <= 0.0 <= found.high)
    assert 0.9 <= np.mean(held) <= 1.0


def test_items_alone_are_too_sure_where_seeds_vary():
    random = np.random.default_rng(8)
    held = []
    for _ in range(STUDIES):
        low, high = Evidence(drawn(random, items=400, luck=0.05), draws=400).interval({"b": 1.0, "a": -1.0}, ("one", "two")).of_items
        held.append(low <= 0.0 <= high)
    assert np.mean(held) < 0.7


def test_the_luck_of_a_shared_stage_falls_out_and_of_another_does_not():
    random = np.random.default_rng(9)
    reading = drawn(random, items=200, luck=0.001, stages=("1", "2", "3"), stage_luck=0.05)
    shared = Arm("d", {"from": "moca"}, tuple(Run(run.seed, run.before, run.scores) for run in reading.arms["b"].runs), ())
    arms = reading.arms | {"d": shared}
    evidence = Evidence(Reading(reading.out, {}, {}, reading.tasks, reading.abouts, arms, {}), draws=400)
    alike, apart = (evidence.interval({"b": 1.0, other: -1.0}, ("one", "two")) for other in ("d", "c"))
    assert alike.half < 0.01 < 0.05 < apart.half
    seeds, stages = evidence.spreads(("one", "two"))
    assert seeds.variance**0.5 == pytest.approx(0.008, abs=0.008)
    assert 0.02 < stages.variance**0.5 < 0.12


def shared(random, *, arms, stage_luck):
    """Return a study in which many arms start from the same two models, and one from two of another stage; all of one true level."""
    models = {(source, seed): random.normal(0, stage_luck) for source in ("moca", "causal") for seed in "12"}
    hard, found = random.normal(0, 0.2, 200), {}
    for name in [f"b{number}" for number in range(arms)] + ["c"]:
        source, runs = "causal" if name == "c" else "moca", []
        for seed in "12":
            for number in range(3):
                scores = hard + models[source, seed] + random.normal(0, 0.005) + random.normal(0, 0.1, 200)
                runs.append(Run(number, f"{source} {seed}", {"one": scores}))
        found[name] = Arm(name, {"from": source}, tuple(runs), ())
    tasks = {"one": Task("one", "mrr", "retrieval", (), 200, 0.0, 0.0)}
    return Reading(Path(), {}, {"passed": True}, tasks, {"one": [() for _ in range(200)]}, found, {})


def test_many_arms_from_two_models_are_two_models():
    random = np.random.default_rng(10)
    few, many = (Evidence(shared(random, arms=arms, stage_luck=0.04), draws=50).spreads(("one",))[1].freedom for arms in (1, 9))
    assert few == many == 2
    held = []
    for _ in range(STUDIES):
        found = Evidence(shared(random, arms=9, stage_luck=0.04), draws=400).interval({"b0": 1.0, "c": -1.0}, ("one",))
        held.append(found.low <= 0.0 <= found.high)
    assert np.mean(held) >= 0.9
