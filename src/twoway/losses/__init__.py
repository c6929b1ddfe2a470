"""Losses: tensors in, named parts out. No trainer, tokenizer or file is known here.

A loss on pairs is chosen by its name (`loss.name`): one of this package, one registered with `register_loss`, or one that an installed
package declares as an entry point of the group `twoway.losses`, which the processes of a run on several GPUs find too.

Shapes are written as suffixes: B rows, L positions, D width, V vocabulary, N chosen positions, P values of a position's patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol, TypeVar

from twoway.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

ENTRY_POINTS = "twoway.losses"


@dataclass(frozen=True)
class Loss:
    """The sum over `count` targets. Means of unequal batches do not average to the mean of all; sums and counts do.

    So ranks and accumulated batches are averaged exactly.
    """

    total: torch.Tensor
    count: int

    @property
    def mean(self) -> torch.Tensor:
        """The mean over the targets; zero, still tied to the model, where there was none."""
        return self.total / max(self.count, 1)


class PairLoss(Protocol):
    """A loss on pairs: each query has a positive among the candidates, and is compared with those that it is allowed to see."""

    def __call__(
        self,
        queries_QD: torch.Tensor,
        candidates_CD: torch.Tensor,
        positive_Q: torch.Tensor,
        allowed_QC: torch.Tensor | None = None,
        *,
        temperature: float | torch.Tensor,
    ) -> Loss:
        """Return the loss of the queries; vectors need not be normalised, and a query's positive is always allowed."""


PAIR_LOSSES: dict[str, PairLoss] = {}
PairLossT = TypeVar("PairLossT", bound=PairLoss)


def register_loss(name: str) -> Callable[[PairLossT], PairLossT]:
    """Register a loss on pairs under a name that `loss.name` takes in this process."""

    def register(loss: PairLossT) -> PairLossT:
        PAIR_LOSSES[name] = loss
        return loss

    return register


def find_loss(name: str) -> PairLoss:
    """Return the loss on pairs of this name."""
    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in PAIR_LOSSES and name in installed:
        PAIR_LOSSES[name] = installed[name].load()
    if name not in PAIR_LOSSES:
        known = sorted({*PAIR_LOSSES, *installed})
        raise UsageError(f"there is no loss {name!r}{did_you_mean(name, known)} (there are: {', '.join(known)})")
    return PAIR_LOSSES[name]
