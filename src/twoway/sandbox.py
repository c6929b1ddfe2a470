"""Calls in a child process with bounds, for libraries in C that meet files of any origin: a file that never ends costs the child alone.

The bound of time is in processor seconds, so that a busy machine refuses nothing, and the system keeps it (`RLIMIT_CPU`), so that a child
whose parent was killed ends as well. A call that waits without work is ended by the clock, after ten times as long. `RLIMIT_AS` bounds the
memory. A process has one child: it begins at the first call and serves later ones; another takes its place after an end, or where it
holds so much memory that a call might have too little under its own bound. Threads take turns. Arguments and answers are JSON, with bytes
beside an answer: nothing is unpickled on either side.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any

from .errors import TwowayError

if TYPE_CHECKING:
    from collections.abc import Mapping

_BEGIN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from twoway.sandbox import serve; serve(int(sys.argv[2]))"
_PIECE = 128 << 10  # bytes; a line takes no more at a time, and asks for room for all that it waits for
_WAITING, _STARTING = 10, 60  # times the bound of processor seconds, and seconds besides


class SandboxError(TwowayError):
    """The call failed; the message says why."""


class BoundError(SandboxError):
    """The call went beyond a bound, or the child ended in it; the message goes on from a name of what was asked for."""


class Sandbox:
    """One child process and its bounds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection[bytes, bytes] | None = None
        self._held = 0  # bytes of address space that the child had after its last answer

    def call(self, function: str, given: Mapping[str, Any], *, seconds: int, memory: int) -> tuple[Any, bytes]:
        """Call `module:function`, which returns a value and bytes, and return what it does; the bounds are processor seconds and bytes."""
        with self._lock:
            line = self._begin(memory)
            try:
                line.send_bytes(json.dumps([function, dict(given), seconds, memory]).encode())
                if not line.poll(_WAITING * seconds + _STARTING):
                    raise BoundError(f"gives no answer in {_WAITING * seconds + _STARTING} seconds")
                answer = json.loads(line.recv_bytes())
                data = b"".join(line.recv_bytes() for _ in range(answer.get("pieces", 0)))
            except (EOFError, OSError):
                raise BoundError(_why(self.close(), seconds, memory)) from None
            except BaseException:  # Ctrl-C too: an answer that nobody waits for must not meet the next question
                self.close()
                raise
            self._held = answer["held"]
        if "error" in answer:
            raise BoundError(_memory(memory)) if answer["error"] is None else SandboxError(answer["error"])
        return answer["value"], data

    def close(self) -> int:
        """End the child, and return how it ended: below zero, by which signal."""
        process, line, self._process, self._line = self._process, self._line, None, None
        if line is not None:
            line.close()
        if process is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(1)  # it may have ended by itself, and then that is the reason
        process.kill()
        return process.wait()

    def forget(self) -> None:
        """Let go of the child without ending it: after a fork it is the parent's."""
        if self._process is not None:
            self._process.returncode = 0  # no child of this process, so nothing to wait for
        if self._line is not None:
            self._line.close()
        self._lock, self._process, self._line = threading.Lock(), None, None

    def _begin(self, memory: int) -> Connection[bytes, bytes]:
        """Return the line to the child, which is begun where there is none, or where the one there holds most of this bound already."""
        if self._line is not None and self._process is not None and self._process.poll() is None and self._held <= memory * 3 // 4:
            return self._line
        self.close()
        self._held = 0
        self._line, other = Pipe()
        with other:
            # In a session of its own: a Ctrl-C is for the parent, which decides.
            self._process = subprocess.Popen(  # noqa: S603 - no word of it is a user's
                [sys.executable, "-c", _BEGIN, json.dumps(sys.path), str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self._line


SANDBOX = Sandbox()
atexit.register(SANDBOX.close)
os.register_at_fork(after_in_child=SANDBOX.forget)


def serve(line: int) -> None:
    """Be the child: answer calls until the parent is gone."""
    connection: Connection[bytes, bytes] = Connection(line)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            function, given, seconds, memory = json.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            module, _, name = function.partition(":")
            called = getattr(import_module(module), name)
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)  # what a library says as it dies is no line for a user
            _bound(resource.RLIMIT_CPU, math.ceil(time.process_time()) + seconds)
            _bound(resource.RLIMIT_AS, memory)
            value, data = called(**given)
            answer = {"value": value, "pieces": -(-len(data) // _PIECE)}
        except Exception as error:
            reason = None if _no_memory(error) else getattr(error, "reason", None) or str(error) or type(error).__name__
            answer, data = {"error": reason}, b""
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))  # what the next call imports is no part of its own bound
        answer["held"] = _held()
        connection.send_bytes(json.dumps(answer).encode())
        for at in range(0, len(data), _PIECE):
            connection.send_bytes(data[at : at + _PIECE])


def _no_memory(error: Exception) -> bool:
    """Tell whether memory ran out, which an import or a file may be the first to meet."""
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM or "failed to map segment" in str(error)


def _held() -> int:
    """Return the bytes of address space that this process has, where the system says it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _bound(kind: int, most: int) -> None:
    """Set a bound, which the system's own may be below."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _memory(memory: int) -> str:
    return f"needs more than {memory >> 20:,} MB of memory, the bound"


def _why(code: int, seconds: int, memory: int) -> str:
    """Say why a child ended."""
    if code == -signal.SIGXCPU:
        return f"takes more than {seconds} seconds of a processor, the bound"
    if code < 0:
        return f"is broken, or {_memory(memory)}: its reader ended with {signal.Signals(-code).name}"
    return f"cannot be read: its reader ended with code {code}"
