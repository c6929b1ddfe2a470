"""What a run finds out about its rows before the first step: where such tables are, and which rows would be lost.

Tables of the data lie in the cache, for all runs; what was found about rows and a model in the run's own folder. A table is named by what
it depends on, the base's weights among it: a run that goes on by force with another base has tables of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from twoway.data.dataset import data_folder
from twoway.data.lengths import deciding_picture_tokens, room_for_pictures
from twoway.data.sources.readers import current_scan_options, scan_options
from twoway.errors import UsageError
from twoway.files import write_whole
from twoway.processes import CONTEXT
from twoway.training.checkpointing import read_run
from twoway.training.config import FREE
from twoway.training.trainer import Callback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from twoway.data.dataset import RowTable
    from twoway.data.lengths import RowEncoder
    from twoway.data.mixture import Mixture
    from twoway.training.trainer import Trainer

_log = logging.getLogger(__name__)


@contextmanager
def opening_data(config: Any) -> Iterator[Path]:
    """Give the folder that a stage's data is kept in; within the block data that was not prepared may be refused."""
    folder = data_folder(config.cache_dir)
    _log.info("what is found out about data is kept in %s", folder)
    with scan_options(processes=current_scan_options().processes, prepared_only=config.prepared_only):
        yield folder


def feeds_cuda(config: Any) -> bool:
    """Say whether batches are made for a CUDA device."""
    return config.device != "cpu" and torch.cuda.is_available()


def for_cuda(config: Any) -> dict[str, Any]:
    """Return how a `Loader` works for a CUDA device: page-locked memory, and workers that are not forked off what drives the device."""
    return (
        {"pin_memory": config.dataloader_pin_memory, "context": CONTEXT if config.dataloader_num_workers else None}
        if feeds_cuda(config)
        else {}
    )


def table_path(folder: Path, kind: str, said: object, prepared: Any, ending: str) -> Path:
    """Return the file of a table in a run's folder of tables; `said` is what it depends on beside the base that is prepared."""
    # A forecast opens no weights: it is about the run that stands there.
    base = getattr(prepared.start, "weights", None) or read_run(folder.parent).get("weights")
    named = hashlib.sha256(json.dumps([said, base], default=str).encode()).hexdigest()[:16]
    return folder / f"{kind}-{named}{ending}"


TABLES = "tables"


def counted_once(config: Any, prepared: Any, folder: Path, kind: str, count: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what is counted on the model: by `count`, or as the first rank, or an earlier call, kept it in the run's tables."""
    told = {key: value for key, value in dataclasses.asdict(config).items() if key not in (*FREE, "data", "max_steps", "num_train_epochs")}
    path = table_path(folder, kind, told, prepared, ".json")
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    found = count()
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(found) + "\n")
    return found


# Rows that a run would lose, counted before its first step: what cannot be read, and pictures that alone are longer
# than a row.
#
# A picture's tokens are known from its size, so whether a page fits a row of `max_length` is known before anything is
# trained. A source of 1,000 rows or more that would lose over 1% of them is named in a warning, in the run's record,
# its report and its card; one that would lose more than `max_bad_share` stops the run. A row whose first picture does
# not fit is left out, or where words stand before it, read without its pictures; either way it is not the row that
# was meant. What a row of pairs loses is any picture of its sides.

# Smaller sources are looked at by their owner; a share below this is what large sets have.
SMALLEST_SOURCE, NAMED_SHARE = 1000, 0.01


@dataclass(frozen=True)
class LostRows:
    """What one source would lose, and why."""

    source: str
    rows: int
    unreadable: int
    too_large: int
    tokens: int  # of the largest picture that decides a row
    room: int  # tokens that a row has for it
    first: str = ""  # reason of the first row that cannot be read
    which: tuple[tuple[int, int], ...] = ()  # rows of the table whose picture is too large, with its tokens

    @property
    def share(self) -> float:
        """The share of the source's rows."""
        return (self.unreadable + self.too_large) / self.rows

    def __str__(self) -> str:
        why = [
            f"{self.too_large:,} for a picture of up to {self.tokens:,} tokens, where a row has room for {self.room:,}"
            if self.too_large
            else "",
            f"{self.unreadable:,} that cannot be read (the first: {self.first})" if self.unreadable else "",
        ]
        many = f"{self.unreadable + self.too_large:,} of {self.rows:,} rows ({self.share:.1%})"
        return f"{self.source} loses {many}: {', '.join(one for one in why if one)}"


def lost_rows(mixture: Mixture, encoder: RowEncoder, *, most: float, pairs: bool = False) -> tuple[LostRows, ...]:
    """Return the sources that would lose much; one that would lose more than the share `most` of its rows is refused."""
    found, room = [], None
    for source, table in zip(mixture.sources, mixture.tables, strict=True):
        if len(table) + len(table.bad) < SMALLEST_SOURCE:
            continue
        room = room_for_pictures(encoder) if room is None else room
        one = count_lost(source.label, table, encoder, room, pairs=pairs)
        if one.share > NAMED_SHARE:
            found.append(one)
    refused = describe_excess(found, most)
    if refused:
        raise UsageError(refused)
    return tuple(found)


def describe_excess(found: Sequence[LostRows], most: float) -> str:
    """Say which of these lose more than the share `most`, and what to do; nothing where none of a thousand rows or more does."""
    worst = [one for one in found if one.rows >= SMALLEST_SOURCE and one.share > most]
    large = "bound pictures with max_pixels or raise max_length" if any(one.too_large for one in worst) else "mend the source"
    return f"{'; '.join(map(str, worst))}; {large}, or allow it with max_bad_share (now {most:g})" if worst else ""


def count_lost(name: str, table: RowTable, encoder: RowEncoder, room: int, *, pairs: bool = False) -> LostRows:
    """Count what one source would lose."""
    tokens = deciding_picture_tokens(table, encoder, pairs=pairs)
    large = [(int(row), int(tokens[row])) for row in np.flatnonzero(tokens > room)]
    first = str(table.bad[0]) if table.bad else ""
    return LostRows(name, len(table) + len(table.bad), len(table.bad), len(large), int(tokens.max(initial=0)), room, first, tuple(large))


def describe_too_large(tables: Sequence[RowTable], encoder: RowEncoder | None, *, pairs: bool = False) -> list[str]:
    """Say, where rows are looked at before any run, how many have a picture that fits no row; nothing where none has."""
    found: list[str] = []
    if encoder is None:
        return found
    for table in tables:
        one = count_lost("", table, encoder, room_for_pictures(encoder), pairs=pairs)
        if one.too_large:
            many = (
                f"{one.too_large:,} of {one.rows:,} rows have a picture of up to {one.tokens:,} tokens, and a row has room for {one.room:,}"
            )
            found.append(f"{many}; bound pictures with max_pixels, or raise max_length")
    return found


class LostRowsCallback(Callback):
    """Says before the first step what is lost."""

    def __init__(self, lost: Sequence[LostRows]) -> None:
        self.lost = lost

    def on_train_begin(self, trainer: Trainer) -> None:
        """Warn."""
        if trainer.ranks.is_main_process:
            for one in self.lost:
                _log.warning("%s", one)

    def on_evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """Put the number into the log, beside the first entry."""
        return {"rows_lost": sum(one.unreadable + one.too_large for one in self.lost)} if self.lost and not trainer.step else {}
