"""WordNet's nouns: senses in order of use, with their kind of thing (lexicographer file) and their gloss."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

# Lexicographer files of nouns that can be drawn; numbers from lexnames(5WN).
PHYSICAL = {
    5: "animal",
    6: "artifact",
    8: "body",
    13: "food",
    17: "object",
    18: "person",
    19: "phenomenon",
    20: "plant",
    25: "shape",
    27: "substance",
}
LONGEST_GLOSS = 160
RUDE = re.compile(r"disparag|offensive|vulgar|slang|obscen|ethnic|derogat")


@dataclass(frozen=True)
class Sense:
    """One meaning of a noun."""

    words: tuple[str, ...]
    lexfile: int
    gloss: str
    above: str | None = None


class WordNet:
    """All nouns of the database, by lemma."""

    def __init__(self, folder: Path) -> None:
        """Read `index.noun` and `data.noun` below `folder`."""
        self._senses = dict(_read_senses(folder / "data.noun"))
        self._index: dict[str, list[str]] = {}
        for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):
                lemma, _, *rest = line.split()
                count = int(rest[0])
                self._index[lemma] = rest[-count:]

    def senses(self, name: str) -> list[Sense]:
        """Return the senses of a name, the most used first; proper names are left out."""
        lemma = re.sub(r"[ -]+", "_", name.lower())
        found = [self._senses[offset] for offset in self._index.get(lemma, ())]
        return [sense for sense in found if lemma in sense.words]

    def physical(self, name: str, hints: Collection[str] = ()) -> Sense | None:
        """Return the sense that a drawing of `name` most plausibly shows, or None where its first sense is nothing to draw.

        Of the physical senses the one wins whose kind is among `hints` and whose gloss shares most words with them; among equals
        the more used one.
        """
        senses = self.senses(name)
        physical = [sense for sense in senses if sense.lexfile in PHYSICAL and not RUDE.search(sense.gloss)]
        if not physical:
            return None
        wanted = {word for hint in hints for word in hint.lower().split() if len(word) > 3} - set(name.lower().split())
        scores = [_fit(sense, wanted) - 0.7 * rank for rank, sense in enumerate(physical)]
        best = physical[scores.index(max(scores))]
        return best if _fit(best, wanted) > 0 or senses[0] in physical else None

    def above(self, sense: Sense) -> Sense | None:
        """Return the kind of thing that a sense is one of."""
        return self._senses.get(sense.above or "")

    def common(self) -> Iterator[tuple[str, Sense]]:
        """Yield each lower-case noun with its first sense, in order of the noun."""
        for lemma, offsets in sorted(self._index.items()):
            sense = self._senses[offsets[0]]
            if lemma in sense.words:
                yield lemma.replace("_", " "), sense


def _fit(sense: Sense, wanted: Collection[str]) -> int:
    """Count how well a sense fits the wanted words: its kind counts twice, and a person fits worse where none is wanted."""
    kind = PHYSICAL[sense.lexfile]
    shared = len(set(wanted) & set(re.findall(r"[a-z]+", sense.gloss.lower())))
    return shared + 2 * (kind in wanted) - (kind == "person" and "person" not in wanted)


def _read_senses(path: Path) -> list[tuple[str, Sense]]:
    """Read the synsets of one data file, each with the offset of the kind above it."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        head, _, gloss = line.partition(" | ")
        offset, lexfile, _, count, *rest = head.split()
        words = tuple(rest[2 * i] for i in range(int(count, 16)))
        pointers = rest[2 * len(words) + 1 :]
        above = next((pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] == "@"), None)
        found.append((offset, Sense(words, int(lexfile), shorten(gloss), above)))
    return found


def shorten(gloss: str) -> str:
    """Keep a gloss's definition: no quoted examples, no remarks in brackets at its start, not longer than a sentence."""
    text = re.sub(r"^\([^)]*\)\s*", "", re.split(r';\s*"', gloss.strip())[0].strip())
    while len(text) > LONGEST_GLOSS and ";" in text:
        text = text.rpartition(";")[0].strip()
    return text
