"""The content schema: a document is a list of parts in order, each a text or an image, and it is checked here once; a pair is documents.

A part is `{"text": str}` or `{"image": path | bytes | PIL image}`, nothing else. What a part is follows from its key alone:
a text that looks like a path or a URL stays text. Texts are kept as they stand, white space at their ends too: a line break beside a
picture is part of what a model was trained on. A document of white space alone is empty. (sentence-transformers guesses the kind of a
bare string from its look, so documents reach it as chat messages, which name the kind; see `images.to_messages`.)
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image as PILImage

from .errors import TwowayError, did_you_mean

PART_KEYS = ("text", "image")
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Where a document comes from; rows and pages count from 1, as an editor does."""

    file: str
    row: int | None = None
    unit: Literal["row", "page"] = "row"

    def __str__(self) -> str:
        if self.row is None:
            return self.file
        return f"{self.file}:{self.row}" if self.unit == "row" else f"{self.file} page {self.row}"


class ContentError(TwowayError):
    """One document cannot be used: `reason` says why, `place` where. The failure policy of the readers acts on this alone."""

    def __init__(self, reason: str, place: Place | None = None) -> None:
        reason = reason.replace("\n", " ")  # file names and other libraries' messages may break lines; an error is one line
        super().__init__(reason, place)
        self.reason = reason
        self.place = place

    def __str__(self) -> str:
        return self.reason if self.place is None else f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class Text:
    """A stretch of text."""

    text: str


@dataclass(frozen=True)
class Image:
    """A picture that is not opened yet: a path, the bytes of a picture file, or a PIL image.

    With a `root`, a path is relative to it and may not leave it, neither by `..`, nor as an absolute path, nor through a link. A
    `transform` is applied when the picture is opened, before transparency is laid on white; it keeps the size.
    """

    source: Path | bytes | PILImage.Image
    root: Path | None = None
    transform: Callable[[PILImage.Image], PILImage.Image] | None = None

    def __str__(self) -> str:
        return f"picture {self.source}" if isinstance(self.source, Path) else "the embedded picture"

    def path(self, place: Place | None = None) -> Path:
        """Return the path of a picture on disk, followed through links and held to `root`."""
        if not isinstance(self.source, Path):
            raise TypeError("this picture is in memory and has no path")
        try:
            if self.root is None:
                return self.source.resolve()
            # As strings: a large source asks this for each picture, and paths take several times as long.
            root = _followed(os.path.abspath(self.root))
            path = os.path.realpath(os.path.join(root, self.source))
        except (OSError, ValueError, RuntimeError) as error:
            raise ContentError(f"{self.source!r} is no usable path ({error})", place) from error
        if path != root and not path.startswith(root if root.endswith(os.sep) else root + os.sep):
            raise ContentError(f"picture {self.source} leaves the data folder {self.root}; keep pictures inside it", place)
        return Path(path)

    def read(self, place: Place | None = None) -> bytes:
        """Return the bytes of a picture on disk or in memory, undecoded; a PIL image has none."""
        if isinstance(self.source, bytes):
            return self.source
        path = self.path(place)
        try:
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise unreadable(self, error, place) from error


@lru_cache(64)
def _followed(root: str) -> str:
    """Return a folder's path, followed through links; pictures lie in few folders, and each is followed once."""
    return os.path.realpath(root)


Part = Text | Image


@dataclass(frozen=True)
class Document:
    """Parts in order. Two documents are equal when their parts are, wherever they come from."""

    parts: tuple[Part, ...]
    place: Place | None = field(default=None, compare=False)
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def from_parts(
        cls,
        parts: object,
        *,
        place: Place | None = None,
        root: Path | None = None,
        meta: Mapping[str, Any] | None = None,
        max_characters: int | None = None,
    ) -> Document:
        """Check a list of `{"text": …}` and `{"image": …}` and return the document; `root` bounds the pictures' paths."""
        if not isinstance(parts, Sequence) or isinstance(parts, str | bytes):
            raise ContentError(f"a document is a list of parts, not {_kind(parts)}", place)
        if not parts:
            raise ContentError("the document is empty: it has no parts", place)
        checked = tuple(_part(part, number, place, root) for number, part in enumerate(parts, 1))
        if not any(isinstance(part, Image) or part.text.strip() for part in checked):
            raise ContentError("the text of part 1 is empty", place)
        for number, part in enumerate(checked, 1):
            if max_characters is not None and isinstance(part, Text) and len(part.text) > max_characters:
                size = f"{len(part.text):,} characters (the bound is {max_characters:,})"
                raise ContentError(f"the text of part {number} has {size}; cut it into several rows", place)
        return cls(checked, place, dict(meta or {}))

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, in order."""
        return tuple(part.text for part in self.parts if isinstance(part, Text))

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures, in order."""
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def documents(self) -> tuple[Document, ...]:
        """Itself, as the only document of its row; see `Pair.documents`."""
        return (self,)

    def cut(self, most: int | None) -> Document:
        """Return it with this many characters of text, the first ones; pictures stay."""
        if most is None or sum(map(len, self.texts)) <= most:
            return self
        kept: list[Part] = []
        for part in self.parts:
            if isinstance(part, Text):
                part, most = Text(part.text[:most]), max(0, most - len(part.text))
            if not isinstance(part, Text) or part.text:
                kept.append(part)
        return replace(self, parts=tuple(kept))

    def fingerprint(self) -> str:
        """Return a SHA-256 over the parts in order.

        A picture counts by its file's bytes, so a path and the same bytes agree; a PIL image has no file and counts by its pixels. What
        lies on disk is read once: a document that was asked before gives the same answer.
        """
        # Not a `cached_property`: in Python 3.11 all documents share its lock, so threads would read files and hash one after the other.
        kept = vars(self)
        if "_digest" not in kept:
            kept["_digest"] = self._hash()
        return str(kept["_digest"])

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for part in self.parts:
            if isinstance(part, Text):
                label, payload = "text", part.text.encode()
            elif isinstance(part.source, PILImage.Image):
                label, payload = f"pixels {part.source.mode} {part.source.size}", part.source.tobytes()
            else:
                label, payload = "image", part.read(self.place)
            # Each part's length goes in, so that moving a border between parts changes the hash.
            digest.update(f"{label} {len(payload)}\n".encode())
            digest.update(payload)
        return digest.hexdigest()


