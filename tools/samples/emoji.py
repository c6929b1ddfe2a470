"""Emoji: drawings of fluentui-emoji in three styles, names and keywords of CLDR in several languages.

Dropped are skin tones, gendered variants that have a neutral sibling, clock faces, keycaps, and whatever CLDR's base annotations do
not name (families and couples among them).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from twoway.data.sources.pages import slug

from .concepts import LANGUAGES, Concept, Drawing

if TYPE_CHECKING:
    from pathlib import Path

STYLES = ("flat", "modern", "high-contrast")
TONES = re.compile(r"-(light|medium-light|medium|medium-dark|dark)$")
DROPPED = re.compile(r"oclock|thirty$|keycap|family|couple|^kiss-|skin-tone|input|^(wo)?men-|japanese-.*-button|with-bunny-ears|^flag-")


def read_emoji(fluent: Path, cldr: Path) -> list[Concept]:
    """Return one concept for each emoji with a drawing and a name, in order of id."""
    annotations = {language: _annotations(cldr, language) for language in LANGUAGES}
    characters = characters_by_name(cldr)
    files = {style: {path.stem: path for path in sorted((fluent / "icons" / style).glob("*.svg"))} for style in STYLES}
    concepts = []
    for name, stem in sorted(_untoned(set(files["flat"])).items()):
        character = characters.get(name)
        if character is None or DROPPED.search(name) or _has_neutral(name, characters):
            continue
        entries = {language: table[character] for language, table in annotations.items() if "tts" in table.get(character, {})}
        concepts.append(
            Concept(
                id=name,
                kind="emoji",
                names={language: entry["tts"][0] for language, entry in entries.items()},
                keywords={language: list(entry.get("default", ())) for language, entry in entries.items()},
                drawings=[Drawing("fluentui-emoji", style, files[style][stem]) for style in STYLES if stem in files[style]],
            )
        )
    return concepts


def characters_by_name(cldr: Path) -> dict[str, str]:
    """Return slug of the English name -> character, the first character of a name."""
    return {slug(entry["tts"][0]): character for character, entry in reversed(_annotations(cldr, "en").items()) if "tts" in entry}


def _annotations(cldr: Path, language: str) -> dict[str, dict[str, list[str]]]:
    """Read the annotations of one language: character -> {"default": keywords, "tts": [name]}."""
    content: dict[str, Any] = json.loads((cldr / "annotations" / language / "annotations.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, list[str]]] = content["annotations"]["annotations"]
    return found


def _untoned(stems: set[str]) -> dict[str, str]:
    """Return name -> file stem, one for each emoji: the default tone where there are tones."""
    found = {}
    for stem in stems:
        toned = TONES.search(stem) and TONES.sub("", stem) + "-default" in stems
        if not toned:
            found[stem.removesuffix("-default")] = stem
    return found


def _has_neutral(name: str, names: dict[str, str]) -> bool:
    """Say whether `name` is the gendered variant of a neutral emoji."""
    match = re.match(r"(?:wo)?man-(.+)", name)
    return match is not None and (f"person-{match[1]}" in names or match[1] in names or match[1] in ("dancing", "feeding-baby"))
