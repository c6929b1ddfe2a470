"""The first arm is held against chance, where it is known what chance gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twoway.study.config import Gate
from twoway.study.grid import GateVerdict, of_arm

STUDY: Any = SimpleNamespace(smoke="causal", gate=Gate(times=4.0))
BASE = {"gap": 1.0, "least": 0.5, "passed": True}


def asked(*tasks: tuple[float, float | None]) -> GateVerdict:
    found = {"tasks": {str(number): {"score": score, "chance": chance} for number, (score, chance) in enumerate(tasks)}}
    return GateVerdict(BASE, of_arm(STUDY, found, (1,)))


def test_the_mean_over_tasks_must_be_so_many_times_that_of_chance():
    assert asked((0.5, 0.1), (0.3, 0.1)).passed is True
    assert asked((0.5, 0.1), (0.1, 0.1)).passed is False
    assert "a mean of 0.300 where chance gives 0.100" in asked((0.5, 0.1), (0.1, 0.1)).why


def test_tasks_of_which_chance_is_not_known_have_no_say():
    assert asked((0.5, 0.1), (0.01, None)).passed is True
    assert asked((0.2, 0.1), (0.99, None)).passed is False
    none = asked((0.9, None))
    assert none.passed is False
    assert "known of none of the tasks" in none.why
