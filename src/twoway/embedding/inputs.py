"""Documents as sentence-transformers takes them, its kinds of input never mixed in one call.

What a part is follows from the document alone. sentence-transformers would open a bare string that looks like a URL or a path as a picture,
so a text reaches it inside a chat message, or as `{"text": …}` where a model takes none. Chat messages that share a call with other kinds
are dropped by it without a word, so everything is a message or nothing is; and rows with pictures never share a call with rows without,
because some processors then write a text differently (PaliGemma's), and because text needs no tower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..content import ContentError, Text
from ..images import DEFAULT, open_document

if TYPE_CHECKING:
    from ..content import Document
    from ..images import Limits


class Inputs:
    """Shapes documents for one model."""

    def __init__(self, sentence: Any, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.modalities = set(sentence.modalities)
        self.pictures = any("image" in (kind if isinstance(kind, tuple) else (kind,)) for kind in self.modalities)
        self.messages = "message" in self.modalities
        self.formatter: Any = getattr(sentence[0], "input_formatter", None)

    def kind(self, document: Document) -> str:
        """Return the kind of input that a document becomes; inputs of one kind may share a call."""
        pictures, texts = len(document.images), len(document.texts)
        if self.messages:
            if pictures and not self.pictures:
                raise ContentError("this model takes no pictures, text alone", document.place)
            return "messages with pictures" if pictures else "messages"
        if not pictures:
            return "text"
        if not self.pictures:
            raise ContentError("this model takes no pictures, text alone", document.place)
        if not texts and pictures == 1:
            return "image"
        if self.formatter is not None and ("image", "text") in self.modalities and pictures == 1 and texts == 1:
            return "image and text"
        raise ContentError("this model takes one picture or one text, and no documents of several parts", document.place)

    def __call__(self, document: Document) -> Any:
        """Return what sentence-transformers is given, the pictures decoded."""
        if not document.images:
            # Parts follow each other as they do in a chat template that writes contents and nothing else.
            text = {"text": "".join(document.texts)}
            if self.formatter is None:
                return text["text"]  # static vectors and the like take strings, and take them for text
            if not self.messages:
                return text
            if len(document.texts) == 1 or not self._structured():
                return self.formatter.to_message(text)
        opened = open_document(document, limits=self.limits)
        if self.messages:
            parts = [{"type": "text", "text": part.text} if isinstance(part, Text) else _picture(part.source) for part in opened.parts]
            return [{"role": "user", "content": parts}]
        named = {"image": opened.images[0].source, **({"text": opened.texts[0]} if opened.texts else {})}
        return named if opened.texts else named["image"]

    def _structured(self) -> bool:
        return self.formatter is not None and self.formatter.message_format == "structured"


def _picture(source: Any) -> dict[str, Any]:
    return {"type": "image", "image": source}
