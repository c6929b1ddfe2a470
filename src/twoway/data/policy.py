"""What happens to a bad row: the run fails at the first one (the default), or leaves it out, counted and listed; never a stand-in.

The list is JSON lines with `file`, `row`, `unit` and `reason`. It is written line by line, so that it stands even where a run is cut
off, and each row is in it once, however often the data is read.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from ..content import ContentError, Place
from ..errors import TwowayError, UsageError, did_you_mean

OnBad = Literal["fail", "skip"]
BAD_ROWS = "bad-rows.jsonl"


class Policy:
    """Decides about bad rows; one policy may serve several sources, and then all of them share one list.

    With `keep` the list is added to: a run that goes on, or one of several processes of a run, leaves what is in it.
    """

    def __init__(self, on_bad: OnBad = "fail", bad_rows: str | Path | None = None, *, keep: bool = False) -> None:
        if on_bad not in get_args(OnBad):
            raise UsageError(f"on_bad is fail or skip, not {on_bad!r}{did_you_mean(str(on_bad), get_args(OnBad))}")
        self.on_bad = on_bad
        self.bad_rows = None if bad_rows is None else Path(bad_rows)
        self.keep = keep
        self._listed: set[Place | None] = set()
        self._read = 0
        self._started = False

    def start(self) -> None:
        """Take away the list of an earlier run, once, so that a clean run does not end beside an old list."""
        if not self._started and self.bad_rows is not None and not self.keep:
            try:
                self.bad_rows.unlink(missing_ok=True)
            except OSError as error:
                raise UsageError(f"the list of bad rows cannot be written to {self.bad_rows} ({error.strerror})") from error
        self._started = True

    def refuse(self, error: ContentError) -> None:
        """Raise for a bad row, or list it."""
        if self.on_bad == "fail":
            raise ContentError(f"{error.reason}; mend the row, or pass --on-bad skip to leave such rows out", error.place) from error
        self.start()
        self._catch_up()
        if self.bad_rows is None or error.place in self._listed:
            return
        if error.place is not None:
            self._listed.add(error.place)
        place = error.place or Place("")
        line = {"file": place.file, "row": place.row, "unit": place.unit, "reason": error.reason}
        try:
            torn = self._ends_torn()
            with self.bad_rows.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(("\n" if torn else "") + json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as trouble:
            raise TwowayError(f"the list of bad rows cannot be written to {self.bad_rows} ({trouble.strerror})") from trouble

    def _catch_up(self) -> None:
        """Read what an earlier run or another process has listed since the last look."""
        if not self.keep or self.bad_rows is None or not self.bad_rows.exists():
            return
        with self.bad_rows.open("rb") as file:
            file.seek(self._read)
            for line in file.read().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break  # another process is writing it
                self._read += len(line)
                with suppress(ValueError):  # half a line, where a kill or a full disk ended an earlier run
                    said = json.loads(line)
                    self._listed.add(Place(said["file"], said["row"], said["unit"]))

    def _ends_torn(self) -> bool:
        """Say whether the list ends in half a line, to which nothing may be added."""
        if self.bad_rows is None or not self.bad_rows.exists() or not self.bad_rows.stat().st_size:
            return False
        with self.bad_rows.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


@dataclass
class Report:
    """What one pass over a source has met so far."""

    spec: str
    rows: int = 0
    kept: int = 0
    bad: int = 0
    first: list[ContentError] = field(default_factory=list)
    bad_rows: Path | None = None

    def add_bad(self, error: ContentError) -> None:
        """Count a bad row; the first three are kept to be shown."""
        self.bad += 1
        if len(self.first) < 3:
            self.first.append(error)

    def __str__(self) -> str:
        if not self.bad:
            return f"{self.spec}: {self.rows:,} rows read, none bad"
        listed = f", all in {self.bad_rows}" if self.bad_rows is not None else ""
        examples = " | ".join(str(error) for error in self.first)
        return f"{self.spec}: {self.rows:,} rows read, {self.bad:,} bad and left out{listed}; first: {examples}"
