"""Trackers: where a run's numbers go beside `log.jsonl`. TensorBoard is written into the run's folder; the others are those of accelerate.

TensorBoard is opened here and not by accelerate, because a resumed run takes away the events of steps that it does again.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from twoway.errors import UsageError, with_extra

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .config import TrackerName


class Tracker(Protocol):
    """Takes numbers."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Note the numbers of a step."""

    def close(self) -> None:
        """Come to the end."""


def require_tracker(name: TrackerName) -> None:
    """Refuse a tracker whose package is not here, before any work."""
    if name == "tensorboard":
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise UsageError(f"log=tensorboard needs the package tensorboard; {with_extra('train')}") from error
    elif name != "none" and find_spec(name) is None:
        raise UsageError(f"log={name} needs the package {name}: pip install {name}")


def open_tracker(name: TrackerName, out: Path, start: int) -> Tracker | None:
    """Open a tracker for the run in `out`, which goes on after step `start`."""
    if name == "none":
        return None
    return _TensorBoard(out, start) if name == "tensorboard" else _Accelerates(name, out)


class _TensorBoard:
    def __init__(self, out: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Accelerates:
    """A tracker of accelerate; the folder of the run gives it its name."""

    def __init__(self, name: str, out: Path) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[name]
        where: dict[str, Any] = {"logging_dir": str(out)} if kind.requires_logging_directory else {}
        self._tracker = kind(out.resolve().name, **where)
        self._tracker.start()

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._tracker.log(dict(numbers), step=step)

    def close(self) -> None:
        self._tracker.finish()
