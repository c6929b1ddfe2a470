"""`twoway samples`: what it lists, in words and in JSON, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from twoway.cli import main
from twoway.data.sources.samples import HELD_STYLES, VIEWS

if TYPE_CHECKING:
    import pytest


def _run(*words: str) -> int:
    return main(["samples", *words])


def test_lists_tables_styles_and_views(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["views"]) == {f"samples:{name}" for name in VIEWS}
    assert sum(sum(halves.values()) for halves in answer["pictures"].values()) == answer["tables"]["pictures"]
    assert _run() == 0
    plain = capsys.readouterr().out
    assert all(name in plain for name in answer["pictures"])


def test_shows_rows_of_a_view(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("test-style", "--show", "3", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["first"]) == 3
    assert sum(answer["tasks"].values()) == answer["rows"]
    assert all(f"/{HELD_STYLES[0]}>" in row for row in answer["first"])


def test_refuses_an_unknown_view_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("tran") == 2
    assert "did you mean train" in capsys.readouterr().err
