"""Text-only paragraphs: what a noun means, from WordNet's glosses, with the kind of thing that it is and its other names.

Things that can be drawn are preferred, and among them the nouns of the pictures, then short ones. A noun that names a concept belongs to
that concept's half, so that no definition tells the other half's answer.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from twoway.data.sources.pages import slug

from .split import core, half
from .wordnet import PHYSICAL, RUDE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .wordnet import Sense, WordNet

TEXTS = 12_000
SHORTEST = 12
ARTICLE = re.compile(r"^(a|an|the|any|one|some|someone|something|either|each) ")


def text_rows(wordnet: WordNet, concept_rows: Iterable[Mapping[str, Any]], count: int = TEXTS) -> list[dict[str, Any]]:
    """Return the rows of `texts`: one meaning each, `count` of them."""
    halves = {core(slug(row["names"]["en"])): row["half"] for row in concept_rows}
    # By gloss and not by sense: a few senses share one ("a variety of aster"), and no two rows may ask the same.
    found: dict[str, tuple[tuple[bool, bool, bool, str], str, Sense, str]] = {}
    for term, sense in wordnet.common():
        keys = [core(slug(word)) for word in (term, *sense.words)]
        drawn = {halves[key] for key in keys if key in halves}
        # Synonyms that are concepts of both halves would tell one half's answer to the other.
        if len(drawn) > 1 or not _wanted(term, sense, bool(drawn)):
            continue
        order = (keys[0] not in halves, term.count(" ") > 1, len(term) > 14, hashlib.sha256(term.encode()).hexdigest())
        if sense.gloss not in found or order < found[sense.gloss][0]:
            found[sense.gloss] = (order, term, sense, drawn.pop() if drawn else half(core(slug(sense.words[0]))))
    chosen = sorted(found.values(), key=lambda one: one[0])[:count]
    rows = {
        f"wordnet/{slug(term)}": {
            "text": paragraph(term, sense, wordnet),
            "term": term,
            "gloss": sense.gloss,
            "half": which,
            "source": "wordnet-base",
        }
        for _, term, sense, which in chosen
    }
    return [{"id": key, **row} for key, row in sorted(rows.items())]


def _wanted(term: str, sense: Sense, drawn: bool) -> bool:
    """Say whether a noun is worth a text: a thing that can be drawn, with a real gloss; of persons only those with pictures."""
    if RUDE.search(sense.gloss) or len(sense.gloss) < SHORTEST or re.search(r"\d|\.", term):
        return False
    return drawn or PHYSICAL.get(sense.lexfile, "person") != "person"


def paragraph(term: str, sense: Sense, wordnet: WordNet) -> str:
    """Say in one to three sentences what a noun means."""
    start = f"{_article(term)} {term} is {sense.gloss}." if ARTICLE.match(sense.gloss) else f"{_upper(term)}: {sense.gloss}."
    sentences = [start]
    above = wordnet.above(sense)
    if above is not None:
        kind = above.words[0].replace("_", " ")
        sentences.append(f"It is a kind of {kind}.")
    others = [word.replace("_", " ") for word in sense.words if word.replace("_", " ").lower() != term]
    if others:
        sentences.append(f"It is also called {' or '.join(others[:2])}.")
    return " ".join(sentences)


def _article(term: str) -> str:
    """Return the indefinite article that goes before a noun, by its first letter."""
    return "An" if term[0] in "aeiou" else "A"


def _upper(term: str) -> str:
    """Write the first letter large."""
    return term[0].upper() + term[1:]
