"""`twoway plan` answers people with tables and programs with JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from twoway.cli import main

RECIPE = str(Path(__file__).parents[2] / "recipes" / "moca-3b.yaml")
pytestmark = pytest.mark.xdist_group("plans")  # what one has counted the others know


def test_tables_have_every_stage_and_json_the_same_figures(capsys):
    assert main(["plan", RECIPE, "--hardware", "h100x8", "--price", "2"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("pretrain", "finetune", "assumed", "fsdp"))
    assert main(["plan", RECIPE, "--hardware", "h100x8", "--price", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"{found['price']:,.0f}" in shown
    assert found["price"] == sum(one["price"] for one in found["stages"])


def test_an_unknown_machine_is_wrong_use(capsys):
    assert main(["plan", RECIPE, "--hardware", "h20x8"]) == 2
    assert "did you mean" in capsys.readouterr().err
