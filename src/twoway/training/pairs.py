"""Each held-out row with another one, whose picture or caption stands in for its own when it is asked whether they help.

The other row has parts of the same kinds in the same order, none of the same pictures or texts, and, where there is such a row, no word in
common either but those that many rows have: a drawing of a cat is no wrong picture for another drawing of a cat.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twoway.content import Document, Image, Text

if TYPE_CHECKING:
    from collections.abc import Sequence

_MANY = 8  # a word that more than one row in so many has says little about one of them


@dataclass(frozen=True)
class Pair:
    """A row and another one of its form."""

    identity: str
    document: Document
    other: Document

    def swapped(self, kind: type[Text] | type[Image]) -> Document:
        """Return the row with the other one's parts of a kind."""
        both = zip(self.document.parts, self.other.parts, strict=True)
        return Document(tuple(theirs if isinstance(theirs, kind) else ours for ours, theirs in both), self.document.place)


def pair(rows: Sequence[tuple[str, Document]]) -> list[Pair]:
    """Pair rows that have a picture and a text; a row that no other fits is left out."""
    return match([(identity, document) for identity, document in rows if document.images and document.texts])


def match(rows: Sequence[tuple[str, Document]]) -> list[Pair]:
    """Pair rows of any kind; a row that no other fits is left out."""
    groups: dict[tuple[bool, ...], list[tuple[str, Document]]] = defaultdict(list)
    for identity, document in rows:
        groups[tuple(isinstance(part, Image) for part in document.parts)].append((identity, document))
    return [made for group in groups.values() for made in _within(group)]


def _within(group: list[tuple[str, Document]]) -> list[Pair]:
    contents = [{Document((part,), document.place).fingerprint() for part in document.parts} for _, document in group]
    words = [{word for text in document.texts for word in re.findall(r"\w+", text.casefold())} for _, document in group]
    counts = Counter(word for one in words for word in one)
    common = {word for word, count in counts.items() if count > max(2, len(group) // _MANY)}
    pairs = []
    for number, (identity, document) in enumerate(group):
        turn = [(number + step) % len(group) for step in range(1, len(group))]
        different = [other for other in turn if not contents[number] & contents[other]]
        apart = [other for other in different if not (words[number] & words[other]) - common]
        if different:
            pairs.append(Pair(identity, document, group[(apart or different)[0]][1]))
    return pairs
