"""Icons of tabler: line drawings and filled ones, of those that name a thing which can be drawn.

An icon stays when its whole name is an emoji's name, or a noun that has a drawable sense in WordNet, or when `words.yaml` names it.
Variants (`-off`, `-2`, `-filled`) and the categories that hold signs, letters and arrows are left out: a concept needs some hundred
exposures to be learnt.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from twoway.data.sources.pages import slug

from .concepts import Concept, Drawing
from .words import ICON_NAMES, ICONS_LEFT_OUT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from .wordnet import WordNet

LEFT_OUT = {"Brand", "Letters", "Numbers", "Arrows", "Version control", "Extensions", "Currencies", "Text", "Logic", "Gender", "Zodiac"}
PREFIXES = re.compile(r"^(building|device)-(?=[a-z])")
STROKE = "#1f2937"


def read_tabler(folder: Path, wordnet: WordNet, known: Collection[str]) -> list[Concept]:
    """Return a concept for each icon that names a drawable thing, in order of id; `known` are ids of other sources."""
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    found: dict[str, Concept] = {}
    for icon, entry in sorted(icons.items()):
        tags = [str(tag).replace("-", " ") for tag in entry["tags"]]
        spoken = _spoken(icon, entry, icons, wordnet, known)
        if not spoken or slug(spoken) in found:
            continue
        paths = ((style, folder / "icons" / style / f"{icon}.svg") for style in ("outline", "filled"))
        found[slug(spoken)] = Concept(
            id=slug(spoken),
            kind="icon",
            names={"en": spoken},
            keywords={"en": [tag for tag in tags if slug(tag) != slug(spoken)]},
            group=entry["category"].lower(),
            drawings=[Drawing("tabler-icons", style, path, STROKE) for style, path in paths if path.exists()],
        )
    return [found[name] for name in sorted(found)]


def _spoken(icon: str, entry: Mapping[str, Any], icons: Collection[str], wordnet: WordNet, known: Collection[str]) -> str | None:
    """Return what the icon is called in English, or None where it is left out."""
    if icon in ICON_NAMES:
        return ICON_NAMES[icon]
    name = PREFIXES.sub("", icon)
    turned = name != icon and name in icons
    if turned or name in ICONS_LEFT_OUT or entry["category"] in LEFT_OUT or re.search(r"\d|-off$|-filled$", name):
        return None
    spoken = ICON_NAMES.get(name, name.replace("-", " "))
    return spoken if slug(spoken) in known or wordnet.physical(spoken, entry["tags"]) else None