@dataclass(frozen=True)
class Pair:
    """A query, the documents that answer it (at least one), and documents that look like answers and are none.

    Training takes the positives in turn, and none of them ever counts as wrong. `task` says which pairs may share a batch.
    """

    query: Document
    positives: tuple[Document, ...]
    negatives: tuple[Document, ...] = ()
    task: str = ""
    place: Place | None = field(default=None, compare=False)

    @property
    def positive(self) -> Document:
        """The first of the positives."""
        return self.positives[0]

    @property
    def documents(self) -> tuple[Document, ...]:
        """All sides, the query first."""
        return (self.query, *self.positives, *self.negatives)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of all sides."""
        return tuple(text for one in self.documents for text in one.texts)

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures of all sides."""
        return tuple(image for one in self.documents for image in one.images)


# What a row of data becomes.
DocumentOrPair = Document | Pair


def escaped(text: str) -> str:
    r"""Return a text that can be stored: half a surrogate pair, or a byte of a file's name that is no UTF-8, is written out (`\udcff`)."""
    return text.encode("utf-8", "backslashreplace").decode()


def unreadable(image: Image, error: Exception, place: Place | None) -> ContentError:
    """Say in one line why a picture's file cannot be read."""
    if isinstance(error, FileNotFoundError):
        where = f" in {image.root} (root: names the folder that paths are relative to)" if image.root is not None else ""
        return ContentError(f"{image} does not exist{where}", place)
    return ContentError(f"{image} cannot be read ({getattr(error, 'strerror', None) or error})", place)


def _part(part: object, number: int, place: Place | None, root: Path | None) -> Part:
    """Check one part. A key whose value is null counts as absent, because a table has every column in every row."""
    if isinstance(part, Text | Image):
        part = {"text": part.text} if isinstance(part, Text) else {"image": part}
    if not isinstance(part, Mapping):
        raise ContentError(f"part {number} is {_kind(part)}; a part is {{'text': …}} or {{'image': …}}", place)
    for key in part:
        if key not in PART_KEYS:
            raise ContentError(f"part {number} has the unknown key {key!r}{did_you_mean(str(key), PART_KEYS)}", place)
    given = {key: value for key, value in part.items() if value is not None}
    if len(given) != 1:
        trouble = "both text and image; make them two parts" if given else "neither text nor image"
        raise ContentError(f"part {number} has {trouble}", place)
    if "text" in given:
        return _text(given["text"], number, place)
    return _image(given["image"], number, place, root)


def _text(value: object, number: int, place: Place | None) -> Text:
    """Check the text of a part."""
    if not isinstance(value, str):
        raise ContentError(f"the text of part {number} is {_kind(value)}, not a string", place)
    if not value:
        raise ContentError(f"the text of part {number} is empty", place)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ContentError(
            f"the text of part {number} is not valid Unicode (a lone surrogate at character {error.start + 1})", place
        ) from error
    return Text(value)


def _image(value: object, number: int, place: Place | None, root: Path | None) -> Image:
    """Check the source of a part's picture, without opening it."""
    if isinstance(value, Image):
        return value
    if isinstance(value, str | Path):
        if not str(value).strip() or "\0" in str(value):
            raise ContentError(f"the image of part {number} is no usable path", place)
        if _URL.match(str(value)):
            raise ContentError(f"the image of part {number} is a URL; nothing is downloaded, so save the picture beside the data", place)
        return Image(Path(value), root)
    if isinstance(value, bytearray | memoryview):
        value = bytes(value)
    if isinstance(value, bytes):
        if not value:
            raise ContentError(f"the image of part {number} is empty", place)
        return Image(value)
    if isinstance(value, PILImage.Image):
        return Image(value)
    raise ContentError(f"the image of part {number} is {_kind(value)}, not a path, bytes or a PIL image", place)


def _kind(value: object) -> str:
    """Name the type of a wrong value in a reader's words."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", bytes: "bytes"}
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return "a list"
    return names.get(type(value), f"a {type(value).__name__}")
