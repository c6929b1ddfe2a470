"""The pictures behind a folder of vectors, read again from the data that was embedded, as thumbnails.

Rows of a shard and rows of the data come in the same order, and those that were bad are missing in the shard alone, so both are gone
through side by side. A picture that cannot be read leaves its row without one; it is counted and listed.
"""

from __future__ import annotations

import io
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image as PILImage
from PIL import ImageChops, ImageStat

from twoway.content import ContentError, Document
from twoway.embedding.prefetch import ahead
from twoway.embedding.writing import Sources, row_of
from twoway.errors import TwowayError, UsageError
from twoway.images import DEFAULT
from twoway.limits import Limits, ReadLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from twoway.content import Media, Place

_log = logging.getLogger(__name__)

_DPI = 40  # of PDF pages: A4 gets 331 x 468 pixels


class RowKey(NamedTuple):
    """What tells a row of the data from all others."""

    id: str
    file: str | None
    row: int | None


class ThumbnailReader:
    """Thumbnails of the rows of one folder of vectors."""

    def __init__(
        self, manifest: Mapping[str, Any], *, root: str | Path | None, limits: ReadLimits, bad: Callable[[ContentError], None]
    ) -> None:
        said = manifest["data"]
        self._bad, self._chunked = bad, said.get("chunks") is not None
        self._rows: Iterator[Document | ContentError] = iter(())
        self._at = -1
        try:
            known = {"root": root or said["root"] or None, "row_template": said.get("row_template"), "segment": said.get("segment")}
            self._sources = Sources(said["specs"], **known, dpi=_DPI, limits=Limits.reading(limits))
            changed = self._sources.identity()["files"] != said["files"]
        except TwowayError as error:
            raise UsageError(
                f"the pictures cannot be read from where they were embedded ({error}); run this in the folder where 'twoway embed' ran, "
                "pass --root, or index without pictures with --no-thumbnails"
            ) from error
        if changed:
            _log.warning("the data has changed since it was embedded, or was moved; pictures are those of now")

    def read(self, start: int, seen: int, names: Sequence[RowKey | None]) -> list[bytes | None]:
        """Return the thumbnails of a shard of these rows, which covers `seen` rows of the data from `start` on; a piece of a text has none.

        Where texts are cut into pieces, these numbers count pieces, and rows of the data are looked for from the first one on.
        """
        if self._at != start:
            self._rows = self._sources.rows(0 if self._chunked else start)
        self._at = start + seen
        wanted = {name: index for index, name in enumerate(names) if name is not None}
        found: list[bytes | None] = [None] * len(names)
        workers = os.cpu_count() or 1
        with ThreadPoolExecutor(workers, thread_name_prefix="thumbnails") as pool:
            for index, small in ahead(self._matching(start, seen, wanted), self._small, pool=pool, waiting=4 * workers):
                if isinstance(small, ContentError):
                    self._bad(small)
                else:
                    found[index] = small
        for name in wanted:
            self._bad(ContentError(f"{name[0]!r} is no longer in the data"))
        return found

    def _matching(self, start: int, seen: int, wanted: dict[RowKey, int]) -> Iterator[tuple[int, Document]]:
        """Yield the documents that the shard holds with their number in it, and take them off the list."""
        for number in count(start) if self._chunked else range(start, start + seen):
            if self._chunked and not wanted:
                return
            row = next(self._rows, None)
            if row is None:
                self._at = -1  # a row is no longer there, and those of the next shard may be
                return
            if isinstance(row, Document) and (index := wanted.pop(RowKey(*row_of(number, row)[:3]), None)) is not None:
                yield index, row

    def _small(self, task: tuple[int, Document]) -> tuple[int, bytes | ContentError | None]:
        """Make one thumbnail, in a thread beside; what is wrong is told by who waits for it, one after the other."""
        index, document = task
        if not document.media:
            return index, None
        try:
            return index, thumbnail(document.media[0], place=document.place)
        except ContentError as error:
            return index, error


# Small pictures of what is in an index, so that a page of results opens nothing else.

SIDE, MOST_BYTES = 320, 40_000
# A large photograph in JPEG is decoded at a fraction of its size within these bounds; what cannot be is decoded whole.
_SOON = Limits(max_pixels=(4 * SIDE) ** 2, frames="first")
_WHOLE = Limits(max_pixels=DEFAULT.max_pixels, frames="first")
_QUALITIES = (80, 60, 40, 20, 5)
_EXACT: dict[str, Any] = {"lossless": True, "method": 2}
_LOOK, _MOST_DIFFERENCE = 48, 8.0  # cells along a side, and the mean difference of 255 past which two pictures do not show the same


def thumbnail(part: Media, *, place: Place | None = None, side: int = SIDE) -> bytes:
    """Return a WebP whose longest side is at most `side`, in at most `MOST_BYTES`.

    What is as small already keeps every pixel where the bytes allow it: around the lines of a small drawing, loss is what is seen first.
    """
    try:
        picture = part.preview(place, _SOON)
    except ContentError:
        picture = part.preview(place, _WHOLE)
    whole = max(picture.size) <= side
    picture.thumbnail((side, side), PILImage.Resampling.BICUBIC)
    for how in (*([_EXACT] if whole else []), *({"quality": quality, "method": 2} for quality in _QUALITIES)):
        written = io.BytesIO()
        picture.save(written, "WEBP", **how)
        if written.tell() <= MOST_BYTES:
            break
    return written.getvalue()


def differs(picture: PILImage.Image, small: bytes | None) -> bool:
    """Say whether a picture shows something else than the small one that is in the index."""
    if small is None:
        return False
    size = (_LOOK, _LOOK)
    with PILImage.open(io.BytesIO(small), formats=("WEBP",)) as kept:
        pair = [one.convert("L").resize(size, PILImage.Resampling.BOX) for one in (kept, picture)]
    return ImageStat.Stat(ImageChops.difference(*pair)).mean[0] > _MOST_DIFFERENCE
