"""Data that is looked through once: by processes, gone on with, shared, noticed where it changed, and refused where it may not be new."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from twoway.data import dataset as tables
from twoway.data.config import PairSource
from twoway.data.dataset import open_table
from twoway.data.mixture import open_pairs
from twoway.data.rows import Policy
from twoway.data.sources.readers import scan_options
from twoway.errors import TwowayError, UsageError


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of three rows, the first of which are no longer this process's own."""
    monkeypatch.setattr(tables, "_BLOCK", 3)
    monkeypatch.setattr(tables, "_ALONE", 0)


@pytest.fixture
def rows(jsonl, png, tmp_path):
    """Forty rows of pairs of two tasks, two of them bad."""
    for side in range(3, 8):
        (tmp_path / f"{side}.png").write_bytes(png(size=(side, 2 * side)))
    lines = [
        {"query": "q" * number, "positive": {"image": f"{3 + number % 5}.png"}, "task": f"t{number % 2}"} if number % 19 else b"{"
        for number in range(1, 41)
    ]
    return jsonl(*lines, name="pairs.jsonl")


def arrays(table):
    return {name: np.asarray(getattr(table, name)).tolist() for name in tables._ARRAYS}


def test_processes_find_what_one_finds_in_the_same_order(rows, tmp_path, small_blocks):
    def found(processes, folder=None):
        with scan_options(processes=processes):
            pairs = open_pairs([PairSource(str(rows))], policy=Policy("skip", tmp_path / "bad"), folder=folder)
        return pairs.tasks, arrays(pairs.mixture.tables[0]), pairs.digest(), (tmp_path / "bad").read_text()

    alone = found(1)
    assert alone == found(2) == found(2, tmp_path / "kept")
    assert (len(alone[1]["numbers"]), alone[0], len(alone[3].splitlines())) == (38, ("t1", "t0"), 2)


def test_a_large_source_takes_processes_by_itself_and_a_small_one_does_not(rows, monkeypatch):
    started = []
    monkeypatch.setattr(tables, "_BLOCK", 3)
    monkeypatch.setattr(tables, "count_of", lambda asked: 2)
    monkeypatch.setattr(tables, "Team", lambda *given, **named: started.append(given) or pytest.fail("a process was started"))
    monkeypatch.setattr(tables, "_ALONE", 14)
    open_pairs([PairSource(str(rows))], policy=Policy("skip"))
    monkeypatch.setattr(tables, "_ALONE", 13)
    with pytest.raises(pytest.fail.Exception):
        open_pairs([PairSource(str(rows))], policy=Policy("skip"))
    monkeypatch.setattr(tables, "_BLOCK", 99)
    with scan_options(processes=2):  # not for one block either
        open_pairs([PairSource(str(rows))], policy=Policy("skip"))


def test_a_pass_that_was_cut_off_goes_on(jsonl, tmp_path, small_blocks, monkeypatch):
    spec, looked, whole = str(jsonl(*({"text": "a" * number} for number in range(1, 31)))), [], tables._scan_block

    def stops(spec, reader, first, positions):
        looked.append(first)
        if first == 15 and len(looked) < 7:
            raise KeyboardInterrupt
        return whole(spec, reader, first, positions)

    monkeypatch.setattr(tables, "_scan_block", stops)
    with scan_options(processes=1):
        with pytest.raises(KeyboardInterrupt):
            open_table(spec, folder=tmp_path / "kept")
        assert looked == [0, 3, 6, 9, 12, 15]
        table = open_table(spec, folder=tmp_path / "kept")
    assert looked[6:] == [15, 18, 21, 24, 27]
    assert table.characters.tolist() == list(range(1, 31))
    assert not list((tmp_path / "kept").glob("*.part"))


def test_a_bad_row_that_was_mended_in_its_pictures_file_is_looked_at_again(jsonl, png, tmp_path):
    data = jsonl({"image": "late.png", "text": "here soon"}, name="late.jsonl")
    with pytest.raises(TwowayError, match=r"late\.png does not exist"):
        open_table(str(data), folder=tmp_path / "kept")
    (tmp_path / "late.png").write_bytes(png(size=(4, 4)))
    assert len(open_table(str(data), folder=tmp_path / "kept")) == 1


