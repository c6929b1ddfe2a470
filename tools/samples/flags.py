"""Countries: flags, capitals and continents of flag-icons, names of CLDR in several languages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from twoway.data.sources.pages import slug

from .concepts import LANGUAGES, Concept, Drawing

if TYPE_CHECKING:
    from pathlib import Path

FLAG = {
    "en": "flag", "de": "Flagge", "fr": "drapeau", "es": "bandera", "it": "bandiera", "pt": "bandeira", "nl": "vlag", "pl": "flaga",
}  # fmt: skip
# Territories that fly the flag of another country: their drawing cannot tell them from it.
SAME_FLAG = {"BV", "SJ", "HM", "UM", "MF", "BL", "GP", "RE", "YT", "PM", "GF", "WF", "SH", "NC", "BQ", "DG", "AC", "TA", "CP", "EA", "IC"}


def read_flags(flags: Path, localenames: Path) -> list[Concept]:
    """Return a concept for each country that has a flag of its own and a name in CLDR, in order of id."""
    names = {language: _territories(localenames, language) for language in LANGUAGES}
    found = []
    for entry in json.loads((flags / "country.json").read_text(encoding="utf-8")):
        code = entry["code"].upper()
        if code in SAME_FLAG or code not in names["en"]:
            continue
        facts = {key: entry[key] for key in ("capital", "continent") if entry.get(key)}
        found.append(
            Concept(
                id=f"flag-{slug(names['en'][code])}",
                kind="country",
                names={language: table[code] for language, table in names.items() if code in table},
                keywords={language: [word, *facts.values()] if language == "en" else [word] for language, word in FLAG.items()},
                group=entry.get("continent", "").lower() or None,
                facts=facts,
                drawings=[Drawing("flag-icons", "flag", flags / "flags" / "4x3" / f"{entry['code']}.svg")],
            )
        )
    return sorted(found, key=lambda concept: concept.id)


def _territories(localenames: Path, language: str) -> dict[str, str]:
    """Read the names of countries in one language: code -> name."""
    content: dict[str, Any] = json.loads((localenames / "main" / language / "territories.json").read_text(encoding="utf-8"))
    found: dict[str, str] = content["main"][language]["localeDisplayNames"]["territories"]
    return found
