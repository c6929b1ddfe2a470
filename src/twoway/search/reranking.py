"""The second step of a search: the best hits are read together with the question by a reranker, which puts them into a new order.

A reranker reads what an item is, not its vector: the page or the picture as it was indexed, where its file is still there, and else the
text and the small picture that the index keeps. An item that cannot be read stands behind those that can, in the order it was found in.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from twoway.content import ContentError, Document, Image, Place, Text
from twoway.data.rows import ReadOptions
from twoway.data.sources.pdf import page
from twoway.images import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from twoway.content import Part
    from twoway.embedding.reranker import Reranker

    from .store import Hit, Item


def rerank_hits(reranker: Reranker, query: Document, hits: Sequence[Hit]) -> list[Hit]:
    """Return the hits in the reranker's order, each with its score there and the place that it had before."""
    documents = [readable_document(hit.item) for hit in hits]
    scores: list[float | None] = [None] * len(hits)
    there = [number for number, document in enumerate(documents) if document is not None]
    pairs = [(query, document) for document in documents if document is not None]
    for number, score in reranker.scores(pairs, refuse=lambda *_: None):
        scores[there[number]] = reranker.relevance(score)
    return order_hits(hits, scores)


def order_hits(hits: Sequence[Hit], scores: Sequence[float | None]) -> list[Hit]:
    """Return hits by their new scores; those that have none stand behind, in the order they were found in."""
    scored = [replace(hit, relevance=score, place_before=number) for number, (hit, score) in enumerate(zip(hits, scores, strict=True), 1)]
    return sorted(scored, key=lambda hit: (hit.relevance is None, -(hit.relevance or 0.0)))


def readable_document(item: Item) -> Document | None:
    """Return what a reranker reads of an item, or nothing where it cannot be read."""
    try:
        return item_document(item)
    except ContentError:
        return None


def item_document(item: Item) -> Document:
    """Return what a reranker reads of an item."""
    place = Place(item.place or item.id)
    if (where := pdf_page(item)) is not None and where[0].is_file():
        return page(where[0], where[1] - 1, place, ReadOptions())
    parts: list[Part] = []
    if is_picture_file(item):
        parts.append(Image(Path(item.place)))
    elif item.thumbnail is not None:
        parts.append(Image(item.thumbnail))
    if item.text.strip():
        parts.append(Text(item.text))
    if not parts:
        raise ContentError("the index keeps neither a text nor a picture of it", place)
    return Document(tuple(parts), place)


def pdf_page(item: Item) -> tuple[Path, int] | None:
    """Return file and number of the PDF page that an item is; nothing for any other.

    The place is what `twoway index` writes and no request can: metadata alone, which one can, names no file.
    """
    file, number = item.metadata.get("file"), item.metadata.get("page")
    if not isinstance(file, str) or not isinstance(number, int) or number < 1 or item.place != str(Place(file, number, "page")):
        return None
    return (Path(file), number) if file.lower().endswith(".pdf") else None


def is_picture_file(item: Item) -> bool:
    """Say whether an item is a file of a picture that is still there; as of a page, its place says so."""
    return item.place.lower().endswith(SUFFIXES) and Path(item.place).is_file()
