"""The child process that reads what may never end: bounds, one child for many calls, another after an end, forks, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from twoway import sandbox as module
from twoway.embedding import prefetch
from twoway.sandbox import SANDBOX, BoundError, Sandbox, SandboxError

CALLS = """
import os, time
def pid(): return os.getpid(), b""
def echo(said, size): return said, b"x" * size
def spin():
    while True: pass
def fill(): return len(bytearray(1 << 40)), b""
def die(): os.abort()
def wait(): time.sleep(1000)
kept = []
def keep(): kept.append(bytearray(400 << 20)); return None, b""
def fail(): raise ValueError("no such page")
"""
BOUNDS = {"seconds": 1, "memory": 512 << 20}


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    (tmp_path / "child_calls.py").write_text(CALLS)
    monkeypatch.syspath_prepend(tmp_path)
    made = Sandbox()
    yield made
    made.close()


def test_one_child_answers_values_and_bytes_and_the_failures_of_functions(sandbox):
    first, _ = sandbox.call("child_calls:pid", {}, **BOUNDS)
    assert first != os.getpid()
    assert sandbox.call("child_calls:echo", {"said": ["ä", 1, None], "size": 3_000_000}, **BOUNDS) == (["ä", 1, None], b"x" * 3_000_000)
    with pytest.raises(SandboxError, match=r"^no such page$"):
        sandbox.call("child_calls:fail", {}, **BOUNDS)
    assert sandbox.call("child_calls:pid", {}, **BOUNDS) == (first, b"")


def test_a_child_that_keeps_much_memory_is_followed_by_another(sandbox):
    first, _ = sandbox.call("child_calls:pid", {}, **BOUNDS)
    sandbox.call("child_calls:keep", {}, **BOUNDS)
    assert sandbox.call("child_calls:pid", {}, **BOUNDS)[0] != first


@pytest.mark.parametrize(
    ("call", "words", "ends"),
    [
        ("spin", "^takes more than 1 seconds of a processor, the bound$", True),
        ("fill", "^needs more than 512 MB of memory, the bound$", False),
        ("die", "^is broken, or needs more than 512 MB of memory, the bound: its reader ended with SIGABRT$", True),
        ("wait", "^gives no answer in 2 seconds$", True),
    ],
)
def test_what_goes_beyond_a_bound_costs_the_child_alone(sandbox, monkeypatch, call, words, ends):
    first, _ = sandbox.call("child_calls:pid", {}, **BOUNDS)
    with monkeypatch.context() as patched, pytest.raises(BoundError, match=words):
        if call == "wait":
            patched.setattr(module, "_WAITING", 2)
            patched.setattr(module, "_STARTING", 0)
        sandbox.call(f"child_calls:{call}", {}, **BOUNDS)
    second, _ = sandbox.call("child_calls:pid", {}, **BOUNDS)
    assert (second != first) == ends


def test_a_forked_process_has_a_child_of_its_own(sandbox, monkeypatch):
    monkeypatch.setattr(SANDBOX, "_process", None)
    monkeypatch.setattr(SANDBOX, "_line", None)
    first, _ = SANDBOX.call("child_calls:pid", {}, **BOUNDS)
    read, write = os.pipe()
    fork = os.fork()
    if not fork:
        with os.fdopen(write, "w") as said:
            said.write(str(SANDBOX.call("child_calls:pid", {}, **BOUNDS)[0]))
        SANDBOX.close()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        other = int(said.read())
    os.waitpid(fork, 0)
    assert other != first
    assert SANDBOX.call("child_calls:pid", {}, **BOUNDS) == (first, b"")
    SANDBOX.close()


ENDLESS = """
import sys
import threading
from twoway.sandbox import SANDBOX
SANDBOX.call("child_calls:pid", {}, seconds=1, memory=1 << 30)
print(SANDBOX._process.pid, flush=True)
SANDBOX.call("child_calls:spin", {}, seconds=int(sys.argv[1]), memory=1 << 30)
"""


@pytest.mark.parametrize(("ended_by", "seconds"), [(signal.SIGINT, 100_000), (signal.SIGKILL, 1)])
def test_neither_ctrl_c_nor_a_kill_leaves_a_child_behind(sandbox, tmp_path, ended_by, seconds):
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(seconds)],
        env=os.environ | path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        child = int(parent.stdout.readline())
        parent.send_signal(ended_by)
        parent.wait(timeout=300)
    ended = subprocess.run(["tail", f"--pid={child}", "-f", os.devnull], timeout=300, check=False)
    assert ended.returncode == 0


def test_who_leaves_early_waits_for_no_row_that_takes_its_time(monkeypatch):
    """Ctrl-C while a page is rendered ahead: the thread that waits for it ends later, by itself."""
    monkeypatch.setattr(prefetch, "_PATIENCE", 0.01)
    end = threading.Event()

    def rows():
        yield 1
        end.wait()

    given = prefetch.read_ahead(rows(), 2)
    assert next(given) == 1
    given.close()
    assert not end.is_set()
    end.set()
