"""How long rows are where the data is not here: assumptions by format, each replaced by what the user says.

A content is its words' tokens, its pictures, and the image tokens of each; a pair has two contents. The figures assume photographs of
700 x 550 pixels and pages of 1700 x 2200, brought within the stage's `min_pixels` and `max_pixels`, captions of 140 tokens, web texts cut
to 2,048. None is measured here: `twoway data check` measures a source that is there. Rows are the source's cap, or what a set is known to
hold where it has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from twoway.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from twoway.data.mixture import SourceConfig

_PHOTO, _PAGE = 700.0 * 550.0, 1700.0 * 2200.0


@dataclass(frozen=True)
class Content:
    """What one content holds on average."""

    text: float
    pictures: float = 0.0
    tokens: float = 0.0  # of one picture
    pixels: float = 0.0  # of one picture whose tokens are not said

    def shown(self, area: int, least: int | None, most: int | None) -> Content:
        """Return it with the tokens that its pictures get, `area` pixels each, where they are brought within bounds."""
        if self.tokens or not self.pixels:
            return self
        return replace(self, tokens=min(max(self.pixels, least or 0.0), most or math.inf) / area)

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


_PAGES = Means(Content(40, 1, pixels=_PAGE))
_SEARCHED = Means(Content(40), Content(10, 1, pixels=_PAGE))
ROWS: dict[str, Means] = {
    "dclm": Means(Content(1000)),
    "pixelprose": Means(Content(140, 1, pixels=_PHOTO)),
    "mammoth-vl": Means(Content(300, 1, pixels=_PHOTO)),
    "mmeb-train": Means(Content(60, 1, pixels=_PHOTO)),
    "docmatix": Means(Content(150, 1, pixels=_PAGE)),
    "visrag": _PAGES,
    "colpali": _PAGES,
}
PAIRS: dict[str, Means] = {
    "mmeb-train": Means(Content(60, 0.8, pixels=_PHOTO), Content(20, 0.3, pixels=_PHOTO)),
    "mme5": Means(Content(60, 0.8, pixels=_PHOTO), Content(40, 0.3, pixels=_PHOTO)),
    "visrag": _SEARCHED,
    "colpali": _SEARCHED,
    "e5": Means(Content(30), Content(150)),
}
# Sets prepared by MoCa's authors (`moca`, `moca-pairs`), by the last name in their spec: rows as long as those of this format.
PREPARED = {
    "dclm_20b": "dclm",
    "pixelprose_commonpool": "pixelprose",
    "pixelprose_cc12m_sub_005": "pixelprose",
    "pixelprose_redcaps_sub_010": "pixelprose",
    "MAmmoTH-VL-Instruct-12M": "mammoth-vl",
    "MMEB-train": "mmeb-train",
    "docmatix": "docmatix",
    "visrag_ind": "visrag",
    "visrag_syn": "visrag",
    "tevatron_colpali": "colpali",
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
    found = said.get(source.label) or known.get(_length_as(source))
    if found is None:
        raise UsageError(f"{where}: how long the rows of {source.label} are is not known; say --source {source.label}={FIELDS}")
    if pairs and found.answer is None:
        raise UsageError(f"{where}: {source.label} has pairs; say of the answer too: --source {source.label}={FIELDS}")
    rows = found.rows if found.rows is not None else source.cap
    held = HELD.get(_last_name(source), HELD.get(source.template or ""))
    if held is not None and found.rows is None:
        rows = min(held, rows or held)
    if rows is None:
        raise UsageError(
            f"{where}: {source.label} has no cap, and how many rows it holds is not known; say --source {source.label}={FIELDS}"
        )
    return replace(found, rows=float(rows) * source.weight)


def _last_name(source: SourceConfig) -> str:
    """Return the last name of a spec: the configuration of a data set, or the data set."""
    kind, _, rest = source.spec.partition(":")
    return (rest.partition(":")[0] if kind == "hub" else source.spec).rstrip("/").rpartition("/")[2]


def _length_as(source: SourceConfig) -> str:
    """Return the format whose rows are as long as a source's."""
    if source.template == "moca":
        return PREPARED.get(_last_name(source), "")
    # In `MoCa-CL-Pairs` all that is no page is MMEB-train with negatives.
    return PREPARED.get(_last_name(source), "mme5") if source.template == "moca-pairs" else source.template or ""


# Rows of sets that recipes read whole: the 20 sets of MMEB-train, as its page says; 560,000 in the three of mmE5-synthetic, as mmE5's paper
# says, shared as it samples them.
HELD = {"mmeb-train": 662_000, "Classification": 140_000, "Retrieval": 280_000, "VQA": 140_000}


def require_used(said: Mapping[str, Means], known: Iterable[str]) -> None:
    """Refuse a source that no stage has."""
    known = sorted(set(known))
    for name in said:
        if name not in known:
            raise UsageError(f"--source {name}: no stage reads it{did_you_mean(name, known)} (there are: {', '.join(known)})")
