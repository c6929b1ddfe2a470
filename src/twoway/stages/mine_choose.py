"""Which of a query's nearest candidates become its hard negatives, and why the others do not.

A candidate is out when it is right: the positive, a further right answer, the same content under another name, the answer of another row
with the same query, the query itself, when its vector is that of the positive, or when it is an answer saved in another form. What is left
is numbered from 1, the nearest first: its rank. Of the asked ranks those are out that score so high against the positive that they may be
right as well (the margins), or outside of the asked scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from twoway.errors import UsageError

if TYPE_CHECKING:
    from collections import Counter

    from numpy.typing import NDArray

# Two vectors this near are of the same thing, such as one picture in two files.
SAME = 0.9999
# Two less near than this are not of the same thing in two forms.
POSSIBLE = 0.9


@dataclass(frozen=True)
class Choice:
    """How negatives are chosen. Margins are against the positive's score: absolute, and as a share of it."""

    negatives: int = 7
    first: int = 1  # rank of the nearest candidate that may be chosen
    last: int = 100
    margin: float | None = None  # a negative scores at least this much less than the positive
    share: float | None = None  # a negative scores at most this share of the positive
    most: float | None = None
    least: float | None = None
    random: float = 0.0  # share of the negatives that are drawn from all candidates
    sampling: str = "top"  # the nearest within the ranks, or drawn among them: random
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.negatives < 1:
            raise UsageError(f"--negatives is 1 or more, not {self.negatives}")
        if not 1 <= self.first <= self.last:
            raise UsageError(f"--ranks are two numbers in order from 1 on, not {self.first} {self.last}")
        if not 0 <= self.random <= 1:
            raise UsageError(f"--random is a share from 0 to 1, not {self.random}")
        if self.sampling not in ("top", "random"):
            raise UsageError(f"--sampling is top or random, not {self.sampling!r}")
        if self.most is not None and self.least is not None and self.most <= self.least:
            raise UsageError(f"no score is below {self.most} and above {self.least}; --max-score is the larger one")

    def drawn(self) -> int:
        """Return how many negatives are drawn from all candidates."""
        return round(self.negatives * self.random)


class Chosen(NamedTuple):
    """A negative, and where it comes from; a drawn one has no rank."""

    candidate: int
    score: float
    rank: int | None


def eligible(scores: NDArray[np.float32], positive: float, choice: Choice, why: Counter[str]) -> NDArray[np.bool_]:
    """Say which candidates may be negatives by their scores; `why` counts the others."""
    out = np.zeros(len(scores), bool)
    rules: dict[str, NDArray[np.bool_]] = {}
    if choice.margin is not None:
        rules["margin"] = scores > positive - choice.margin
    if choice.share is not None:
        # A share of a negative score would let through what scores higher.
        rules["share"] = scores > (positive * choice.share if positive > 0 else positive)
    if choice.most is not None:
        rules["max score"] = scores > choice.most
    if choice.least is not None:
        rules["min score"] = scores < choice.least
    for name, hit in rules.items():
        why[name] += int((hit & ~out).sum())
        out |= hit
    return ~out


def choose(near: list[Chosen], drawn: list[Chosen], choice: Choice, draw: np.random.Generator) -> list[Chosen]:
    """Choose among eligible candidates: `near` by rank, `drawn` in random order; what the drawn lack the near make up for."""
    within = [one for one in near if one.rank is not None and choice.first <= one.rank <= choice.last]
    wanted = choice.negatives - min(choice.drawn(), len(drawn))
    if choice.sampling == "random" and len(within) > wanted:
        kept = sorted(draw.choice(len(within), wanted, replace=False))
        within = [within[number] for number in kept]
    taken = within[:wanted]
    names = {one.candidate for one in taken}
    return taken + [one for one in drawn if one.candidate not in names][: choice.negatives - len(taken)][: choice.drawn()]
