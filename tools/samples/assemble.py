"""From sources to rows: one concept over all sources, its pictures drawn, duplicates dropped, clusters and halves given."""

from __future__ import annotations

import logging
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from twoway.data.sources.pages import decode
from twoway.data.sources.samples import HELD_SOURCES, HELD_STYLES
from twoway.errors import TwowayError

from .render import encode, render
from .split import Look, cluster, half, look, near
from .wordnet import PHYSICAL
from .words import GLOSS_HOLDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .concepts import Concept, Drawing
    from .wordnet import WordNet

logger = logging.getLogger(__name__)
MOST_KEYWORDS = 12


class Picture(NamedTuple):
    """One drawn picture of a concept."""

    concept: str
    source: str
    style: str
    image: bytes
    look: Look


def merge(sources: Iterable[Sequence[Concept]]) -> dict[str, Concept]:
    """Join the concepts of all sources by id; the earlier source's names and kind win, drawings and keywords add up."""
    merged: dict[str, Concept] = {}
    for concepts in sources:
        for concept in concepts:
            first = merged.setdefault(concept.id, concept)
            if first is concept:
                continue
            first.drawings.extend(concept.drawings)
            for language, words in concept.keywords.items():
                have = first.keywords.setdefault(language, [])
                have.extend([word for word in words if word.casefold() not in {one.casefold() for one in have}][:4])
    return merged


def gloss(concepts: Iterable[Concept], wordnet: WordNet) -> None:
    """Give each concept its dictionary definition, and the kind of thing as its group where the source has none."""
    for concept in concepts:
        sense = None if concept.kind == "country" else wordnet.physical(concept.names["en"], concept.keywords.get("en", ()))
        if sense is not None and concept.id in GLOSS_HOLDS:
            wanted = GLOSS_HOLDS[concept.id]
            sense = next((one for one in wordnet.senses(concept.names["en"]) if wanted and wanted in one.gloss), None)
        if sense is not None:
            concept.gloss = sense.gloss
            concept.group = concept.group or PHYSICAL.get(sense.lexfile)


def draw(concepts: Iterable[Concept], workers: int) -> list[Picture]:
    """Draw every drawing; one that cannot be drawn is left out and said."""
    jobs = [(concept.id, drawing) for concept in concepts for drawing in concept.drawings]
    with ProcessPoolExecutor(workers) as pool:
        drawn = list(pool.map(_draw, [drawing for _, drawing in jobs], chunksize=16))
    pictures = []
    for (concept, drawing), one in zip(jobs, drawn, strict=True):
        if isinstance(one, str):
            logger.info("left out: %s", one)
        else:
            pictures.append(Picture(concept, drawing.source, drawing.style, *one))
    return pictures


def _draw(drawing: Drawing) -> tuple[bytes, Look] | str:
    """Draw one picture in a worker, or return why not."""
    try:
        image = encode(render(drawing))
    except TwowayError as error:
        return str(error)
    return image, look(decode(image))


def without_duplicates(pictures: Sequence[Picture], near_pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return which pictures stay: none whose bytes an earlier concept has, nor a second near-equal one of one concept and style."""
    owner: dict[bytes, str] = {}
    gone = set()
    for index, picture in enumerate(pictures):
        if owner.setdefault(picture.image, picture.concept) != picture.concept:
            gone.add(index)
    for first, second in near_pairs:
        one, other = pictures[first], pictures[second]
        if first not in gone and (one.concept, one.style) == (other.concept, other.style):
            gone.add(second)
    return [index for index in range(len(pictures)) if index not in gone]


def rows(concepts: dict[str, Concept], pictures: Sequence[Picture]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of `pictures` and of `concepts`; a concept without a picture is left out."""
    pairs = near([picture.look for picture in pictures])
    kept = without_duplicates(pictures, pairs)
    alike = {(pictures[one].concept, pictures[other].concept) for one, other in pairs}
    stay = {pictures[index].concept for index in kept}
    names = {key: {concepts[key].names["en"], key} for key in stay}
    clusters = cluster(names, [pair for pair in sorted(alike) if set(pair) <= stay])
    count: Counter[str] = Counter()
    picture_rows = []
    for picture in (pictures[index] for index in kept):
        base = f"{picture.concept}/{picture.style}"
        count[base] += 1
        number = f"-{count[base]}" if count[base] > 1 else ""
        picture_rows.append({**picture._asdict(), "id": base + number, "half": half(clusters[picture.concept])})
    concept_rows = [
        {
            "concept": key,
            "cluster": clusters[key],
            "half": half(clusters[key]),
            "kind": concept.kind,
            "group": concept.group,
            "names": concept.names,
            "keywords": {language: words[:MOST_KEYWORDS] for language, words in concept.keywords.items()},
            "gloss": concept.gloss,
            "facts": concept.facts,
        }
        for key, concept in sorted(concepts.items())
        if key in stay
    ]
    return sorted(picture_rows, key=lambda row: str(row["id"])), concept_rows


def twins(picture_rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the pictures of the held-out styles that look nearly like one in a training style: as tests of style they say nothing."""
    shown = [row for row in picture_rows if row["source"] not in HELD_SOURCES]
    found = set()
    for pair in near([row["look"] for row in shown]):
        held = [shown[place] for place in pair if shown[place]["style"] in HELD_STYLES]
        if len(held) == 1:
            found.add(str(held[0]["id"]))
    return sorted(found)
