"""A concept of the small world, before it becomes a table row: its names, its words, and where its drawings are."""

from __future__ import annotations

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
