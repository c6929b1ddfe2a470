"""The content schema: a document is a list of parts in order, each of one kind (`KINDS`), checked here once; a pair is documents.

A part is `{"text": str}` or `{"image": path | bytes | PIL image}`, nothing else. What a part is follows from its key alone:
a text that looks like a path or a URL stays text. Texts are kept as they stand, white space at their ends too: a line break beside a
picture is part of what a model was trained on. A document of white space alone is empty. (sentence-transformers guesses the kind of a
bare string from its look, so documents reach it as chat messages, which name the kind; see `to_messages`.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import did_you_mean
from .images import DEFAULT, Image
from .parts import ContentError, Media, Part, Place, Text, describe_value
from .recordings import Recording
from .sounds import Audio
from .videos import Video

if TYPE_CHECKING:
    from pathlib import Path

    from .limits import Limits, ReadLimits

__all__ = [
    "KINDS",
    "Audio",
    "CandidatePair",
    "ContentError",
    "Document",
    "DocumentOrPair",
    "Image",
    "Media",
    "Pair",
    "Part",
    "Place",
    "Text",
    "Video",
    "escaped",
    "media_kinds",
    "open_document",
    "pair_messages",
    "placeholders",
    "processor_inputs",
    "recording_at",
    "to_messages",
]

# The content kinds, by their key.
KINDS: dict[str, type[Part]] = {kind.key: kind for kind in (Text, Image, Video, Audio)}


def media_kinds() -> tuple[type[Media], ...]:
    """Return the kinds that are not text."""
    return _media(tuple(KINDS.values()))


def recording_at(address: str) -> Recording | None:
    """Return the video or sound that an address says (`Recording.address`); nothing where the file's name is that of neither."""
    kinds = (kind for kind in media_kinds() if issubclass(kind, Recording))
    return next((found for kind in kinds if (found := kind.at_address(address)) is not None), None)


@lru_cache(16)  # which is asked several times for each row
def _media(kinds: tuple[type[Part], ...]) -> tuple[type[Media], ...]:
    return tuple(kind for kind in kinds if issubclass(kind, Media))


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
        limits: ReadLimits | None = None,
    ) -> Document:
        """Check a list of `{"text": …}`, `{"image": …}` and the like, and return the document; `root` bounds the paths of files."""
        if not isinstance(parts, Sequence) or isinstance(parts, str | bytes):
            raise ContentError(f"a document is a list of parts, not {describe_value(parts)}", place)
        if not parts:
            raise ContentError("the document is empty: it has no parts", place)
        checked = tuple(_part(part, number, place, root) for number, part in enumerate(parts, 1))
        if limits is not None:
            checked = tuple(part.within(limits) for part in checked)
        max_characters = None if limits is None else limits.max_characters
        if all(part.blank for part in checked):
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
    def media(self) -> tuple[Media, ...]:
        """What is no text, in order."""
        return tuple(part for part in self.parts if isinstance(part, Media))

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

        What lies on disk counts by its bytes and is read once: a document that was asked before gives the same answer.
        """
        # Not a `cached_property`: in Python 3.11 all documents share its lock, so threads would read files and hash one after the other.
        kept = vars(self)
        if "_digest" not in kept:
            kept["_digest"] = self._hash()
        return str(kept["_digest"])

    def _hash(self) -> str:
        digest = hashlib.sha256()
        for part in self.parts:
            label, payload = part.payload(self.place)
            # Each part's length goes in, so that moving a border between parts changes the hash.
            digest.update(f"{label} {len(payload)}\n".encode())
            digest.update(payload)
        return digest.hexdigest()


@dataclass(frozen=True)
class CandidatePair(Document):
    """A query and one candidate, which a reranker reads together: the parts of the one and then those of the other."""

    query_parts: int = 0

    @classmethod
    def of(cls, query: Document, candidate: Document) -> CandidatePair:
        """Put the two together; the place is the candidate's, or else the query's."""
        return cls((*query.parts, *candidate.parts), candidate.place or query.place, query_parts=len(query.parts))

    @property
    def query(self) -> Document:
        """What is asked."""
        return Document(self.parts[: self.query_parts], self.place)

    @property
    def candidate(self) -> Document:
        """What may answer it."""
        return Document(self.parts[self.query_parts :], self.place)

    def cut(self, most: int | None) -> CandidatePair:
        """Return it with this many characters of text: of the candidate's as many as the query's leave."""
        if most is None or sum(map(len, self.texts)) <= most:
            return self
        query = self.query.cut(most)
        candidate = self.candidate.cut(max(0, most - sum(map(len, query.texts))))
        return replace(self, parts=(*query.parts, *candidate.parts), query_parts=len(query.parts))

    def _hash(self) -> str:
        return hashlib.sha256(f"{self.query.fingerprint()} {self.candidate.fingerprint()}".encode()).hexdigest()


@dataclass(frozen=True)
class Pair:
    """A query, the documents that answer it (at least one), and documents that look like answers and are none.

    Training takes the positives in turn, and none of them ever counts as wrong. `task` says which pairs may share a batch. `scores` are
    those of a teacher, of the positives and then of the negatives; nothing where there is no teacher.
    """

    query: Document
    positives: tuple[Document, ...]
    negatives: tuple[Document, ...] = ()
    task: str = ""
    place: Place | None = field(default=None, compare=False)
    scores: tuple[float, ...] = field(default=(), compare=False)

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
    def media(self) -> tuple[Media, ...]:
        """What is no text, of all sides."""
        return tuple(part for one in self.documents for part in one.media)


# What a row of data becomes.
DocumentOrPair = Document | Pair


def placeholders(processor: Any) -> dict[str, str]:
    """Return what stands in prompts for each modality that a processor has a token for, in the wrapper that its chat template gives it."""
    return {kind.modality: kind.placeholder(processor) for kind in media_kinds() if kind.token(processor) is not None}


def open_document(document: Document, *, limits: Limits = DEFAULT) -> Document:
    """Return the document with every part decoded."""
    return Document(tuple(part.opened(document.place, limits) for part in document.parts), document.place, document.meta)


def to_messages(document: Document, *, role: str = "user", limits: Limits = DEFAULT, processor: Any = None) -> list[dict[str, Any]]:
    """Return the document as chat messages with its parts decoded: an input for sentence-transformers that keeps order and kind.

    With a `processor` they are as that takes them.
    """
    parts = open_document(document, limits=limits).parts
    if processor is not None:
        parts = tuple(part.fitted(processor, document.place) if isinstance(part, Media) else part for part in parts)
    return [{"role": role, "content": [part.as_content() for part in parts]}]


def processor_inputs(batch: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return messages of some documents with what a processor takes for their parts, and what it is told beside, by modality.

    sentence-transformers does the same with parts that stand alone, and leaves those in messages as they are.
    """
    values: dict[type[Media], list[Any]] = {}
    kinds = {kind.modality: kind for kind in media_kinds()}

    def plain(part: Mapping[str, Any]) -> Mapping[str, Any]:
        kind = kinds.get(str(part["type"]))
        if kind is None:
            return part
        values.setdefault(kind, []).append(part[kind.modality])
        return {**part, kind.modality: kind.plain(part[kind.modality])}

    made = [[{**turn, "content": [plain(part) for part in turn["content"]]} for turn in messages] for messages in batch]
    return made, {kind.modality: told for kind, own in values.items() if (told := kind.settings(own))}


