"""Within a block a source is looked through once, as long as it is the same rows read in the same way."""

from __future__ import annotations

import os

import pytest

from twoway.content import ContentError
from twoway.data import dataset
from twoway.data.dataset import open_table, shared_tables
from twoway.data.rows import Policy


@pytest.fixture
def passes(monkeypatch):
    found, build = [], dataset._scan_blocks
    monkeypatch.setattr(dataset, "_scan_blocks", lambda *given: found.append(given[0]) or build(*given))
    return found


def test_a_source_is_looked_through_once_in_a_block_and_anew_outside(tmp_path, passes):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    with shared_tables():
        first = open_table(str(path))
        with shared_tables():
            assert open_table(str(path), folder=tmp_path / "kept") is first
        assert open_table("samples:texts") is open_table("samples:texts")
        assert len(open_table(str(path), cap=1)) == 1
        path.write_text('{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n')
        os.utime(path, (1, 1))
        assert len(open_table(str(path))) == 3
    assert len(open_table(str(path))) == 3
    assert [os.path.basename(one) for one in passes] == ["rows.jsonl", "samples:texts", *["rows.jsonl"] * 3]


def test_bad_rows_of_a_shared_table_go_to_the_policy_of_whoever_opens_it(tmp_path, passes):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"image": "gone.png"}\n')
    with shared_tables():
        open_table(str(path), policy=Policy("skip"))
        listed = tmp_path / "bad.jsonl"
        open_table(str(path), policy=Policy("skip", listed))
        assert "gone.png" in listed.read_text()
        with pytest.raises(ContentError, match=r"gone\.png"):
            open_table(str(path))
    assert len(passes) == 1
