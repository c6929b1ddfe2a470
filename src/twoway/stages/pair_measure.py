"""What stands on each side of pairs, counted and measured in one pass; and which rows are suspect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from twoway.content import ContentError
from twoway.data.near import look, near_looks, near_texts
from twoway.data.progress import steps
from twoway.images import image_size, open_document

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from twoway.content import Document
    from twoway.data.near import Known
    from twoway.data.pair_mixture import Pairs
    from twoway.data.pair_rows import PairRow

SIDES = ("query", "positive", "negative")


@dataclass(frozen=True)
class Side:
    """What stands on one side of a source's rows; sizes and lengths as least, median, 95th percentile and most."""

    documents: int = 0
    with_text: int = 0
    with_picture: int = 0
    characters: tuple[int, ...] = ()
    pixels: tuple[int, ...] = ()
    aspect: float = 1.0  # of the longest side to the shortest, the most


def measure(pairs: Pairs, decode: bool, known: Known | None) -> dict[str, Any]:
    """Go through the rows once."""
    lengths: dict[str, list[int]] = {side: [] for side in SIDES}
    sizes: dict[str, list[tuple[int, int]]] = {side: [] for side in SIDES}
    counts = {side: [0, 0, 0] for side in SIDES}
    lists: dict[str, list[str]] = {name: [] for name in ("bad", "twins", "seen_exact", "seen_near")}
    for row in steps(range(len(pairs)), f"measuring {pairs.mixture.sources[0].label}", total=len(pairs)):
        try:
            identity, pair = pairs.read(row)
            for side, document in sides_of(pair):
                counts[side][0] += 1
                counts[side][1] += bool(document.texts)
                counts[side][2] += bool(document.images)
                lengths[side] += [sum(map(len, document.texts))] if document.texts else []
                sizes[side] += [image_size(image, place=document.place) for image in document.images]
                if decode:
                    open_document(document)
            if _twins(pair, decode):
                lists["twins"].append(identity)
            if known is not None:
                _overlap(identity, pair, known, lists)
        except ContentError as error:
            lists["bad"].append(str(error))
    sides = {
        side: Side(
            counts[side][0],
            counts[side][1],
            counts[side][2],
            _spread(lengths[side]),
            _spread([width * height for width, height in sizes[side]]),
            _aspect(sizes[side]),
        )
        for side in SIDES
        if counts[side][0]
    }
    return {"sides": sides, **lists}


def sides_of(pair: PairRow) -> Iterator[tuple[str, Document]]:
    """Yield the documents of a pair with the sides they stand on."""
    yield "query", pair.query
    yield from (("positive", one) for one in (pair.positive, *pair.others))
    yield from (("negative", one) for one in pair.negatives)


def _twins(pair: PairRow, decode: bool) -> bool:
    """Say whether a query is nearly its answer: their texts, and where pictures are decoded their pictures too."""
    query, positive = pair.query, pair.positive
    if len(query.images) != len(positive.images) or bool(query.texts) != bool(positive.texts):
        return False
    if query.texts and not near_texts(" ".join(query.texts), " ".join(positive.texts)):
        return False
    if not query.images:
        return True
    return decode and all(near_looks(left, right) for left, right in zip(look(query), look(positive), strict=True))


def _overlap(identity: str, pair: PairRow, known: Known, lists: dict[str, list[str]]) -> None:
    """List a row that holds a content of the evaluation set."""
    for _, document in sides_of(pair):
        if (name := known.exact(document)) is not None:
            lists["seen_exact"].append(f"{identity} has a content of {name}")
            return
    for _, document in sides_of(pair):
        if (name := known.near(document)) is not None:
            lists["seen_near"].append(f"{identity} has a picture like one of {name}")
            return


def _spread(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(one) for one in np.percentile(values, [0, 50, 95, 100])) if values else ()


def _aspect(sizes: Sequence[tuple[int, int]]) -> float:
    return round(max((max(size) / min(size) for size in sizes), default=1.0), 2)
