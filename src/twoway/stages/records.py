"""What stands in the folder of a run: each stage's record beside its folder, and what it says of a job: done, begun, stale, or not there.

`OUT/2-pretrain.json` is the record of `OUT/2-pretrain`. It holds the job's fingerprint with all that went into it, so a stage of another
recipe, other data or other settings is recognised, and the difference can be said. A record is written before a stage begins, so that a
stage that was cut off is known as this one.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from twoway.errors import TwowayError, UsageError
from twoway.files import disk_errors, sha256, write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .fingerprint import Job

Standing = Literal["done", "begun", "stale", "foreign", "new"]
STALE = "stale"  # where folders go whose stage is done again
_SHOWN = 4


@dataclass(frozen=True)
class Record:
    """What is known of a stage that was begun."""

    stage: str
    fingerprint: str
    parts: Mapping[str, Any]
    state: Literal["begun", "failed", "done"] = "begun"
    seconds: float = 0.0  # of work, over all calls
    calls: int = 0
    made: str | None = None  # hash of the file that says the stage is done
    figures: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    surroundings: Mapping[str, Any] = field(default_factory=dict)  # versions, git state and machine of the latest call

    def write(self, folder: Path) -> None:
        """Write the record beside the folder of its stage."""
        with disk_errors():
            folder.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place(folder), json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Stand:
    """How a job stands: what is there, and why it is not what is wanted."""

    standing: Standing
    record: Record | None = None
    why: str = ""


def place(folder: Path) -> Path:
    """Return where the record of a stage's folder is."""
    return folder.with_name(f"{folder.name}.json")


def read_record(folder: Path) -> Record | None:
    """Read the record of a stage's folder; `None` where there is none."""
    path = place(folder)
    if not path.exists():
        return None
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise TwowayError(f"{path} is no record of a stage ({error}); move it and {folder} away, or name another OUT") from error


def look(job: Job, folder: Path) -> Stand:
    """Say how a job stands in its folder."""
    record = read_record(folder)
    if record is None:
        return Stand("foreign", None, "nothing says what made it") if folder.exists() else Stand("new")
    if not folder.exists():
        return Stand("new", record if record.fingerprint == job.fingerprint else None)
    if record.fingerprint != job.fingerprint:
        return Stand("stale", record, difference(record.parts, job.parts, job.base or job.source))
    if record.state != "done":
        return Stand("begun", record)
    marker = folder / job.kind.marker
    if not marker.exists() or sha256(marker) != record.made:
        return Stand("stale", record, f"{marker.name} is not the one that the stage wrote")
    return Stand("done", record)


def set_aside(folder: Path) -> Path:
    """Move a stage's folder and record to where nothing looks for them; nothing is deleted."""
    home = folder.parent / STALE
    with disk_errors():
        home.mkdir(exist_ok=True)
    number = 1
    while (home / f"{folder.name}-{number}").exists() or place(home / f"{folder.name}-{number}").exists():
        number += 1
    target = home / f"{folder.name}-{number}"
    if folder.exists():
        shutil.move(folder, target)
    if place(folder).exists():
        shutil.move(place(folder), place(target))
    return target


def difference(old: Mapping[str, Any], new: Mapping[str, Any], source: str) -> str:
    """Say in words what a stage was made of and is not made of now; `source` is what it starts from."""
    before, after = _flat(old), _flat(json.loads(json.dumps(new)))
    said = []
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) == after.get(key):
            continue
        if key == "input":
            said.append(f"{source}, which it starts from, has changed")
        elif key.startswith("data.") and key.endswith(".content"):
            said.append(f"the rows of {key.removeprefix('data.').removesuffix('.content')} have changed")
        else:
            said.append(f"{key.removeprefix('config.')} was {_shown(before, key)} and is {_shown(after, key)}")
    more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return "; ".join(said[:_SHOWN]) + more


def require_run_folder(out: Path, marker: str) -> None:
    """Refuse a folder that holds something else than a run."""
    if out.exists() and (
        not out.is_dir() or (any(not path.name.startswith(".") for path in out.iterdir()) and not (out / marker).exists())
    ):
        raise UsageError(f"{out} exists already and is no run of a recipe; choose another folder")


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by dotted name; sources of data go by theirs."""
    if isinstance(tree, list) and tree and all(isinstance(one, dict) and "name" in one for one in tree):
        tree = {one["name"]: one for one in tree}
    if isinstance(tree, dict) and tree:
        return {key: value for part, below in tree.items() for key, value in _flat(below, f"{name}.{part}" if name else part).items()}
    return {name: tree}


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return json.dumps(leaves[key], ensure_ascii=False) if key in leaves else "not there"
