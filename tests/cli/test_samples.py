"""`twoway samples`: what it lists, in words and in JSON, and what it refuses."""

from __future__ import annotations

import argparse
import json

import pytest

from twoway.cli import data as verb
from twoway.data.samples import HELD_STYLE, VIEWS
from twoway.errors import UsageError


def _run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    verb.configure_samples(parser)
    return verb.run_samples(parser.parse_args(list(words)))


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
    assert all(f"/{HELD_STYLE}>" in row for row in answer["first"])


def test_refuses_an_unknown_view_in_one_line() -> None:
    with pytest.raises(UsageError, match="did you mean train"):
        _run("tran")
