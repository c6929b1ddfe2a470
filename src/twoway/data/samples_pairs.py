"""Pairs of the samples: what is asked and what answers it, in several tasks.

Each task is one function: pictures and their names in several languages, definitions, questions about a picture, the same thing in another
style, pages, and texts alone. Rows of one half never show or name a concept of the other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..content import Document, Image, Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..content import Part
    from .samples import World

LANGUAGES = ("en", "de", "fr", "es")
TEXTS = ("definition-term", "name-name")  # tasks without pictures
CALLED = {
    "en": "What is this called in English?", "de": "Wie heißt das auf Deutsch?", "fr": "Comment dit-on cela en français ?",
    "es": "¿Cómo se dice esto en español?",
}  # fmt: skip
STYLED = {
    "flat": "the same in flat colours", "high-contrast": "the same in black and white", "outline": "the same as a line drawing",
    "filled": "the same as a dark shape",
}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A query and the document that answers it."""

    task: str
    query: Document
    positive: Document


def read(world: World, half: str, seed: int) -> Iterator[Pair]:
    """Yield all pairs of one half, in a random order."""
    torn = world.torn()
    drawn = [row for row in world.drawn(half=half) if row["concept"] not in torn]
    found = [
        *names(world, drawn, seed),
        *_definitions(world, drawn, seed),
        *_questions(world, drawn, seed),
        *_flags(world, drawn, seed),
        *_styles(drawn, seed),
        *_pages(world, half, torn),
        *_texts(world, half, seed),
    ]
    random.Random(f"pairs/{half}/{seed}").shuffle(found)
    return iter(found)


def known(world: World, source: str, half: str) -> list[dict[str, Any]]:
    """Return the pictures of a held-out source whose concepts also stand in training styles."""
    trained = {row["concept"] for row in world.drawn()}
    return [row for row in world.drawn(source=source, half=half) if row["concept"] in trained]


def names(world: World, drawn: Iterable[Mapping[str, Any]], seed: int) -> Iterator[Pair]:
    """Yield a picture and its name, both ways, in one language each: English in half of the rows."""
    torn = world.torn()
    for row in drawn:
        if row["concept"] in torn:
            continue
        rng = random.Random(f"names/{seed}/{row['id']}")
        concept = world.concepts[row["concept"]]
        picture = _document(row, Image(row["image"]))
        for task in ("picture-name", "name-picture"):
            language = _language(concept, rng)
            word = _document(row, Text(concept["names"][language]), language=language)
            yield Pair(task, picture, word) if task == "picture-name" else Pair(task, word, picture)


def _definitions(world: World, drawn: Iterable[Mapping[str, Any]], seed: int) -> Iterator[Pair]:
    """Yield a picture and the dictionary's definition of what it shows."""
    for row in drawn:
        gloss = world.concepts[row["concept"]]["gloss"]
        if gloss:
            picture, words = _document(row, Image(row["image"])), _document(row, Text(gloss))
            forth = random.Random(f"definitions/{seed}/{row['id']}").random() < 0.5
            yield Pair("picture-definition", picture, words) if forth else Pair("definition-picture", words, picture)


def _questions(world: World, drawn: Iterable[Mapping[str, Any]], seed: int) -> Iterator[Pair]:
    """Yield a picture with the question what it is called in a language."""
    for row in drawn:
        concept = world.concepts[row["concept"]]
        language = random.Random(f"questions/{seed}/{row['id']}").choice([one for one in LANGUAGES if one in concept["names"]])
        query = _document(row, Image(row["image"]), Text(CALLED[language]), language=language)
        yield Pair("question-name", query, _document(row, Text(concept["names"][language]), language=language))


def _flags(world: World, drawn: Iterable[Mapping[str, Any]], seed: int) -> Iterator[Pair]:
    """Yield a flag with a question about its country; the answer names the country where the fact alone would fit many."""
    for row in drawn:
        concept = world.concepts[row["concept"]]
        name, facts = concept["names"]["en"], concept["facts"]
        if facts.get("capital"):
            query = _document(row, Image(row["image"]), Text("What is the capital of this country?"))
            yield Pair("flag-capital", query, _document(row, Text(facts["capital"])))
        if facts.get("continent"):
            query = _document(row, Image(row["image"]), Text("On which continent is this country?"))
            yield Pair("flag-continent", query, _document(row, Text(f"{name} is in {facts['continent']}")))


def _styles(drawn: Iterable[Mapping[str, Any]], seed: int) -> Iterator[Pair]:
    """Yield a picture with the wish for another style, and the same concept in that style."""
    by_concept: dict[str, list[Mapping[str, Any]]] = {}
    for row in drawn:
        if row["style"] in STYLED:
            by_concept.setdefault(row["concept"], []).append(row)
    for rows in by_concept.values():
        for row in rows:
            others = [other for other in rows if other["style"] != row["style"]]
            if others:
                wished = random.Random(f"styles/{seed}/{row['id']}").choice(others)
                query = _document(row, Image(row["image"]), Text(STYLED[wished["style"]]))
                yield Pair("style", query, _document(wished, Image(wished["image"])))


def _pages(world: World, half: str, torn: set[str]) -> Iterator[Pair]:
    """Yield a page, asked for in words that do not stand on it."""
    for row in world.pages:
        if row["half"] == half and not torn & set(row["concepts"]):
            for language, query in sorted(row["queries"].items()):
                meta = {"id": row["id"], "half": half}
                yield Pair(
                    "page", Document((Text(query),), meta={**meta, "language": language}), Document((Image(row["image"]),), meta=meta)
                )


def _texts(world: World, half: str, seed: int) -> Iterator[Pair]:
    """Yield words alone: a definition and its noun, a name and the same name in another language."""
    torn = world.torn()
    for row in world.texts:
        if row["half"] == half:
            yield Pair("definition-term", _document(row, Text(row["gloss"])), _document(row, Text(row["term"])))
    for key, concept in world.concepts.items():
        others = [
            language for language in LANGUAGES[1:] if concept["names"].get(language, concept["names"]["en"]) != concept["names"]["en"]
        ]
        if concept["half"] == half and key not in torn and others:
            language = random.Random(f"texts/{seed}/{key}").choice(others)
            query, positive = (
                Document((Text(concept["names"][one]),), meta={"concept": key, "half": half, "language": one}) for one in ("en", language)
            )
            yield Pair("name-name", query, positive)


def _document(row: Mapping[str, Any], *parts: Part, **meta: Any) -> Document:
    """Make a document that remembers which row it is of."""
    return Document(parts, meta={"id": row["id"], "concept": row.get("concept"), "half": row["half"], **meta})


def _language(concept: Mapping[str, Any], rng: random.Random) -> str:
    """Choose a language that the concept has a name in: English half of the time."""
    others = [language for language in LANGUAGES[1:] if language in concept["names"]]
    return rng.choice(others) if others and rng.random() < 0.5 else "en"
