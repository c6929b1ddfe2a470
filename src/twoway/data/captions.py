"""Captions of one picture: a pure function of its concept and a random state.

The idea is from a trial of small grounded models: captions that begin with the name, mostly English, with a few keywords, ground a small
model within about a hundred exposures a concept. The shares: name alone 25%, a template 20%, name with one to three keywords 40%, keywords
alone in a shuffled order 15%; 15% of all in another language; of the English ones that have a dictionary gloss, 20% say it after the name.
Flags also say the capital and the continent, so that the base has a chance to know what the questions ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

OTHER_LANGUAGE = 0.15
GLOSS = 0.20
TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": ("a picture of {}", "an image of {}", "this is {}", "{}, a drawing", "here we see {}"),
    "de": ("ein Bild: {}", "hier sieht man: {}", "{}, eine Zeichnung"),
    "fr": ("une image : {}", "on voit ici : {}", "{}, un dessin"),
    "es": ("una imagen: {}", "aquí se ve: {}", "{}, un dibujo"),
}
FLAG_TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": ("the flag of {}", "flag: {}", "this is the flag of {}"),
    "de": ("Flagge: {}", "die Flagge von {}"),
    "fr": ("drapeau : {}", "le drapeau : {}"),
    "es": ("bandera: {}", "la bandera de {}"),
}


def caption(row: Mapping[str, Any], rng: random.Random, *, bare: float = 0.0) -> str:
    """Return one caption of a concept row (`names`, `keywords`, `gloss`, `facts`, `kind`); `bare` is the share of bare names."""
    names: Mapping[str, str] = row["names"]
    if rng.random() < bare:
        return names["en"]
    others = sorted(language for language in names if language != "en" and language in TEMPLATES)
    language = rng.choice(others) if others and rng.random() < OTHER_LANGUAGE else "en"
    name = names[language]
    if language == "en" and row.get("gloss") and rng.random() < GLOSS:
        return f"{name}: {row['gloss']}"
    if language == "en" and row.get("facts") and rng.random() < GLOSS:
        return flag_sentence(name, row["facts"])
    keywords = [word for word in (row.get("keywords") or {}).get(language) or () if word.casefold() != name.casefold()]
    kind = rng.random()
    if kind < 0.25 or (kind >= 0.45 and not keywords):
        return name
    if kind < 0.45:
        templates = FLAG_TEMPLATES if row.get("kind") == "country" else TEMPLATES
        return rng.choice(templates[language]).format(name)
    chosen = rng.sample(keywords, min(len(keywords), rng.randint(1, 3)))
    if kind < 0.85:
        return ", ".join([name, *chosen])
    return _shuffled([name, *chosen], rng)


def flag_sentence(name: str, facts: Mapping[str, str]) -> str:
    """Say what is known of a country, beginning with its name."""
    parts = [f"the flag of {name}"]
    if facts.get("capital"):
        parts.append(f"capital {facts['capital']}")
    if facts.get("continent"):
        parts.append(f"in {facts['continent']}")
    return ", ".join(parts)


def _shuffled(words: Sequence[str], rng: random.Random) -> str:
    """Join words in a random order."""
    return ", ".join(rng.sample(list(words), len(words)))
