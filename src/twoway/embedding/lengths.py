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
# Text beyond this many characters a token of the longest row is cut by the model, and is not even looked at.
_MOST = 32


class Lengths:
    """Counts tokens for one model."""

    def __init__(self, processor: Any, longest: int | None) -> None:
        tokenizer = getattr(processor, "tokenizer", processor)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.longest = longest if longest and longest < 1 << 20 else None
        self.backend = copy.deepcopy(backend)  # its own, because the other's settings change with every call
        if self.backend is not None:
            self.backend.no_padding()
            self.backend.no_truncation()
        self.processor = processor
        self.pictures: dict[tuple[int, int], float] = {}

    def words(self, texts: Sequence[str]) -> list[float]:
        """Return the tokens of texts, counted up to one more than the longest row."""
        most = None if self.longest is None else self.longest * _MOST
        cut = [text[:most] for text in texts]
        if self.backend is None:
            found = [len(text) / _CHARACTERS_A_TOKEN for text in cut]
        else:
            found = [float(len(encoding)) for encoding in self.backend.encode_batch_fast(cut, add_special_tokens=False)]
        # One more than the longest row stands for all that is cut, so that a text which fits is told from one that does not.
        return found if self.longest is None else [min(one, self.longest + 1.0) for one in found]

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
