"""The parts of documents: what every content kind has, and the text. The image is in `images.py`, the document in `content.py`.

A content kind is one class. It says how a part is recognised in a row, checked, told from others, opened within limits, given to a model,
written and shown; whatever handles documents asks the class and names no kind. `content.KINDS` lists the classes.
"""

from __future__ import annotations

import math
import os
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from .errors import TwowayError

if TYPE_CHECKING:
    from PIL import Image as PILImage

    from .limits import Limits, ReadLimits

# A picture of this many pixels counts as one token where nothing better is known; no family packs more into one.
_PIXELS_A_TOKEN = 28 * 28
# Width, height and length of a part that is no text: of an image the length is 1, of a video its frames, of a sound milliseconds.
Size = tuple[int, int, int]


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


class Part:
    """One part of a document, not opened yet."""

    key: ClassVar[str]  # of a part in a row (`{key: value}`), and of its kind in templates
    modality: ClassVar[str]  # as models and chat templates have it
    options: ClassVar[tuple[str, ...]] = ()  # other keys that a part may have beside its own

    @classmethod
    @abstractmethod
    def check(cls, value: object, label: str, place: Place | None, root: Path | None) -> Part:
        """Return the part that a value of a row stands for, without opening it, or say why it stands for none; `label` names it."""

    def with_options(self, given: Mapping[str, Any], label: str, place: Place | None) -> Self:
        """Return it as its other keys ask for (`options`)."""
        return self

    def within(self, limits: ReadLimits) -> Self:
        """Return it with what is said of all parts of its kind, where it does not say that itself."""
        return self

    @property
    def blank(self) -> bool:
        """Whether nothing is in it."""
        return False

    @property
    @abstractmethod
    def value(self) -> Any:
        """What sentence-transformers takes for it."""

    @property
    @abstractmethod
    def memory(self) -> int:
        """The bytes that it holds before anything is decoded."""

    @abstractmethod
    def payload(self, place: Place | None) -> tuple[str, bytes]:
        """Return a label and the bytes that tell it from others."""

    @abstractmethod
    def stored(self, place: Place | None, root: Path | None) -> Any:
        """Return its value in a table that is written; a file within `root` stays where it is and is named."""

    @abstractmethod
    def as_request(self, place: Place | None) -> dict[str, Any]:
        """Return the part of a chat message to a server, as JSON in OpenAI's shape."""

    @abstractmethod
    def describe(self, most: int | None = None) -> str:
        """Say in a few words what it is, opened; a text says itself, up to so many characters."""

    def opened(self, place: Place | None, limits: Limits) -> Part:
        """Return it decoded, or say why it cannot be."""
        return self

    def normalized(self) -> Part:
        """Return what near copies of it share."""
        return self

    def as_content(self) -> dict[str, Any]:
        """Return the part of a chat message, once it is opened."""
        return {"type": self.modality, self.modality: self.value}


@dataclass(frozen=True)
class Text(Part):
    """A stretch of text."""

    key: ClassVar[str] = "text"
    modality: ClassVar[str] = "text"

    text: str

    @classmethod
    def check(cls, value: object, label: str, place: Place | None, root: Path | None) -> Text:
        """See `Part`."""
        if not isinstance(value, str):
            raise ContentError(f"{label} is {describe_value(value)}, not a string", place)
        if not value:
            raise ContentError(f"{label} is empty", place)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ContentError(f"{label} is not valid Unicode (a lone surrogate at character {error.start + 1})", place) from error
        return cls(value)

    @property
    def blank(self) -> bool:
        """Whether it is white space alone."""
        return not self.text.strip()

    @property
    def value(self) -> str:
        """The text."""
        return self.text

    @property
    def memory(self) -> int:
        """About its bytes."""
        return len(self.text)

    def payload(self, place: Place | None) -> tuple[str, bytes]:
        """See `Part`."""
        return "text", self.text.encode()

    def stored(self, place: Place | None, root: Path | None) -> str:
        """See `Part`."""
        return self.text

    def as_request(self, place: Place | None) -> dict[str, Any]:
        """See `Part`."""
        return {"type": "text", "text": self.text}

    def describe(self, most: int | None = None) -> str:
        """See `Part`."""
        return self.text[:most]

    def normalized(self) -> Text:
        """Return it without regard to case and white space."""
        return Text(" ".join(self.text.casefold().split()))


