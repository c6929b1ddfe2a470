"""An interval holds the truth in 95 of 100 studies, whether luck lies in items, in seeds or in the stages before."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.bench_intervals import TASKS, drawn, held

from twoway.study.claims import Evidence
from twoway.study.outcomes import ArmRuns, ScoredRun, StudyOutcomes

STUDIES = 120


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
    assert held(np.random.default_rng(7), STUDIES, **world)[0] >= 0.9


def test_items_alone_are_too_sure_where_seeds_vary():
    whole, items = held(np.random.default_rng(8), STUDIES, items=400, luck=0.05)
    assert items < 0.7 < whole


def test_the_luck_of_a_shared_stage_falls_out_and_of_another_does_not():
    random = np.random.default_rng(9)
    reading = drawn(random, items=200, luck=0.001, stages=("1", "2", "3"), stage_luck=0.05)
    shared = ArmRuns("d", {"from": "moca"}, tuple(ScoredRun(run.seed, run.before, run.scores) for run in reading.arms["b"].runs), ())
    arms = reading.arms | {"d": shared}
    evidence = Evidence(StudyOutcomes(reading.out, {}, {}, reading.tasks, reading.abouts, arms, {}), draws=400)
    alike, apart = (evidence.interval({"b": 1.0, other: -1.0}, ("one", "two")) for other in ("d", "c"))
    assert alike.half < 0.01 < 0.05 < apart.half
    seeds, stages = evidence.spreads(("one", "two"))
    assert seeds.variance**0.5 == pytest.approx(0.008, abs=0.008)
    assert 0.02 < stages.variance**0.5 < 0.12


def test_many_arms_from_two_models_are_two_models():
    random = np.random.default_rng(10)
    world = {"items": 200, "luck": 0.005, "stages": ("1", "2"), "stage_luck": 0.04}
    few, many = (Evidence(drawn(random, **world, more=more), draws=50).spreads(TASKS)[1].freedom for more in (0, 8))
    assert few == many == 2
    assert held(random, STUDIES, **world, more=8)[0] >= 0.9
