"""What an item is, read again: by a reranker, which puts the best hits into a new order, or to say what in it was found.

An index keeps vectors, texts and small pictures. What else an item is lies in its file: the page of a PDF, the picture, the frames of a
video, the sound. Where the file is gone, or a reranker takes no such thing, the small picture stands for it, and the hit says so
(`Hit.by_thumbnail`). An item that cannot be read stands behind those that can, in the order it was found in.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from twoway.content import Audio, CandidatePair, ContentError, Document, Image, Place, Text, Video, recording_at
from twoway.data.rows import ReadOptions
from twoway.data.sources.pdf import page
from twoway.images import SUFFIXES

from .pictures import differs

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from twoway.content import Part
    from twoway.embedding.explain import Explainer, Why, WhyInTime
    from twoway.embedding.reranker import Reranker
    from twoway.limits import Limits
    from twoway.recordings import Recording

    from .store import Hit, Item

_FULL = 0.9  # of a reranker's longest row, which its template has the rest of


class ReadItem(NamedTuple):
    """What a reranker reads of an item, and whether that is the small picture in place of what the item is."""

    document: Document
    by_thumbnail: bool = False


def rerank_hits(reranker: Reranker, query: Document, hits: Sequence[Hit]) -> list[Hit]:
    """Return the hits in the reranker's order, each with its score there and the place that it had before."""
    read = [read_item(reranker, query, hit.item) for hit in hits]
    scores: list[float | None] = [None] * len(hits)
    there = [number for number, one in enumerate(read) if one is not None]
    pairs = [(query, one.document) for one in read if one is not None]
    for number, score in reranker.scores(pairs, refuse=lambda *_: None):
        scores[there[number]] = reranker.relevance(score)
    return order_hits(hits, read, scores)


def order_hits(hits: Sequence[Hit], read: Sequence[ReadItem | None], scores: Sequence[float | None]) -> list[Hit]:
    """Return hits by their new scores; those that have none stand behind, in the order they were found in."""
    scored = [
        replace(hit, relevance=score, place_before=number, by_thumbnail=one is not None and one.by_thumbnail)
        for number, (hit, one, score) in enumerate(zip(hits, read, scores, strict=True), 1)
    ]
    return sorted(scored, key=lambda hit: (hit.relevance is None, -(hit.relevance or 0.0)))


def read_item(reranker: Reranker, query: Document, item: Item) -> ReadItem | None:
    """Return what a reranker reads of an item, as far as it takes what the item is; nothing where it cannot be read."""
    place, takes = Place(item.place or item.id), reranker.inputs.single
    words = [Text(item.text)] if item.text.strip() else []
    recording = recording_at(item.media)
    try:
        if "image" in takes and (where := pdf_page(item)) is not None and where[0].is_file():
            return ReadItem(page(where[0], where[1] - 1, place, ReadOptions(limits=reranker.settings.limits)))
        if recording is not None and recording.modality in takes:
            fitted = _fitted(reranker, query, Document((recording, *words), place))
            if fitted is not None:
                return ReadItem(fitted)
    except ContentError:
        return None
    shown: list[Part] = []
    if "image" in takes and is_picture_file(item):
        shown.append(Image(Path(item.place)))
    elif "image" in takes and item.thumbnail is not None and not isinstance(recording, Audio):  # that of a sound shows how loud it is
        shown.append(Image(item.thumbnail))
    if not shown and not words:
        return None
    return ReadItem(Document((*shown, *words), place), by_thumbnail=bool(shown) and not is_picture_file(item))


def _fitted(reranker: Reranker, query: Document, document: Document) -> Document | None:
    """Return a document with as many frames of its video as the reranker's rows have room for; nothing where its file cannot be read."""
    from twoway.embedding.embedder import make_items

    frames, longest = reranker.settings.limits.num_frames, reranker.lengths.longest
    while True:
        (found,) = make_items(reranker, [CandidatePair.of(query, document)])
        if isinstance(found, ContentError):
            return None
        if longest is None or found.length <= _FULL * longest or frames == 1 or not isinstance(document.parts[0], Video):
            return document
        frames //= 2
        document = replace(document, parts=(replace(document.parts[0], num_frames=frames), *document.parts[1:]))


def explain_item(
    explainer: Explainer, item: Item, query: NDArray[np.float32], recording: Recording | None
) -> tuple[Why | WhyInTime, float | None]:
    """Say what pulls in the recording that an item is, or else in its small picture, and what share that has beside the item's text."""
    part = Image(item.thumbnail or b"") if recording is None else recording
    document = Document((part,), Place(f"the {'picture' if recording is None else recording.what} of {item.id[:200]!r}"))
    why = explainer(document, query) if recording is None else explainer.in_time(document, query)
    return why, explainer.share(document, item.text, query) if item.text.strip() else 1.0


def same_recording(item: Item, limits: Limits) -> Recording | None:
    """Return the video or sound that an item is, where its file is there and still shows what was indexed."""
    recording = recording_at(item.media)
    try:
        return None if recording is None or differs(recording.preview(None, limits), item.thumbnail) else recording
    except ContentError:
        return None


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
