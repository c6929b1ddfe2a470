"""Where a run's tables lie: what was found about rows and a model once, and is read again when the run goes on.

A table is named by what it depends on, the base's weights among it: a run that goes on by force with another base has tables of its own.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from twoway.training.checkpoint import read_run

if TYPE_CHECKING:
    from pathlib import Path


def table(folder: Path, kind: str, said: object, prepared: Any, ending: str) -> Path:
    """Return the file of a table in a run's folder of tables; `said` is what it depends on beside the base that is prepared."""
    known = read_run(folder.parent).get("weights")
    base = getattr(prepared.start, "weights", None) or known  # a forecast opens no weights: it is about the run that stands there
    path, before = (folder / f"{kind}-{_hash(one)}{ending}" for one in ([said, base], said))
    # Runs that began when the base was no part of the name keep their tables, as long as it is their base.
    return before if base == known and before.exists() and not path.exists() else path


def _hash(said: object) -> str:
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:16]
