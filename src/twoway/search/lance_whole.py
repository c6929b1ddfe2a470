"""Whether what a write has left in a LanceDB table is whole, and whether an index that fails is damaged.

Lance takes a write for done whose last bytes a full disk has cut off, and the version made of it cannot be read, with nothing of what was
there before. Each of its files has a mark at its end, so the files that a write has made are looked at before the write counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_ENDS = {".lance": b"LANC", ".idx": b"LANC", ".arrow": b"ARROW1"}
_OTHERS = {".manifest": b"LANC", ".parquet": b"PAR1", ".json": b"}"}  # of versions, and of Milvus Lite
_PARTS = ("data", "_indices", "_deletions")


def files(folder: Path) -> set[Path]:
    """Return the files of a table."""
    return {path for part in _PARTS for path in (folder / part).rglob("*") if path.suffix in _ENDS}


def cut_off(made: set[Path]) -> list[Path]:
    """Return which of these files have no end."""
    return [path for path in made if not _ended(path)]


def first_damaged(folder: Path) -> Path | None:
    """Return a file of an index that has not the end that its kind has; nothing where all have it."""
    known = _ENDS | _OTHERS
    if folder.suffix == ".db":
        known = {kind: mark for kind, mark in known.items() if kind != ".idx"}  # Milvus Lite's are arrays, without a mark
    return next((path for path in sorted(folder.rglob("*")) if path.suffix in known and path.is_file() and not _ended(path)), None)


def _ended(path: Path) -> bool:
    mark = (_ENDS | _OTHERS)[path.suffix]
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(mark)))
        return file.read() == mark
