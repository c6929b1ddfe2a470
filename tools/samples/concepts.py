"""A concept of the small world, before it becomes a table row: its names, its words, and where its drawings are."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LANGUAGES = ("en", "de", "fr", "es", "it", "pt", "nl", "pl")


@dataclass(frozen=True)
class Drawing:
    """One vector drawing: its source and style, its file, a colour for its strokes, whether its page is cropped.

    `markup` is the drawing itself where it is one of many in a file; `path` then only names it.
    """

    source: str
    style: str
    path: Path
    stroke: str | None = None
    crop: bool = False
    markup: str | None = None

    def read(self) -> str:
        """Return the SVG."""
        return self.path.read_text(encoding="utf-8", errors="replace") if self.markup is None else self.markup


@dataclass
class Concept:
    """One thing that can be drawn and named."""

    id: str
    kind: str
    names: dict[str, str]
    keywords: dict[str, list[str]] = field(default_factory=dict)
    group: str | None = None
    gloss: str | None = None
    facts: dict[str, str] = field(default_factory=dict)
    drawings: list[Drawing] = field(default_factory=list)


def slug(text: str) -> str:
    """Write a name in lower-case ASCII words joined by hyphens, so that names of several sources can be compared."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"[’'“”!]", "", plain.lower())).strip("-")
