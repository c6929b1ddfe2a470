"""How long rows are where the data is not here: assumptions by format, each replaced by what the user says.

A content is its words' tokens, its pictures, and the image tokens of each; a pair has two contents. The figures assume pictures at the size
that the base's processor makes of a photograph of 700 x 550 pixels (500 tokens of 28 x 28 pixels) and of a page at 1,100,000 pixels (1,400
tokens), captions of 140 tokens, web texts cut to 2,048. None is measured here: `twoway data check` measures a source that is there. Rows
are the source's cap, or what a set is known to hold where it has none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from twoway.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from twoway.data.mixture import SourceConfig

_PHOTO, _PAGE = 500.0, 1400.0


@dataclass(frozen=True)
class Content:
    """What one content holds on average."""

    text: float
    pictures: float = 0.0
    tokens: float = 0.0  # of one picture

    @property
    def length(self) -> float:
        """Tokens of words and pictures."""
        return self.text + self.pictures * self.tokens


@dataclass(frozen=True)
class Means:
    """Rows of one source. A row that is no pair has no answer."""

    content: Content
    answer: Content | None = None
    rows: float | None = None
    assumed: bool = True


_PAGES = Means(Content(40, 1, _PAGE))
_SEARCHED = Means(Content(40), Content(10, 1, _PAGE))
ROWS: dict[str, Means] = {
    "dclm": Means(Content(1000)),
    "pixelprose": Means(Content(140, 1, _PHOTO)),
    "mammoth-vl": Means(Content(300, 1, _PHOTO)),
    "mmeb-train": Means(Content(60, 1, _PHOTO)),
    "docmatix": Means(Content(150, 1, _PAGE)),
    "visrag": _PAGES,
    "colpali": _PAGES,
}
PAIRS: dict[str, Means] = {
    "mmeb-train": Means(Content(60, 0.8, _PHOTO), Content(20, 0.3, _PHOTO)),
    "mme5": Means(Content(60, 0.8, _PHOTO), Content(40, 0.3, _PHOTO)),
    "visrag": _SEARCHED,
    "colpali": _SEARCHED,
    "e5": Means(Content(30), Content(150)),
}
FIELDS = "ROWS:TEXT:PICTURES:TOKENS, and for pairs :TEXT:PICTURES:TOKENS of the answer"


def read_means(said: Iterable[str]) -> dict[str, Means]:
    """Read NAME=ROWS:TEXT:PICTURES:TOKENS[:TEXT:PICTURES:TOKENS]."""
    found = {}
    for one in said:
        name, _, numbers = one.partition("=")
        try:
            values = [float(number.replace("_", "")) for number in numbers.split(":")]
        except ValueError:
            values = []
        if not name or len(values) not in (4, 7) or min(values) < 0 or values[0] < 1:
            raise UsageError(f"--source {one}: say NAME={FIELDS}; numbers of 0 or more")
        answer = Content(*values[4:]) if values[4:] else None
        found[name] = Means(Content(*values[1:4]), answer, values[0], assumed=False)
    return found


def means_of(source: SourceConfig, said: Mapping[str, Means], *, pairs: bool, where: str) -> Means:
    """Return what is said or assumed of a source."""
    known = PAIRS if pairs else ROWS
    found = said.get(source.label) or known.get(source.template or "")
    if found is None:
        raise UsageError(f"{where}: how long the rows of {source.label} are is not known; say --source {source.label}={FIELDS}")
    if pairs and found.answer is None:
        raise UsageError(f"{where}: {source.label} has pairs; say of the answer too: --source {source.label}={FIELDS}")
    rows = found.rows if found.rows is not None else source.cap
    if rows is None:
        rows = HELD.get(source.template or "")
    if rows is None:
        raise UsageError(
            f"{where}: {source.label} has no cap, and how many rows it holds is not known; say --source {source.label}={FIELDS}"
        )
    return replace(found, rows=float(rows) * source.weight)


# Rows of a set that recipes read without a cap; the 20 sets of MMEB-train, as its page says.
HELD = {"mmeb-train": 662_000}


def require_used(said: Mapping[str, Means], known: Iterable[str]) -> None:
    """Refuse a source that no stage has."""
    known = sorted(set(known))
    for name in said:
        if name not in known:
            raise UsageError(f"--source {name}: no stage reads it{did_you_mean(name, known)} (there are: {', '.join(known)})")
