"""Which rows share a batch: those of one kind and nearly one length, as many as a budget of tokens holds.

Rows are looked at in windows, bounded in number and in bytes, so any size of input passes in constant memory. Inside a window rows are
sorted by length, the longest first, so that a batch that does not fit shows at once. A batch costs its longest row times its rows. It also
ends where the next row is much shorter than the first, once it is large enough to keep the machine busy: padding is work like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL.Image import Image as PILImage

from ..content import Document, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ..content import ContentError, Place


@dataclass
class Item:
    """A document on its way, with the number and the place of every document that has the same content."""

    document: Document
    key: str
    kind: str
    length: float
    wanted: list[tuple[int, Place | None]] = field(default_factory=list)


# A batch of at least this share of the budget takes no row shorter than this share of its longest one.
_BUSY, _NEAR = 1 / 8, 0.85


def size_in_memory(document: Document) -> int:
    """Return the bytes that a document holds before anything is decoded."""
    total = 0
    for part in document.parts:
        if isinstance(part, Text):
            total += len(part.text)
        elif isinstance(part.source, bytes):
            total += len(part.source)
        elif isinstance(part.source, PILImage):
            width, height = part.source.size
            total += width * height * len(part.source.getbands())
    return total


def windows(
    looked: Iterable[list[tuple[int, Item | ContentError]]], fresh: Callable[[int, Item | ContentError], bool], *, rows: int, bytes_: int
) -> Iterator[list[Item]]:
    """Cut a stream into windows of items that are `fresh`; what is not counts too, so that a window always comes to its end."""
    window: list[Item] = []
    seen = held = 0
    for chunk in looked:
        for index, item in chunk:
            seen += 1
            if fresh(index, item) and isinstance(item, Item):
                window.append(item)
                held += size_in_memory(item.document)
        if seen >= rows or held >= bytes_:
            yield window
            window, seen, held = [], 0, 0
    yield window


def batches(window: list[Item], *, budget: float, most: int) -> Iterator[list[Item]]:
    """Cut one window into batches, each of one kind."""
    window.sort(key=lambda item: (item.kind, -item.length))
    batch: list[Item] = []
    for item in window:
        # The first row is the longest, so the batch is as wide as that.
        if batch and (item.kind != batch[0].kind or _full(batch, item, budget, most)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def _full(batch: list[Item], item: Item, budget: float, most: int) -> bool:
    """Say whether an item is better off in a batch of its own."""
    widest, rows = batch[0].length, len(batch)
    busy = rows * widest >= _BUSY * budget
    return (rows + 1) * widest > budget or rows >= most or (busy and item.length < _NEAR * widest)
