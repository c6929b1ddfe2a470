"""A LanceDB table in a program that runs on while other processes add to it, compact it, or build it anew.

Who reads sees a version as it was. Where another process has taken that version's files away, the newest is asked instead; and a table
that now holds vectors of another model is an error, since every query of this program is of the one that was there before.
"""

from __future__ import annotations

import errno
import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import TwowayError
from .lance_whole import cut_off, files
from .said import engine_errors, is_slow

if TYPE_CHECKING:
    from collections.abc import Callable

    from .store import About

Answer = TypeVar("Answer")
TABLE, ABOUT = "items", b"twoway.about"  # the one table; where its schema says which model made its vectors
FRESH = timedelta(seconds=1)  # how old a reader's view may be when another process writes


def about_of(table: Any) -> dict[str, Any] | None:
    """Return what a table remembers of its vectors; nothing where it is no table of ours."""
    said = (table.schema.metadata or {}).get(ABOUT)
    return None if said is None else dict(json.loads(said))


class Live:
    """One table, read and written as it is now."""

    def __init__(self, table: Any, location: str, about: About) -> None:
        self.table, self.location, self._about = table, location, asdict(about)
        self._folder = Path(location) / f"{table.name}.lance"

    def read(self, doing: str, ask: Callable[[Any], Answer]) -> Answer:
        """Ask the table, once more where what was asked is no longer there."""
        with engine_errors(self.location, doing):
            try:
                found = ask(self.table)
            except TwowayError:
                raise
            except Exception as error:
                if is_slow(error):
                    raise  # and no second time
                self.newest()
                found = ask(self.table)
            self._check()  # behind the answer, because versions only go forward: the one that was asked was no later
            return found

    def write(self, doing: str, change: Callable[[Any], Answer]) -> Answer:
        """Change the table, or leave it as it was."""
        with engine_errors(self.location, doing):
            there, version = files(self._folder), self.table.version
            try:
                done = change(self.table)
            except Exception:
                self._take_back(there, version)  # what reading a file without its end says is no help
                raise
            self._take_back(there, version)
            return done

    def _take_back(self, there: set[Path], version: int) -> None:
        """Go back to a version where the disk has cut a file off that was written since, and say that."""
        torn = cut_off(files(self._folder) - there)
        for path in torn:
            path.unlink()  # which makes room for going back
        if torn and self.table.version != version:
            self.table.restore(version)
        if torn:
            raise OSError(errno.ENOSPC, "No space left on device")

    def newest(self) -> None:
        """Go to the newest version, which is what is written to."""
        self.table.checkout_latest()
        self._check()

    def _check(self) -> None:
        if about_of(self.table) != self._about:
            raise TwowayError(f"{self.location} was built anew after this program opened it; open it again")