def test_of_two_at_once_the_second_waits_and_takes_what_the_first_found(jsonl, tmp_path, small_blocks, monkeypatch, caplog):
    spec, begun, go, whole, found = str(jsonl(*({"text": "a"},) * 9)), [], threading.Event(), tables._scan_block, []

    def slow(*given):
        begun.append(given)
        go.wait(30)
        return whole(*given)

    monkeypatch.setattr(tables, "_scan_block", slow)

    def call():
        with scan_options(processes=1):
            found.append(open_table(spec, folder=tmp_path / "kept").digest())

    threads = [threading.Thread(target=call) for _ in range(2)]
    with caplog.at_level(logging.WARNING):
        for thread in threads:
            thread.start()
        while "waiting for it" not in caplog.text:
            threads[0].join(0.01)
        go.set()
        for thread in threads:
            thread.join()
    assert len(begun) == 3
    assert found[0] == found[1]


def test_what_is_not_the_same_is_told_in_one_line_and_done_or_refused(jsonl, tmp_path, caplog):
    path = jsonl({"text": "a"}, {"text": "bb"}, {"text": "ccc"})
    open_table(str(path), folder=tmp_path / "kept", cap=2)
    with scan_options(prepared_only=True):
        assert len(open_table(str(path), folder=tmp_path / "kept", cap=2)) == 2
        with pytest.raises(UsageError, match=r"rows.jsonl was prepared before and cannot be used as it is: another cap; prepare it first"):
            open_table(str(path), folder=tmp_path / "kept", cap=3)
        other = jsonl({"text": "a"}, name="other.jsonl")
        with pytest.raises(UsageError, match=r"other.jsonl is not prepared; prepare it first \(twoway data prepare\)"):
            open_table(str(other), folder=tmp_path / "kept")
    with caplog.at_level(logging.WARNING):
        assert len(open_table(str(path), folder=tmp_path / "kept", cap=3)) == 3
    assert "another cap; it is looked through once more" in caplog.text
    jsonl({"text": "a"}, {"text": "bbbb"})
    with caplog.at_level(logging.WARNING):
        assert open_table(str(path), folder=tmp_path / "kept", cap=2).characters.tolist() == [1, 4]
    assert "its files have changed since" in caplog.text
    assert not [record for record in caplog.records if record.message.count("\n")]


def test_a_source_named_from_another_folder_is_the_same_and_its_bad_rows_are_found(jsonl, tmp_path, monkeypatch):
    path = jsonl({"text": "a"}, b"{")
    open_table(str(path), folder=tmp_path / "kept", policy=Policy("skip"))
    monkeypatch.chdir(path.parent)
    with scan_options(prepared_only=True):
        table = open_table("rows.jsonl", folder=tmp_path / "kept", policy=Policy("skip"))
    assert [str(error.place) for error in table.bad] == ["rows.jsonl:2"]


def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_one_line_and_what_was_done_is_kept(jsonl, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK", 3)
    monkeypatch.setattr(tables, "_ALONE", 2)
    monkeypatch.setattr(tables, "count_of", lambda asked: 2)
    monkeypatch.setattr(tables, "_scan_in_worker", dies)
    spec = str(jsonl(*({"text": "a"},) * 30))
    with pytest.raises(TwowayError, match=r"a process that was looking through .*rows.jsonl died"):
        open_table(spec, folder=tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("*.part/*.npz"))) == 2


def test_a_script_without_a_main_guard_may_look_through_data_by_processes(jsonl, tmp_path):
    """A started process does not run the program again that started it."""
    spec = str(jsonl(*({"text": "a" * number} for number in range(1, 10))))
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import json
        from twoway.data import dataset as table
        from twoway.data.sources.readers import scan_options as looking
        table._BLOCK = 2
        with looking(processes=2):
            print(json.dumps(table.open_table({spec!r}).characters.tolist()))
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == list(range(1, 10))


def test_tables_are_told_apart_by_all_code_that_reads_rows(tmp_path, monkeypatch):
    home = Path(tables.__file__).parent
    shutil.copytree(home, tmp_path / "twoway/data")
    for path in home.parent.glob("*.py"):
        shutil.copy(path, tmp_path / "twoway")
    monkeypatch.setattr(tables, "__file__", str(tmp_path / "twoway/data/dataset.py"))
    before = tables.reading_code.__wrapped__()
    with (tmp_path / "twoway/data/sources/formats.py").open("a") as file:
        file.write("# changed")
    assert tables.reading_code.__wrapped__() != before
