"""Which part of a row is A, what EOS has to carry, and which is B, the words that are restored from it (CoCoA, arXiv 2603.01471).

- A pair: A is the query and B its positive. B is words, so where the positive has a picture and the query has none, they change places.
- A document of several parts: B is its last text and A everything else, in its order: a picture and its caption, a page and its words, a
  question with a picture and the answer.
- A document of one text: the text is cut in two at the white space next to `cut` of its characters (0: such a row is bad).

The paper trains on captioned pictures and on pairs. The last rule is ours, so that plain text serves too.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..content import ContentError, Document, Image, Text
from .pair_rows import pair_of

if TYPE_CHECKING:
    from .pair_rows import PairRow


@dataclass(frozen=True)
class Sides:
    """A row, cut in two."""

    a: Document
    b: str

    @property
    def modality(self) -> str:
        """What A is made of: image, text or both."""
        return "both" if self.a.images and self.a.texts else "image" if self.a.images else "text"

    @property
    def joined(self) -> Document:
        """The document that is cut into the same two."""
        return Document((*self.a.parts, Text(self.b)), self.a.place)


def sides(document: Document, cut: float = 0.5) -> Sides:
    """Cut a row in two, or say why it cannot be."""
    pair = None
    with contextlib.suppress(ContentError):  # it is a document
        pair = pair_of(document)
    if pair is not None:
        return _of_pair(pair)
    texts = [place for place, part in enumerate(document.parts) if isinstance(part, Text) and part.text.strip()]
    if not texts:
        raise ContentError("B is empty: the row has no text that could be restored", document.place)
    if len(document.parts) == 1:
        return _of_text(document, cut)
    last = document.parts[texts[-1]]
    rest = (*document.parts[: texts[-1]], *document.parts[texts[-1] + 1 :])
    return _checked(Document(rest, document.place), last.text if isinstance(last, Text) else "")


def _of_pair(pair: PairRow) -> Sides:
    a, b = pair.query, pair.positive
    if b.images and not a.images:
        a, b = b, a
    if b.images:
        raise ContentError("both sides have pictures, and B is words; leave such pairs out (--on-bad skip)", pair.place)
    return _checked(Document(a.parts, pair.place), "\n".join(b.texts))


def _of_text(document: Document, cut: float) -> Sides:
    """Cut a text in two where white space is; a text without any is cut between characters."""
    text = document.texts[0].strip()
    if not cut:
        raise ContentError("A is empty: the row is one text, and text_cut is 0", document.place)
    wished = cut * len(text)
    gaps = [(found.start(), found.end()) for found in re.finditer(r"\s+", text)]
    end, start = min(gaps, key=lambda gap: abs(gap[0] - wished)) if gaps else (round(wished), round(wished))
    if not 0 < end <= start < len(text):
        raise ContentError("A is empty: the row is one text, too short to be cut in two", document.place)
    return _checked(Document((Text(text[:end]),), document.place), text[start:])


def _checked(a: Document, b: str) -> Sides:
    if not any(isinstance(part, Image) or part.text.strip() for part in a.parts):
        raise ContentError("A is empty: nothing stands beside the words that are restored", a.place)
    if not b.strip():
        raise ContentError("B is empty: no words to restore", a.place)
    return Sides(a, b)
