"""The table of families says what a family does, whatever it is, and the page is what the command makes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scripts import families

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
WORTH_MOST = ("gemma4", "glm4v", "lfm2_vl", "llava_next", "mistral3", "ovis2", "qwen3_5", "qwen3_vl_moe")


def test_a_family_that_nobody_named_is_tried() -> None:
    known = families.families()
    found = {name: families.try_family(name, known[name]) for name in ("llava", "qwen3_5", "t5gemma2")}
    assert (found["llava"].outcome, found["llava"].why) == (families.TWO_WAY, "")
    assert found["qwen3_5"].outcome == families.MIXED
    assert "layer 3 of 4 is two-way, layers 0-2 of 4 are causal" in found["qwen3_5"].why
    assert found["t5gemma2"].outcome == families.REFUSED
    assert "encoder-decoder" in found["t5gemma2"].why
    rows = PAGE.read_text(encoding="utf-8").splitlines()
    assert [one.row() for one in found.values() if one.row() not in rows] == [], "make families writes the page"


def test_the_page_has_every_family_and_decides_those_worth_most() -> None:
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    outcomes = {row[1].strip(" `"): row[2].strip() for row in rows}
    assert set(outcomes) == set(families.families())
    assert {name: outcomes[name] for name in WORTH_MOST if outcomes[name] not in (families.TWO_WAY, families.MIXED)} == {}


def test_a_family_that_hangs_or_dies_costs_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def child(name: str, _kind: Any, answer: Connection) -> None:
        if name == "llava":
            time.sleep(60)
        if name == "aria":
            os._exit(9)
        answer.send(families.Tried(name, families.TWO_WAY))

    monkeypatch.setattr(families, "_child", child)
    monkeypatch.setattr(families, "SECONDS", 1)
    found = families.tried(["aria", "llava", "llava_next"])
    assert [one.outcome for one in found] == [families.NOT_TRIED, families.NOT_TRIED, families.TWO_WAY]
    assert "ended without an answer" in found[0].why
    assert "not done in 1 seconds" in found[1].why


@pytest.mark.slow
def test_the_page_is_what_the_command_makes() -> None:
    assert families.page(families.tried()) == PAGE.read_text(encoding="utf-8")
