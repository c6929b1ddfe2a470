"""A program that indexes is killed, interrupted, or out of disk at any of its steps: what was there stays, and the same command goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import wraps
from pathlib import Path

import numpy as np
import pytest

from full_disk import disk_full
from made_vectors import vectors_of
from twoway.errors import TwowayError, UsageError
from twoway.search.index import index
from twoway.search.query import open_store, store_exists

pytestmark = pytest.mark.xdist_group("engines")
ROWS, SHARD = 12, 4
ROOMS = (0, 300, 700, 1000, 1400, 2000, 2600, 3500, 5000)
RUNS = {
    "new": {"data": "vectors"},
    "overwrite": {"data": "other", "overwrite": True},
    "delete": {"data": None, "delete": ["n1"], "compact": True},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with vectors, others for the same rows, and an index of the first."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"n{number}", "text": f"number {number} fox", "year": 1990 + number} for number in range(ROWS)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {"vectors": vectors_of("rows.jsonl", tmp_path / "vectors", shard_rows=SHARD)}
    found["other"] = vectors_of("rows.jsonl", tmp_path / "other", shard_rows=SHARD, seed=1, fingerprint="0" * 64)
    index("vectors", "full")
    return found


def held(db):
    """Return the vectors of an index by their ids, and how many items are found by a word."""
    store = open_store(db)
    try:
        rows = {name: row for names, block in store.vectors() for name, row in zip(names, block, strict=True)}
        return rows, len(store.search(None, words="fox", top_k=100)) if rows else 0
    except UsageError as error:
        # A new index stands before its words are indexed, which is a step of its own; what to do is said.
        if f"has no index of words; 'twoway index --index {db} --compact' makes one" not in str(error):
            raise
        return rows, None
    finally:
        store.close()


def same(rows, wanted):
    return all(np.allclose(row, wanted[int(name[1:])], atol=1e-5) for name, row in rows.items())


def steps_of(at, act):
    """Do something when the engine, or the taking away of a folder, comes to its step number so: before it is done, or after."""
    import lancedb
    from lancedb.merge import LanceMergeInsertBuilder
    from lancedb.table import LanceTable

    count = 0

    def step():
        nonlocal count
        count += 1
        if count == at:
            act()

    def counted(owner, name):
        whole = getattr(owner, name)

        @wraps(whole)
        def do(*given, **named):
            step()
            done = whole(*given, **named)
            step()
            return done

        setattr(owner, name, do)

    counted(LanceMergeInsertBuilder, "execute")
    counted(lancedb.db.LanceDBConnection, "create_table")
    counted(shutil, "rmtree")
    for name in ("add_columns", "create_index", "delete", "optimize", "restore", "checkout_latest"):
        counted(LanceTable, name)


def killed(run, at):
    steps_of(at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    index(index="db", **RUNS[run])


def begin(run):
    shutil.rmtree("db", ignore_errors=True)
    if run != "new":
        shutil.copytree("full", "db")


def check(run, found):
    """Hold that what lies there is whole, and that the same again brings what a run that nobody stops does."""
    if run == "new":
        rows = held("db")[0] if store_exists("db") else {}
        assert len(rows) % SHARD == 0
        assert same(rows, found["vectors"])
    elif run == "overwrite":
        rows, words = held("db")
        assert len(rows) == ROWS
        assert (same(rows, found["vectors"]) and words == ROWS) or (same(rows, found["other"]) and words in (ROWS, None))
    else:
        rows, words = held("db")
        assert ROWS - 1 <= len(rows) == words
        assert same(rows, found["vectors"])
    index(index="db", **RUNS[run])
    rows, words = held("db")
    assert len(rows) == words == ROWS - (run == "delete")
    assert same(rows, found["other" if run == "overwrite" else "vectors"])
    assert sorted(path.name for path in Path("db").iterdir()) == [".lock", "items.lance"]


@pytest.mark.parametrize(
    ("run", "every"), [("new", 8), ("overwrite", 7), ("delete", 5), *(pytest.param(run, 1, marks=pytest.mark.slow) for run in RUNS)]
)
def test_a_kill_at_any_step_of_the_engine_leaves_whole_shards_and_is_gone_on_with(folder, run, every):
    context = multiprocessing.get_context("forkserver")
    kills, at = 0, 1
    while True:
        begin(run)
        child = context.Process(target=killed, args=(run, at))
        child.start()
        child.join(240)
        assert child.exitcode in (0, -signal.SIGKILL)
        check(run, folder)
        if child.exitcode == 0:
            break
        kills, at = kills + 1, at + every
    assert kills >= 2


@pytest.mark.parametrize("run", ["overwrite", *(pytest.param(run, marks=pytest.mark.slow) for run in ("new", "delete"))])
def test_an_interrupt_at_any_step_is_one_line_and_is_gone_on_with(folder, run, monkeypatch):
    from twoway.cli import main

    options = {"new": ["vectors"], "overwrite": ["other", "--overwrite"], "delete": ["--delete", "n1", "--compact"]}[run]
    begin(run)
    program = (
        "import sys, signal; signal.signal(signal.SIGINT, signal.default_int_handler); sys.path[:0] = sys.argv.pop(1).split(':');"
        "from test_kill import steps_of; from twoway.cli import main;"
        "steps_of(int(sys.argv.pop(1)), lambda: signal.raise_signal(signal.SIGINT)); sys.exit(main(sys.argv[1:]))"
    )
    here = f"{Path(__file__).parent}:{Path(__file__).parent.parent}"
    ended = subprocess.run(
        [sys.executable, "-c", program, here, "5", "index", *options, "--index", "db"], capture_output=True, text=True, timeout=240
    )
    assert (ended.returncode, ended.stderr) == (130, "twoway index: interrupted; nothing half-written is left\n")
    check(run, folder)
    assert main(["index", *options, "--index", "db"]) == 0


@pytest.mark.parametrize(
    ("run", "rooms"), [*((run, (0, 1400)) for run in RUNS), *(pytest.param(run, ROOMS, marks=pytest.mark.slow) for run in RUNS)]
)
def test_a_disk_that_is_full_at_any_size_costs_nothing_that_was_there(folder, run, rooms):
    """Files of the engine are of 200 to 4,000 bytes here: each bound cuts another one off."""
    for room in rooms:
        begin(run)
        said = None
        try:
            with disk_full(room):
                index(index="db", **RUNS[run])
        except TwowayError as error:
            said = str(error)
        assert said is None or ("no space left on the disk while" in said and "damaged" not in said), (room, said)
        check(run, folder)


def test_an_index_that_may_not_be_written_is_searched_and_changes_are_refused_in_one_line(folder):
    """Who has the system's highest rights may write everywhere, so a child lets go of them."""
    begin("delete")
    Path("db/items.lance").chmod(0o555)
    for path in [Path("."), Path("db"), *Path("db").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    context = multiprocessing.get_context("forkserver")
    said = context.Queue()
    child = context.Process(target=_as_nobody, args=(said, str(Path.cwd())))
    child.start()
    answers = said.get(timeout=240)
    child.join(60)
    for path in [Path("."), Path("db"), *Path("db").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert answers[0] == ROWS
    assert all("may not write" in one or "no permission" in one for one in answers[1:]), answers
    assert len({len(one.splitlines()) for one in answers[1:]}) == 1


def _as_nobody(said, folder):
    os.chdir(folder)
    held("full")  # what Python imports late, it may not be allowed to later
    index("vectors", "full")
    if os.getuid() == 0:
        for above in Path(folder).parents:
            if not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    answers = []
    for ask in (
        lambda: len(held("db")[0]),
        lambda: index(None, "db", delete=["n1"]),
        lambda: index("other", "db", overwrite=True),
        lambda: index("vectors", "fresh"),
    ):
        try:
            answers.append(ask())
        except TwowayError as error:
            answers.append(str(error))
    said.put(answers)


def test_a_clock_that_goes_back_changes_nothing(folder, monkeypatch):
    begin("delete")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 400 * 24 * 3600)
    monkeypatch.setattr(time, "time_ns", lambda: int((now() - 400 * 24 * 3600) * 1e9))
    for path in Path("db").rglob("*"):
        os.utime(path, (now() + 10_000_000, now() + 10_000_000))  # what lies there is of times to come
    check("delete", folder)
    assert len(open_store("db").search(None, top_k=100, filter="year >= 1990")) == ROWS - 1