def pair_messages(pair: CandidatePair, *, limits: Limits = DEFAULT, processor: Any = None) -> list[dict[str, Any]]:
    """Return a query with a candidate as the two messages that sentence-transformers makes of a pair."""
    sides = (("query", pair.query), ("document", pair.candidate))
    return [turn for role, one in sides for turn in to_messages(one, role=role, limits=limits, processor=processor)]


def escaped(text: str) -> str:
    r"""Return a text that can be stored: half a surrogate pair, or a byte of a file's name that is no UTF-8, is written out (`\udcff`)."""
    return text.encode("utf-8", "backslashreplace").decode()


def _part(part: object, number: int, place: Place | None, root: Path | None) -> Part:
    """Check one part. A key whose value is null counts as absent, because a table has every column in every row."""
    if isinstance(part, Part):
        part = {part.key: part.text if isinstance(part, Text) else part}
    if not isinstance(part, Mapping):
        shapes = " or ".join(f"{{{key!r}: …}}" for key in KINDS)
        raise ContentError(f"part {number} is {describe_value(part)}; a part is {shapes}", place)
    given = {key: value for key, value in part.items() if value is not None}
    found = [key for key in given if key in KINDS]
    beside = KINDS[found[0]].options if len(found) == 1 else ()
    for key in part:
        if key not in KINDS and key not in beside and (key in given or key not in _options()):
            raise ContentError(f"part {number} has the unknown key {key!r}{did_you_mean(str(key), [*KINDS, *beside])}", place)
    if len(found) != 1:
        trouble = (
            f"both {' and '.join(key for key in KINDS if key in given)}; make them two parts" if found else f"neither {' nor '.join(KINDS)}"
        )
        raise ContentError(f"part {number} has {trouble}", place)
    key, label = found[0], f"the {found[0]} of part {number}"
    made = KINDS[key].check(given.pop(key), label, place, root)
    return made.with_options(given, label, place) if given else made


def _options() -> set[str]:
    """Return the other keys that parts may have: a table has every column in every row, and those that are empty say nothing."""
    return {name for kind in KINDS.values() for name in kind.options}
