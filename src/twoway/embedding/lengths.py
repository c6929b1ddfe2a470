"""How many tokens a document becomes, before its pictures are decoded: words by the tokenizer, pictures by the size in their headers.

Lengths only decide which rows share a batch, so what a template adds (the same for all) is left out, and where a processor does not say
how many tokens a picture gets, its area stands for them.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ..images import image_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..content import Document
    from ..images import Limits

# A picture of this many pixels counts as one token where nothing better is known; no family packs more into one.
_PIXELS_A_TOKEN = 28 * 28
_CHARACTERS_A_TOKEN = 4
# Text beyond this many characters a token of the longest row is cut by the model, and no tokenizer sees it.
_MOST = 32


class Lengths:
    """Counts tokens for one model."""

    def __init__(self, processor: Any, longest: int | None) -> None:
        tokenizer = getattr(processor, "tokenizer", processor)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.longest = longest if longest and longest < 1 << 20 else None
        self.backend: Any = copy.deepcopy(backend)  # its own, because the other's settings change with every call
        if self.backend is not None:
            self.backend.no_padding()
            self.backend.no_truncation()
        self.cuts_the_end = getattr(tokenizer, "truncation_side", "right") == "right"
        self.processor = processor
        self.pictures: dict[tuple[int, int], float] = {}

    def words(self, texts: Sequence[str]) -> list[tuple[float, int | None]]:
        """Return of each text its tokens, counted up to one more than the longest row, and how many characters a tokenizer need see.

        That is a number only where the model cuts the text anyway, and what is left of it is more than the model reads.
        """
        if self.backend is None:
            longest = float("inf") if self.longest is None else self.longest + 1.0
            return [(min(len(text) / _CHARACTERS_A_TOKEN, longest), None) for text in texts]
        if self.longest is None:
            return [(float(count), None) for count in self._count(texts)]
        found: dict[int, tuple[float, int | None]] = {}
        left, most = list(range(len(texts))), self.longest * _MOST
        while left:
            # Of a long text the white space in front does not count: some templates take it away.
            ends = {number: most + _blank(texts[number]) for number in left}
            pieces = [
                texts[number] if ends[number] >= len(texts[number]) else texts[number][ends[number] - most : ends[number]]
                for number in left
            ]
            for number, count in zip(left, self._count(pieces), strict=True):
                if count > self.longest:
                    # One more than the longest row stands for all that is cut, so that a text which fits is told from one that does not.
                    found[number] = (self.longest + 1.0, ends[number] if self.cuts_the_end and ends[number] < len(texts[number]) else None)
                elif ends[number] >= len(texts[number]):
                    found[number] = (float(count), None)
            left, most = [number for number in left if number not in found], most * 8  # tokens are long there
        return [found[number] for number in range(len(texts))]

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [len(encoding) for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def images(self, document: Document, limits: Limits) -> float:
        """Return the tokens of a document's pictures; a picture whose header cannot be read is an error of its row."""
        return sum(self._picture(image_size(image, place=document.place, limits=limits)) for image in document.images)

    def _picture(self, size: tuple[int, int]) -> float:
        found = self.pictures.get(size)
        if found is None:
            if len(self.pictures) > 1 << 16:
                self.pictures.clear()  # which another thread may do at any time
            found = self.pictures[size] = self._ask(size)
        return found

    def _ask(self, size: tuple[int, int]) -> float:
        width, height = size
        try:
            said = self.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
            return float(said["num_image_tokens"][0])
        except (AttributeError, NotImplementedError, KeyError, TypeError, IndexError):
            return width * height / _PIXELS_A_TOKEN


def _blank(text: str) -> int:
    return len(text) - len(text.lstrip())
