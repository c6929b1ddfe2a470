"""Where tables lie: those of the data in the cache, for all runs; what was found about rows and a model in the run's own folder.

A table is named by what it depends on, the base's weights among it: a run that goes on by force with another base has tables of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from twoway.data.table_sharing import how, looking
from twoway.files import cache_home
from twoway.processes import CONTEXT
from twoway.training.checkpoint import read_run

if TYPE_CHECKING:
    from collections.abc import Iterator

_log = logging.getLogger(__name__)


def data_folder(cache_dir: Path | None = None) -> Path:
    """Return where what is found out about data is kept: tables of rows, copies of streams, lengths."""
    return Path(cache_dir or cache_home()) / "data"


@contextmanager
def opening(config: Any) -> Iterator[Path]:
    """Give the folder that a stage's data is kept in; within the block data that was not prepared may be refused."""
    folder = data_folder(config.cache_dir)
    _log.info("what is found out about data is kept in %s", folder)
    with looking(processes=how().processes, prepared_only=config.prepared_only):
        yield folder


def feeds_cuda(config: Any) -> bool:
    """Say whether batches are made for a CUDA device."""
    return config.device != "cpu" and torch.cuda.is_available()


def for_cuda(config: Any) -> dict[str, Any]:
    """Return how a `Loader` works for a CUDA device: page-locked memory, and workers that are not forked off what drives the device."""
    return {"pin_memory": config.pin_memory, "context": CONTEXT if config.workers else None} if feeds_cuda(config) else {}


def table(folder: Path, kind: str, said: object, prepared: Any, ending: str) -> Path:
    """Return the file of a table in a run's folder of tables; `said` is what it depends on beside the base that is prepared."""
    known = read_run(folder.parent).get("weights")
    base = getattr(prepared.start, "weights", None) or known  # a forecast opens no weights: it is about the run that stands there
    path, before = (folder / f"{kind}-{_hash(one)}{ending}" for one in ([said, base], said))
    # Runs that began when the base was no part of the name keep their tables, as long as it is their base.
    return before if base == known and before.exists() and not path.exists() else path


def _hash(said: object) -> str:
    return hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:16]