class Media(Part):
    """A part that is no text: a placeholder stands for it in a model's prompt, and the processor takes it beside the prompt."""

    columns: ClassVar[tuple[str, str]]  # of a row: of one, and of a list of them
    message_types: ClassVar[tuple[str, ...]]  # what chat messages call it
    marks: ClassVar[re.Pattern[str]]  # that stand for it in the texts of data sets; a group is the number of the part
    argument: ClassVar[str]  # of a processor that takes it
    suffixes: ClassVar[tuple[str, ...]] = ()  # of the names of files that are one
    is_list: ClassVar[bool] = False  # whether a list may be one, such as a list of frames
    is_flat: ClassVar[bool] = False  # whether processors take those of all rows in one list, not a list for each row

    @classmethod
    def token(cls, processor: Any) -> str | None:
        """Return the token that stands for one in a prompt; nothing where the processor has none."""
        token = getattr(processor, f"{cls.modality}_token", None)
        return None if token is None else str(token)

    @classmethod
    def placeholder(cls, processor: Any) -> str:
        """Return the token with what the chat template writes around it."""
        token, opening, closing = str(cls.token(processor)), "\ue000", "\ue001"
        if not getattr(processor, "chat_template", None):
            return token
        content = [{"type": "text", "text": opening}, {"type": cls.modality}, {"type": "text", "text": closing}]
        rendered = str(processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False))
        between = rendered.partition(opening)[2].partition(closing)[0].strip()
        return between if token in between else token

    @classmethod
    def guess_tokens(cls, size: Size) -> float:
        """Return about the tokens of a part of this size, where the processor does not say."""
        return math.prod(size) / _PIXELS_A_TOKEN

    def fitted(self, processor: Any, place: Place | None) -> Media:
        """Return an opened part as a processor takes it, or say why it cannot be."""
        return self

    @classmethod
    def plain(cls, value: Any) -> Any:
        """Return what a processor takes of a `value`."""
        return value

    @classmethod
    def settings(cls, values: Sequence[Any]) -> dict[str, Any]:
        """Return what a processor is told beside, of all values of one call."""
        return {}

    @classmethod
    @abstractmethod
    def found_in(cls, value: object, *, paths: bool) -> bool:
        """Tell whether a value of a column looks like one; a path counts where `paths` says so."""

    @classmethod
    @abstractmethod
    def tokens_of_sizes(cls, processor: Any, sizes: Sequence[Size]) -> Sequence[float] | None:
        """Ask a processor for the tokens that parts of these sizes get; nothing where it does not say."""

    @classmethod
    @abstractmethod
    def sample(cls, size: Size) -> Media:
        """Return a part of a size, to try a processor with."""

    @property
    @abstractmethod
    def file(self) -> Path | None:
        """The file that it lies in, as it is named; nothing for one in memory."""

    @abstractmethod
    def path(self, place: Place | None = None) -> Path | None:
        """Return the file that it lies in, followed through links, or say that it may not be read from there."""

    @abstractmethod
    def opened(self, place: Place | None, limits: Limits) -> Media:
        """Return it decoded, or say why it cannot be."""

    @abstractmethod
    def size(self, place: Place | None, limits: Limits) -> Size:
        """Return the numbers that its tokens depend on, read from the header alone."""

    @abstractmethod
    def preview(self, place: Place | None, limits: Limits) -> PILImage.Image:
        """Return an image that shows it in reports, lists of hits and thumbnails."""

    def likeness(self, place: Place | None, limits: Limits) -> PILImage.Image:
        """Return an image that is alike where two parts are near copies of each other."""
        return self.preview(place, limits)


def describe_value(value: object) -> str:
    """Name the type of a wrong value in a reader's words."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", bytes: "bytes"}
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return "a list"
    return names.get(type(value), f"a {type(value).__name__}")


# Parts that may lie in files: a path is followed through links and held to the folder that it may not leave.

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)


def checked_path(value: str | Path, label: str, what: str, place: Place | None) -> Path:
    """Return a path that a row names, or say why it is none; `what` names the kind."""
    if not str(value).strip() or "\0" in str(value):
        raise ContentError(f"{label} is not a usable path", place)
    if _URL.match(str(value)):
        raise ContentError(f"{label} is a URL; nothing is downloaded, so save the {what} beside the data", place)
    return Path(value)


def follow(source: Path, root: Path | None, what: str, place: Place | None) -> Path:
    """Return a path followed through links; with a `root` it is relative to that and stays below it."""
    try:
        if root is None:
            return source.resolve()
        # As strings: a large source asks this for each file, and paths take several times as long.
        home = _followed(os.path.abspath(root))
        path = os.path.realpath(os.path.join(home, source))
    except (OSError, ValueError, RuntimeError) as error:
        raise ContentError(f"{source!r} is not a usable path ({error})", place) from error
    if path != home and not path.startswith(home if home.endswith(os.sep) else home + os.sep):
        raise ContentError(f"{what} {source} leaves the data folder {root}; keep {what}s inside it", place)
    return Path(path)


def unreadable(name: str, root: Path | None, error: Exception, place: Place | None) -> ContentError:
    """Say in one line why a file cannot be read; `name` says what it is."""
    if isinstance(error, FileNotFoundError):
        where = f" in {root} (root: names the folder that paths are relative to)" if root is not None else ""
        return ContentError(f"{name} does not exist{where}", place)
    return ContentError(f"{name} cannot be read ({getattr(error, 'strerror', None) or error})", place)


@lru_cache(64)
def _followed(root: str) -> str:
    """Return a folder's path, followed through links; files lie in few folders, and each is followed once."""
    return os.path.realpath(root)
