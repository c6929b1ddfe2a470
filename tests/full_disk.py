"""A disk that is full, for one process: no file may grow beyond a few bytes, and every write beyond them fails as the system's own does."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def disk_full(room: int = 1024) -> Iterator[None]:
    """Let no file of this process have more bytes; Python ignores the signal that goes with it, so the write says why it fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
