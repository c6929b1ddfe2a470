"""The program `twoway`, also as `python -m twoway`: Ctrl-C is one line and 130 from its first moment to its last.

Before a verb begins to work nothing is written, so the process ends at once. While it works Ctrl-C is Python's exception, but not in the
middle of an import: there it is lost, or becomes another error, or a library that begins waits for itself for ever. Once the verb is done
it is the system's own end.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def main() -> int:
    """Run one command; what `twoway.cli.main` returns."""
    # Where it is ignored, as in the background of a shell or under nohup, it stays so.
    heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, lambda *_: _end())
    from .cli import main as run

    # What is registered first runs last, when all threads have ended and all that others registered is done.
    code: int | None = None
    atexit.register(lambda: _leave(code))
    code = run(begin=_begin if heard else None)
    if heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


def _begin() -> None:
    for number in (signal.SIGINT, signal.SIGALRM):
        signal.signal(number, _interrupt)


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Raise what Ctrl-C is; within an import end, where a command has only begun to import what it needs, or wait for the import's end."""
    inside, importer = False, None
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            inside, importer = True, frame.f_back
        frame = frame.f_back
    if not inside:
        raise KeyboardInterrupt
    if importer is not None and importer.f_globals.get("__name__", "").startswith("twoway.cli."):
        _end()
    signal.setitimer(signal.ITIMER_REAL, 0.05)


def _end() -> None:
    os.write(2, b"twoway: interrupted; nothing was begun\n")
    os._exit(130)


def _leave(code: int | None) -> None:
    """End with this code, if there is one, and without the interpreter's own end.

    That takes every module of torch apart, which is seconds on a busy machine, and where Ctrl-C came into code out of a string it
    ends by the signal.
    """
    if code is None:
        return
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        pass  # nobody reads it any more
    except OSError as error:
        os.write(2, f"twoway: the output cannot be written ({error.strerror})\n".encode())
        code = code or 1
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
