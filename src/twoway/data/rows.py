"""Rows: one row of any table becomes a document, and what happens where that fails."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from twoway.content import ContentError, Document, Media, Place, media_kinds
from twoway.errors import TwowayError, UsageError, did_you_mean
from twoway.images import DEFAULT, Image, is_image_name

from .config import OnBad

if TYPE_CHECKING:
    import re
    from re import Pattern

    from twoway.limits import Limits


# What happens to a bad row: the run fails at the first one (the default), or leaves it out, counted and listed; never
# a stand-in.
#
# The list is JSON lines with `file`, `row`, `unit` and `reason`. It is written line by line, so that it stands even
# where a run is cut off, and each row is in it once, however often the data is read.

BAD_ROWS = "bad-rows.jsonl"


class Policy:
    """Decides about bad rows; one policy may serve several sources, and then all of them share one list.

    With `keep` the list is added to: a run that goes on, or one of several processes of a run, leaves what is in it.
    """

    def __init__(self, on_bad: OnBad = "fail", bad_rows: str | Path | None = None, *, keep: bool = False) -> None:
        if on_bad not in get_args(OnBad):
            raise UsageError(f"on_bad is fail or skip, not {on_bad!r}{did_you_mean(str(on_bad), get_args(OnBad))}")
        self.on_bad = on_bad
        self.bad_rows = None if bad_rows is None else Path(bad_rows)
        self.keep = keep
        self._listed: set[Place | None] = set()
        self._read = 0
        self._started = False

    def start(self) -> None:
        """Take away the list of an earlier run, once, so that a clean run does not end beside an old list."""
        if not self._started and self.bad_rows is not None and not self.keep:
            try:
                self.bad_rows.unlink(missing_ok=True)
            except OSError as error:
                raise UsageError(f"the list of bad rows cannot be written to {self.bad_rows} ({error.strerror})") from error
        self._started = True

    def refuse(self, error: ContentError) -> None:
        """Raise for a bad row, or list it."""
        if self.on_bad == "fail":
            raise ContentError(f"{error.reason}; mend the row, or pass --on-bad skip to leave such rows out", error.place) from error
        self.start()
        self._catch_up()
        if self.bad_rows is None or error.place in self._listed:
            return
        if error.place is not None:
            self._listed.add(error.place)
        place = error.place or Place("")
        line = {"file": place.file, "row": place.row, "unit": place.unit, "reason": error.reason}
        try:
            torn = self._ends_torn()
            with self.bad_rows.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(("\n" if torn else "") + json.dumps(line, ensure_ascii=False) + "\n")
        except OSError as trouble:
            raise TwowayError(f"the list of bad rows cannot be written to {self.bad_rows} ({trouble.strerror})") from trouble

    def _catch_up(self) -> None:
        """Read what an earlier run or another process has listed since the last look."""
        if not self.keep or self.bad_rows is None or not self.bad_rows.exists():
            return
        with self.bad_rows.open("rb") as file:
            file.seek(self._read)
            for line in file.read().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break  # another process is writing it
                self._read += len(line)
                with suppress(ValueError):  # half a line, where a kill or a full disk ended an earlier run
                    listed = json.loads(line)
                    self._listed.add(Place(listed["file"], listed["row"], listed["unit"]))

    def _ends_torn(self) -> bool:
        """Say whether the list ends in half a line, to which nothing may be added."""
        if self.bad_rows is None or not self.bad_rows.exists() or not self.bad_rows.stat().st_size:
            return False
        with self.bad_rows.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


@dataclass
class ReadReport:
    """What one pass over a source has met so far."""

    spec: str
    rows: int = 0
    kept: int = 0
    bad: int = 0
    first: list[ContentError] = field(default_factory=list)
    bad_rows: Path | None = None

    def add_bad(self, error: ContentError) -> None:
        """Count a bad row; the first three are kept to be shown."""
        self.bad += 1
        if len(self.first) < 3:
            self.first.append(error)

    def __str__(self) -> str:
        if not self.bad:
            return f"{self.spec}: {self.rows:,} rows read, none bad"
        listed = f", all in {self.bad_rows}" if self.bad_rows is not None else ""
        examples = " | ".join(str(error) for error in self.first)
        return f"{self.spec}: {self.rows:,} rows read, {self.bad:,} bad and left out{listed}; first: {examples}"


# One row of any table becomes a document, in one of three forms.
#
# - `parts`: the long form, a list of texts and pictures in order.
# - `image` or `images` (and the columns of other kinds), and `text`: the short form. One image comes first. Of a list of images each
#   stands where the text has a mark for it (`<image>` and its like, see `Media.marks`); where the text has none, all come first; any
#   other number of marks is a bad row.
# - `messages`: a chat, each message a text or a list of parts. Roles are left out, a line break stands between
#   messages, and the pictures of
#   the row's `images` stand where the messages leave a place for them, by the same rule.
#
# Columns besides these are kept as the document's `meta`; one that holds pictures is counted
# (`ReadOptions.unread_pictures`), because a picture that nobody reads is usually a mistake.

Parts = list[dict[str, Any]]
# Turns a row with columns of its own into the parts of a document.
DocumentFormat = Callable[[Mapping[str, Any]], Parts]


def document_columns() -> tuple[str, ...]:
    """Return the columns that a document is read from."""
    return _columns(media_kinds())


@lru_cache(16)
def _columns(kinds: tuple[type[Media], ...]) -> tuple[str, ...]:
    return ("parts", *(name for kind in kinds for name in kind.columns), "messages", "text")


@dataclass
class Skip:
    """How many rows, bad ones counted, a reader still has to pass over, without the work of reading them where it can."""

    left: int = 0

    def take(self, rows: int) -> int:
        """Return how many of these rows are passed over."""
        taken = min(self.left, rows)
        self.left -= taken
        return taken


@dataclass(frozen=True)
class ReadOptions:
    """How every format is read; `root` is the folder that picture paths are relative to and may not leave (default: the file's).

    `unread_pictures` counts, for each column that holds pictures and is not read, the rows where that was so.
    """

    root: Path | None = None
    dpi: int = 144
    limits: Limits = DEFAULT
    unread_pictures: Counter[str] = field(default_factory=Counter, compare=False)


def require_columns(names: Sequence[str], label: object) -> None:
    """Refuse a table that has none of the columns a document is made of, before any row is read."""
    known = document_columns()
    if not set(names) & set(known):
        hint = next((found for name in names if (found := did_you_mean(name, known))), "")
        raise UsageError(f"{label} has none of the columns {', '.join(known)}{hint} (it has {', '.join(names)})")


def document_from_row(
    row: object, place: Place, folder: Path | None, options: ReadOptions, format_: DocumentFormat | None = None
) -> Document:
    """Turn one row into a document, or raise a `ContentError`; a format reads other columns, `folder` is that of the row's file."""
    if not isinstance(row, Mapping):
        raise ContentError(f"the row is a {type(row).__name__}, not an object with parts, image or text", place)
    tracked = TrackedRow(row)
    try:
        parts = parts_of_row(tracked) if format_ is None else format_(tracked)
        # What a format reads is its business; without one, the other columns describe the document.
        own = document_columns()
        meta = {str(key): _finite(value) for key, value in row.items() if key not in own} if format_ is None else {}
        root = options.root or folder
        found = Document.from_parts(unwrap(parts), place=place, root=root, meta=meta, limits=options.limits)
    except ContentError as error:
        if error.place is not None:
            raise
        raise ContentError(error.reason, place) from error
    except RecursionError as error:
        raise ContentError("the row is nested too deeply", place) from error
    options.unread_pictures.update(tracked.unread_media(paths=not found.media))
    return found


def _finite(value: Any) -> Any:
    """Return a value of a column with null for numbers that JSON has no form for: tables write NaN where nothing is known."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


class TrackedRow(dict[str, Any]):
    """A row that remembers which of its columns were asked for."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        super().__init__(row)
        self.columns_read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.columns_read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a column, or what stands for it."""
        self.columns_read.add(key)
        return super().get(key, default)

    def unread_media(self, *, paths: bool) -> list[str]:
        """Return the columns that hold images or the like and were not asked for; `paths` says whether a path is taken for one."""
        unread = {str(key): value for key, value in self.items() if key not in self.columns_read}
        kinds = media_kinds() if unread else ()
        return [key for key, value in unread.items() if any(kind.found_in(value, paths=paths) for kind in kinds)]


def describe_unread_pictures(spec: str, unread: Mapping[str, int]) -> str:
    """Say which columns hold pictures that are not read."""
    columns = ", ".join(f"{name} ({rows:,} rows)" for name, rows in unread.items())
    return f'{spec}: pictures in {columns} are not read; name such a column in a template, as in "{{{next(iter(unread))}:image}}{{text}}"'


def is_picture_path(text: str, folders: Sequence[Path]) -> bool:
    """Say whether a text is the path of a picture file that is there; only a short one with the ending of a picture is looked for."""
    return is_image_name(text) and any(os.path.isfile(os.path.join(folder, text)) for folder in folders)


def describe_picture_paths(named: Mapping[str, tuple[int, int]]) -> str:
    """Say which texts name picture files."""
    counted = ", ".join(f"{count} of {texts} texts of `{side}`" for side, (count, texts) in named.items())
    return f'{counted} name existing image files (among the first rows); write {{"image": …}} if you mean pictures'


def parts_of_row(row: Mapping[str, Any]) -> Any:
    """Return the parts of a row that has the columns of a document."""
    known = document_columns()
    given = {key: value for key in known if (value := row.get(key)) is not None}
    if not given:
        hint = next((found for key in row if (found := did_you_mean(str(key), known)) and key not in known), "")
        raise ContentError(f"the row has neither parts nor image nor text{hint}")
    if "parts" in given:
        if len(given) > 1:
            raise ContentError("the row has parts and image or text; put all into parts")
        return given["parts"]
    if "messages" in given and "text" in given:
        raise ContentError("the row has messages and text; say with a template which one is read")
    media = {kind: own for kind in media_kinds() if (own := _media_of_row(given, kind)) is not None}
    if "messages" in given:
        return parts_of_messages(given["messages"], media)
    text = given.get("text")
    parts: Parts = [] if text is None else [{"text": text}]
    for kind, own in reversed(media.items()):
        # A single one stands first, whatever the text holds; a list stands at its marks.
        listed = kind.columns[1] in given or (isinstance(given.get(kind.columns[0]), list | tuple) and not kind.is_list)
        parts = interleave(parts, own, kind) if listed and isinstance(text, str) and text else [*own, *parts]
    return parts


def _media_of_row(given: Mapping[str, Any], kind: type[Media]) -> Parts | None:
    """Return the parts of a kind that a row has, in columns of one or of a list; nothing where it has neither column."""
    one, several = kind.columns
    if one in given and several in given:
        raise ContentError(f"the row has {one} and {several}; put all into {several}")
    if one not in given and several not in given:
        return None
    value = given.get(several, given.get(one))
    if several in given and not isinstance(value, list | tuple):
        raise ContentError(f"{several} is a list; a single one goes into the column {one}")
    single = not isinstance(value, list | tuple) or (kind.is_list and several not in given)
    return [{kind.key: item} for item in ([value] if single else value)]


def parts_of_messages(messages: Any, media: Mapping[type[Media], Parts]) -> Parts:
    """Return the parts of chat messages (or of one text), the `media` of the row at their places in them."""
    turns = [{"content": messages}] if isinstance(messages, str) else messages
    if not isinstance(turns, Sequence) or not turns:
        raise ContentError("messages is not a list of chat messages")
    parts: Parts = []
    for number, turn in enumerate(turns):
        content = turn.get("content") if isinstance(turn, Mapping) else None
        if not isinstance(content, str | Sequence):
            raise ContentError('a message is not {"role": …, "content": …}')
        append_text(parts, "\n" if number else "")
        for piece in [content] if isinstance(content, str) else content:
            found = _piece(piece)
            if "text" in found:
                append_text(parts, found["text"])
            else:
                parts.append(found)
    for kind in media_kinds():
        parts = interleave(parts, media.get(kind, []), kind)
    return parts


def _piece(piece: Any) -> dict[str, Any]:
    """Return one part of a message; one whose value is `None` is a place for what the row has beside its messages."""
    if isinstance(piece, str):
        return {"text": piece}
    name = piece.get("type", "text") if isinstance(piece, Mapping) else None
    if name == "text" and isinstance(piece.get("text"), str):
        return {"text": piece["text"]}
    for kind in media_kinds():
        if name in kind.message_types:
            value = next((piece[key] for key in (name, "path", "url") if piece.get(key) is not None), None)
            return {kind.key: value.get("url") if isinstance(value, Mapping) and "url" in value else value}
    raise ContentError(f"a message holds a part of type {name!r}, which is not read; a part is a text or an image")


def interleave(
    content: str | Parts, media: Parts, kind: type[Media] = Image, marks: Pattern[str] | None = None, *, strict: bool = False
) -> Parts:
    """Put parts of a kind at their places in a text, or in parts: `{"image": None}` is one, else the marks in the texts are.

    Without any place they come first; another number of places than parts is an error. Marks that are numbered (`<|image_2|>`) say
    which part they mean. Without any part, a mark is text, or with `strict` an error.
    """
    marks = marks or kind.marks
    parts: Parts = [] if isinstance(content, str) else content
    if isinstance(content, str):
        append_text(parts, content)
    places = [number for number, part in enumerate(parts) if kind.key in part and part[kind.key] is None]
    if places:
        if len(places) != len(media):
            raise ContentError(f"the messages have {len(places)} places for pictures, and the row has {len(media)} pictures")
        for number, one in zip(places, media, strict=True):
            parts[number] = one
        return parts
    found = [mark for part in parts for mark in marks.finditer(part.get("text") or "")] if media or strict else []
    if not found:
        return [*media, *parts]
    if len(found) != len(media):
        raise ContentError(f"the text has {len(found)} times {found[0][0]} for {len(media)} pictures")
    ordered = iter(_numbered(found, media))
    made: Parts = []
    for part in parts:
        text, at = part.get("text"), 0
        if text is None:
            made.append(part)
            continue
        for mark in marks.finditer(text):
            append_text(made, text[at : mark.start()])
            made.append(next(ordered))
            at = mark.end()
        append_text(made, text[at:])
    return made


def _numbered(marks: Sequence[re.Match[str]], pictures: Parts) -> Parts:
    """Return the pictures in the order of their marks, which may be numbered."""
    numbers = [int(mark[1]) for mark in marks if mark.re.groups and mark[1]]
    if not numbers:
        return pictures
    if sorted(numbers) != list(range(1, len(pictures) + 1)):
        raise ContentError(f"the numbered marks of pictures are {', '.join(map(str, numbers))}, and there are {len(pictures)} pictures")
    return [pictures[number - 1] for number in numbers]


def append_text(parts: Parts, text: str) -> None:
    """Put text behind the parts, into the last one where that is text too."""
    if text and parts and "text" in parts[-1]:
        parts[-1] = {"text": parts[-1]["text"] + text}
    elif text:
        parts.append({"text": text})


def unwrap(parts: object) -> object:
    """Take pictures out of the `{"bytes": …, "path": …}` that `datasets` stores them in."""
    if not isinstance(parts, list):
        return parts
    return [_unwrap_part(part) if isinstance(part, Mapping) else part for part in parts]


def _unwrap_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take one out; where there are bytes, the path is only the name it once had."""
    files = {key: value for key, value in part.items() if isinstance(value, dict) and set(value) <= {"bytes", "path"}}
    return {**part, **{key: value.get("path") if value.get("bytes") is None else value["bytes"] for key, value in files.items()}}
