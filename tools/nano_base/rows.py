"""Rows: what one row says about its picture, or pictures, as text pieces with and without loss.

A row is a list of parts: `PICTURE`, or a piece of text and whether it is to be learned. Captions begin with the name. What is asked or
shown ends with a line break, as every message does, and only what is said after it is learned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twoway.data.sources.samples import caption

if TYPE_CHECKING:
    import random

    from .table import Concept

PICTURE = None
Part = tuple[str, bool] | None
BREAK: Part = ("\n", False)
WORDS = 24  # of a definition that is to be answered
LANGUAGES = {"de": "German", "fr": "French", "es": "Spanish"}


def caption_row(concept: Concept, rng: random.Random, bare: float) -> list[Part]:
    """Return picture, caption."""
    return [PICTURE, BREAK, (caption(concept, rng, bare=bare), True)]


def question_row(concept: Concept, style: str, rng: random.Random) -> list[Part]:
    """Return picture, question, answer: only the answer is learned."""
    names, facts = concept["names"], concept["facts"]
    asked = [("What is this?", names["en"]), ("Which style is this?", style)]
    asked += [(f"What is this in {word}?", names[language]) for language, word in LANGUAGES.items() if language in names]
    asked += [(f"What is the {fact}?", str(value)) for fact, value in sorted(facts.items())] * 2
    if concept.get("gloss"):
        asked.append(("What does it mean?", concept["gloss"]))
    if concept.get("group"):
        asked.append(("Which group?", str(concept["group"])))
    if words := concept["keywords"].get("en"):
        asked.append(("Which words fit?", ", ".join(rng.sample(words, min(3, len(words))))))
    question, answer = rng.choice(asked)
    return [PICTURE, (f"{question}\n", False), (answer, True)]


def pair_row(first: Concept, second: Concept, rng: random.Random) -> list[Part]:
    """Return two pictures, each followed by its own words."""
    return [PICTURE, BREAK, (f"{caption(first, rng, bare=0.5)}\n", True), PICTURE, BREAK, (caption(second, rng, bare=0.5), True)]


def canvas_row(shown: list[Concept]) -> list[Part]:
    """Return one picture composed of several, and their names in reading order."""
    return [PICTURE, BREAK, ("; ".join(concept["names"]["en"] for concept in shown), True)]


def scene_row(shown: list[Concept], rng: random.Random) -> list[Part]:
    """Return one picture of two rows of two, and a question about who stands beside whom: only the answer is learned."""
    names = [str(concept["names"]["en"]) for concept in shown]
    asked, answer, place = rng.choice(((1, 0, "left of"), (0, 1, "right of"), (2, 0, "above"), (0, 2, "below")))
    if rng.random() < 0.5:  # the other column or row
        step = 2 if place in ("left of", "right of") else 1
        asked, answer = asked + step, answer + step
    return [PICTURE, (f"What is {place} the {names[asked]}?\n", False), (names[answer], True)]


def text_row(concept: Concept, texts: list[str], rng: random.Random, bare: float) -> list[Part]:
    """Return a row without a picture: words answered by a caption, one of the longer texts, or what is said about a concept."""
    if rng.random() < 0.5:
        return words_row(concept, rng, bare)
    if texts and rng.random() < 0.5:
        return [(rng.choice(texts), True)]
    names, words = concept["names"], concept["keywords"].get("en", [])
    said = [f"{names['en']}: {concept['gloss']}"] if concept["gloss"] else []
    said.append(f"{names['en']} goes with {', '.join(rng.sample(words, len(words)))}" if words else caption(concept, rng))
    said += [f"{names['en']} in {word} is {names[language]}" for language, word in LANGUAGES.items() if language in names]
    said += [f"the {fact} of {names['en']} is {value}" for fact, value in sorted(concept["facts"].items())]
    return [(rng.choice(said), True)]


def words_row(concept: Concept, rng: random.Random, bare: float) -> list[Part]:
    """Return words that mean a concept, in any language, and a caption as a picture of it has: the same is to be said of both."""
    words = [word for word in concept["keywords"].get("en", []) if word.casefold() != concept["names"]["en"].casefold()]
    given = [*(name for language, name in concept["names"].items() if language == "en" or language in LANGUAGES), caption(concept, rng)]
    given += [", ".join(rng.sample(words, min(3, len(words))))] if len(words) > 1 else []
    given += [concept["gloss"]] if concept["gloss"] else []
    said = " ".join(rng.choice(given).split(" ")[:WORDS])
    return [(f"{said}\n", False), (caption(concept, rng, bare=bare), True)]
