"""What a teacher's scores of a query's candidates teach: the student is to put them into the same order, as far apart.

- kl: the divergence of the student's distribution over a query's candidates from the teacher's, each a softmax of scores over a temperature
  (Hinton et al., arXiv 1503.02531);
- margin-mse: the square of how far the student's margins, of the right candidate over each wrong one, are from the teacher's (Hofstätter et
  al., arXiv 2010.02666).

Scores of both come divided by their temperatures. sentence-transformers has both losses for a fixed number of negatives and a model that it
runs itself; these take scores, and rows may have any number of candidates.

Names: Q queries, K candidates, the right one first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from twoway.errors import UsageError, did_you_mean

from . import Loss

if TYPE_CHECKING:
    from collections.abc import Callable


def distillation_loss(name: str, student_QK: torch.Tensor, teacher_QK: torch.Tensor, there_QK: torch.Tensor) -> Loss:
    """Return the loss of each query's scores; `there_QK` says which of the places hold a candidate."""
    if name not in DISTILLATION_LOSSES:
        known = ", ".join(DISTILLATION_LOSSES)
        raise UsageError(f"there is no loss of a teacher {name!r}{did_you_mean(name, DISTILLATION_LOSSES)} (there are: {known})")
    per_query_Q = DISTILLATION_LOSSES[name](student_QK.float(), teacher_QK.float(), there_QK)
    return Loss(per_query_Q.sum(), len(student_QK))


def _kl(student_QK: torch.Tensor, teacher_QK: torch.Tensor, there_QK: torch.Tensor) -> torch.Tensor:
    ours_QK = student_QK.masked_fill(~there_QK, -torch.inf).log_softmax(1).masked_fill(~there_QK, 0.0)
    theirs_QK = teacher_QK.masked_fill(~there_QK, -torch.inf).log_softmax(1)
    return (theirs_QK.exp() * (theirs_QK.masked_fill(~there_QK, 0.0) - ours_QK)).sum(1)


def _margin_mse(student_QK: torch.Tensor, teacher_QK: torch.Tensor, there_QK: torch.Tensor) -> torch.Tensor:
    wrong_QK = there_QK[:, 1:]
    ours_QK, theirs_QK = student_QK[:, :1] - student_QK[:, 1:], teacher_QK[:, :1] - teacher_QK[:, 1:]
    far_QK = (ours_QK - theirs_QK).masked_fill(~wrong_QK, 0.0) ** 2
    return far_QK.sum(1) / wrong_QK.sum(1).clamp(min=1)


DISTILLATION_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "kl": _kl,
    "margin-mse": _margin_mse,
}
