"""Clip art of openclipart: the source that every stage leaves out, so that a whole source stays unseen.

A drawing stays when its title (in any of our languages: many are Italian) or its file name is the name of a concept, or a drawable
noun of WordNet. Drawings that are not marked as public domain, and the icon themes, letters, stars, flags and patterns, are left out.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from typing import TYPE_CHECKING

from twoway.data.sources.pages import slug

from .concepts import Concept, Drawing
from .wordnet import PHYSICAL
from .words import ICON_NAMES, VAGUE_TITLES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .wordnet import WordNet

LEFT_OUT = re.compile(r"^(computer/icons|shapes|special|signs_and_symbols|logos|buttons)/|theme|games/cards|geography|unsorted/.*flag")
# A title that names the series and not the drawing: then the file name is the better word.
SERIES = re.compile(r"clip ?art|collection|icons|symbols|theme|pieces|\bset\b|series", re.IGNORECASE)
LARGEST = 300_000
MOST_A_CONCEPT = 2
DRAWN = {"animal", "artifact", "food", "plant", "body"}


def read_clipart(folder: Path, wordnet: WordNet, known: Sequence[Concept]) -> list[Concept]:
    """Return concepts with clip art drawings, in order of id; a concept of `known` that is met keeps its id."""
    names = _names(known)
    seen: Counter[str] = Counter()
    found: dict[str, Concept] = {}
    for path in sorted(folder.rglob("*.svg")):
        place = path.relative_to(folder).as_posix()
        if LEFT_OUT.search(place) or path.stat().st_size > LARGEST:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if not _is_public_domain(text):
            continue
        spoken = next((name for title in _titles(text, path.stem) if (name := _name(title, names, wordnet))), None)
        if spoken is None or seen[slug(spoken)] >= MOST_A_CONCEPT:
            continue
        seen[slug(spoken)] += 1
        concept = found.setdefault(slug(spoken), Concept(slug(spoken), "clipart", {"en": spoken}, group=place.split("/")[0]))
        concept.drawings.append(Drawing("openclipart", "clipart", path, crop=True))
    return [found[key] for key in sorted(found)]


def _is_public_domain(text: str) -> bool:
    """Say whether the drawing's own metadata gives it to the public domain, and names no other licence."""
    return "cc/PublicDomain" in text and not re.search(r"licenses/(GPL|by)|General Public", text, re.IGNORECASE)


def _titles(text: str, stem: str) -> list[str]:
    """Return what the drawing may be called: its title, then its file name, without numbers and without the artist's name."""
    match = re.search(r"<dc:title>(.*?)</dc:title>", text, re.DOTALL)
    title = html.unescape(match[1]) if match else ""
    words = [title, title.split("(")[0]]
    if not title or SERIES.search(title):
        words.append(re.split(r"[_\d.]", stem)[0])
    cleaned = [re.sub(r"[\s_-]*\d+$", "", re.sub(r"_", " ", word.strip())).strip() for word in words]
    return [word.lower() for word in cleaned if 2 < len(word) < 30 and "clipart" not in word.lower()]


def _names(known: Sequence[Concept]) -> Mapping[str, str]:
    """Return slug of a name in any language -> English name of the concept; English wins where two languages disagree."""
    names = {slug(name): concept.names["en"] for concept in known for name in concept.names.values()}
    names.update({slug(concept.names["en"]): concept.names["en"] for concept in known})
    return {key: name for key, name in names.items() if len(key) > 2}


def _name(title: str, names: Mapping[str, str], wordnet: WordNet) -> str | None:
    """Return the English name that a title stands for."""
    title = ICON_NAMES.get(title, title)
    if slug(title) in names:
        return names[slug(title)]
    senses = wordnet.senses(title)
    return title if senses and title not in VAGUE_TITLES and PHYSICAL.get(senses[0].lexfile) in DRAWN else None
