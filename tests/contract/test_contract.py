"""What the command gives is what it gave when `golden.json` was written, on any machine, within what rounding does in twelve steps.

Stored are losses and logs, vectors, hits, scores and answers, and no hash; `python -m tests.contract.run OUT.json` has those, to compare
two commits on one machine. After a change that is meant to change numbers, `python -m tests.contract.run --golden` writes the file anew.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tests.contract.run import GOLDEN, WORK, flat, numbers, run

pytestmark = pytest.mark.xdist_group("contract")
RELATIVE, ABSOLUTE = 1e-3, 1e-4  # of a number
COSINE = 1 - 1e-5  # of a vector
WANTED = json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return numbers(flat(run(tmp_path_factory.mktemp("contract").resolve())))


def alike(one, other):
    """Say whether two values are equal, numbers within the tolerance."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other) > 4:
        left, right = np.array(one, float), np.array(other, float)
        return float(left @ right) >= COSINE * float(np.linalg.norm(left) * np.linalg.norm(right)) > 0
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", WORK)
def test_a_command_gives_what_it_gave(name, found):
    wanted = {path: value for path, value in WANTED.items() if path.startswith(f"{name}/")}
    got = {path: value for path, value in found.items() if path.startswith(f"{name}/")}
    assert wanted
    assert sorted(got) == sorted(wanted)
    differ = {path: (value, got[path]) for path, value in wanted.items() if not alike(value, got[path])}
    assert differ == {}


def test_what_is_beyond_the_tolerance_is_seen():
    vector = [0.3, -0.1, 0.2, 0.4, 0.1]
    assert alike(2.0, 2.001)
    assert not alike(2.0, 2.01)
    assert alike(vector, [value * 1.0005 for value in vector])
    assert not alike(vector, [*vector[:-1], 0.15])
    assert not alike("d3", "d4")
    assert not alike(["a", 1], ["a", 2])
