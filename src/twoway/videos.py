"""The video, a content kind: a file, a folder of frames, or a list of pictures, shown to a model as a few frames with their times.

- Of a file as many frames as are asked for are taken evenly (`num_frames`), or as many a second (`fps`, at most `max_frames`). Of a video
  with a variable rate they are those that are shown at these times. Phone videos are turned upright.
- Of a folder the picture files count, in the order of their names; its frames lie `fps` a second (default: 1), like those of a list.
- VideoFrames larger than `max_frame_pixels` are shrunk as they are read; the model's processor then has bounds of its own.
- An animated GIF is a video. A still picture is none, and refused. A single frame stands twice, because processors take frames in pairs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from PIL import Image as PILImage

from .images import SUFFIXES, Image
from .parts import ContentError, describe_value, unreadable
from .recordings import DEFAULT, Recording, choose_frames, shrunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .limits import Limits
    from .parts import Place, Size

_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True, eq=False)
class VideoFrames:
    """An opened video: its pixels (frames, RGB, height, width) and when they were shown, as transformers' `VideoMetadata` has it."""

    pixels: NDArray[np.uint8]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Video(Recording):
    """A video that is not opened yet. `fps` asks for so many frames a second; of frames that lie one by one it says their own rate."""

    key: ClassVar[str] = "video"
    modality: ClassVar[str] = "video"
    what: ClassVar[str] = "video"
    columns: ClassVar[tuple[str, str]] = ("video", "videos")
    message_types: ClassVar[tuple[str, ...]] = ("video", "video_url")
    marks: ClassVar[re.Pattern[str]] = re.compile(r"<\|vision_start\|><\|video_pad\|><\|vision_end\|>|<\|video_pad\|>|<\|video\|>|<video>")
    argument: ClassVar[str] = "videos"
    suffixes: ClassVar[tuple[str, ...]] = (
        ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ogv", ".wmv", ".flv", ".3gp",
    )  # fmt: skip
    beginnings: ClassVar[tuple[tuple[int, bytes], ...]] = ((4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (8, b"AVI "))
    options: ClassVar[tuple[str, ...]] = ("num_frames", "fps", "start", "end")
    is_list: ClassVar[bool] = True

    num_frames: int | None = None
    fps: float | None = None

    @classmethod
    def check(cls, value: object, label: str, place: Place | None, root: Path | None) -> Self:
        """See `Part`; a list is one of frames, and an array of four dimensions is frames as they are."""
        if isinstance(value, Mapping) and "array" in value:
            said = value.get("video_metadata") or {}
            found = cls.check(value["array"], label, place, root)
            return replace(found, fps=found.fps or said.get("fps"))
        if isinstance(value, list | tuple):
            if not value:
                raise ContentError(f"{label} is empty: it has no frames", place)
            frames = [one.get("bytes") or one.get("path") if isinstance(one, Mapping) else one for one in value]
            return cls(tuple(Image.check(one, f"frame {number} of {label}", place, root) for number, one in enumerate(frames, 1)), root)
        if hasattr(value, "shape") and hasattr(value, "__array__"):
            pixels = np.asarray(value)
            if pixels.ndim != 4 or 3 not in (pixels.shape[1], pixels.shape[3]) or not len(pixels) or pixels.dtype != np.uint8:
                raise ContentError(f"{label} is an array {pixels.shape} of {pixels.dtype}, not frames of 8-bit RGB", place)
            last = pixels if pixels.shape[3] == 3 else pixels.transpose(0, 2, 3, 1)
            return cls(tuple(Image(PILImage.fromarray(np.ascontiguousarray(one))) for one in last), root)
        if not isinstance(value, cls | str | Path | bytes | bytearray | memoryview):
            raise ContentError(f"{label} is {describe_value(value)}, not a path, bytes, or a list of pictures", place)
        return super().check(value, label, place, root)

    def with_options(self, given: Mapping[str, Any], label: str, place: Place | None) -> Self:
        """See `Part`."""
        for name in ("num_frames", "fps"):
            if name in given and (not given[name] or (name == "num_frames" and given[name] != int(given[name]))):
                whole = "whole " if name == "num_frames" else ""
                raise ContentError(f"{name} of {label} is {given[name]!r}, not a {whole}number above 0", place)
        found = super().with_options(given, label, place)
        return found if found.num_frames is None else replace(found, num_frames=int(found.num_frames))

    @classmethod
    def found_in(cls, value: object, *, paths: bool) -> bool:
        """See `Media`."""
        return isinstance(value, Video) or super().found_in(value, paths=paths)

    @classmethod
    def tokens_of_sizes(cls, processor: Any, sizes: Sequence[Size]) -> Sequence[float] | None:
        """See `Media`."""
        try:
            asked = [(int(frames), int(height), int(width)) for width, height, frames in sizes]
            return [float(one) for one in processor._get_num_multimodal_tokens(video_sizes=asked)["num_video_tokens"]]
        except (AttributeError, NotImplementedError, KeyError, TypeError, IndexError):
            return None

    @classmethod
    def sample(cls, size: Size) -> Self:
        """See `Media`."""
        width, height, frames = size
        return cls._of(np.zeros((max(2, frames), 3, height, width), np.uint8), 1.0, range(max(2, frames)), max(2, frames))

    @classmethod
    def settings(cls, values: Sequence[Any]) -> dict[str, Any]:
        """See `Media`: when frames were shown; they are chosen already."""
        said = [one["video_metadata"] for one in values]
        # Copies, because processors write into these.
        return {"do_sample_frames": False, "video_metadata": [{**one, "frames_indices": [*one["frames_indices"]]} for one in said]}

    @classmethod
    def plain(cls, value: Any) -> Any:
        """See `Media`."""
        return value["array"]

    @property
    def value(self) -> dict[str, Any]:
        """What sentence-transformers takes for a video: its frames, and when they were shown."""
        if not isinstance(self.source, VideoFrames):
            raise TypeError("this video is not opened")
        return {"array": self.source.pixels, "video_metadata": dict(self.source.metadata)}

    @property
    def memory(self) -> int:
        """See `Part`."""
        if isinstance(self.source, VideoFrames):
            return int(self.source.pixels.nbytes)
        return sum(one.memory for one in self.source) if isinstance(self.source, tuple) else super().memory

    def taken(self) -> str:
        """See `Recording`."""
        of = self.limits or DEFAULT
        asked = of.num_frames if self.num_frames is None and of.fps is None else self.num_frames
        return f"{asked} {self.fps or of.fps} {of.max_frames} {of.max_frame_pixels} {super().taken()}"

    def digest(self, place: Place | None) -> bytes:
        """See `Recording`; of frames that lie one by one a hash over all."""
        if isinstance(self.source, VideoFrames):
            return hashlib.sha256(str(self.source.metadata).encode() + self.source.pixels.tobytes()).digest()
        frames = self._frames(place)
        if frames is None:
            return super().digest(place)
        found = hashlib.sha256()
        for one in frames:
            label, payload = one.payload(place)
            found.update(f"{label} {len(payload)}\n".encode() + payload)
        return found.digest()

    def stored(self, place: Place | None, root: Path | None) -> Any:
        """See `Part`; a list of pictures is stored as one."""
        if isinstance(self.source, tuple):
            return [one.stored(place, root) for one in self.source]
        return super().stored(place, root)

    def as_request(self, place: Place | None) -> dict[str, Any]:
        """See `Part`."""
        if self._frames(place) is not None:
            raise ContentError("a video is sent to a server as a file, not as single frames; save it as one", place)
        return {"type": "video_url", "video_url": {"url": self.data_url(place)}}

    def describe(self, most: int | None = None) -> str:
        """See `Part`."""
        frames, _, height, width = self.source.pixels.shape
        return f"{frames} frames of {width}x{height}"

    def opened(self, place: Place | None, limits: Limits) -> Self:
        """See `Media`."""
        if isinstance(self.source, VideoFrames):
            return self
        frames = self._frames(place)
        if frames is None:
            said, data = self.read_in_child("child_video", self._asked(limits, decode=True), place, limits)
            pixels = np.frombuffer(data, np.uint8).reshape(-1, said["height"], said["width"], 3)
            return self._of(pixels.transpose(0, 3, 1, 2), said["fps"], said["frames_indices"], said["total_num_frames"])
        shown, rate = self._chosen(len(frames), limits)
        size = shrunk(*frames[0].size(place, limits)[:2], (self.limits or limits).max_frame_pixels)
        found = []
        for number in shown:
            image = frames[number].opened(place, limits).value
            if image.size != size:
                image = image.resize(size, PILImage.Resampling.BICUBIC)
            found.append(np.asarray(image))
        return self._of(np.stack(found).transpose(0, 3, 1, 2), rate, shown, len(frames))

    def size(self, place: Place | None, limits: Limits) -> Size:
        """See `Media`."""
        if isinstance(self.source, VideoFrames):
            count, _, height, width = self.source.pixels.shape
            return width, height, count
        frames = self._frames(place)
        if frames is None:
            said, _ = self.read_in_child("child_video", self._asked(limits, decode=False), place, limits)
            return said["width"], said["height"], max(2, len(said["frames_indices"]))
        shown, _ = self._chosen(len(frames), limits)
        return (*shrunk(*frames[0].size(place, limits)[:2], (self.limits or limits).max_frame_pixels), max(2, len(shown)))

    def seconds(self, place: Place | None, limits: Limits) -> float:
        """See `Recording`."""
        if isinstance(self.source, VideoFrames):
            return float(self.source.metadata["duration"])
        if (frames := self._frames(place)) is not None:
            return len(frames) / (self.fps or 1.0)
        said, _ = replace(self, start=None, end=None).read_in_child("child_video", self._asked(limits, decode=False), place, limits)
        return float(said["total_num_frames"] / said["fps"])

    def preview(self, place: Place | None, limits: Limits) -> PILImage.Image:
        """See `Media`: the frame in the middle."""
        if isinstance(self.source, VideoFrames):
            return PILImage.fromarray(np.ascontiguousarray(self.source.pixels[len(self.source.pixels) // 2].transpose(1, 2, 0)))
        return replace(self, num_frames=1).opened(place, limits).preview(place, limits)

    def backwards(self, place: Place | None, limits: Limits) -> Self:
        """Return it opened, with its frames in the opposite order."""
        shown = self.opened(place, limits).source
        return replace(self, source=VideoFrames(np.ascontiguousarray(shown.pixels[::-1]), shown.metadata))

    def likeness(self, place: Place | None, limits: Limits) -> PILImage.Image:
        """See `Media`: four frames side by side, because clips that show the same in another order are no copies."""
        shown = self.opened(place, limits).source.pixels
        frames = [shown[number] for number in np.linspace(0, len(shown) - 1, 4).round().astype(int)]
        return PILImage.fromarray(np.ascontiguousarray(np.concatenate(frames, axis=2).transpose(1, 2, 0)))

    @classmethod
    def _of(cls, pixels: NDArray[np.uint8], fps: float, shown: Sequence[int], total: int) -> Self:
        """Return an opened video."""
        numbers = list(shown)
        if len(pixels) == 1:
            pixels, numbers = np.concatenate([pixels, pixels]), numbers * 2
        pixels = np.ascontiguousarray(pixels)
        _, _, height, width = pixels.shape
        said = {"total_num_frames": max(total, len(numbers)), "fps": fps, "frames_indices": numbers, "width": width, "height": height}
        return cls(VideoFrames(pixels, said | {"duration": total / fps}))

    def _asked(self, limits: Limits, *, decode: bool) -> dict[str, Any]:
        """Return what the child is asked."""
        of = self.limits or limits
        asked = {"num_frames": self.num_frames or of.num_frames, "fps": None if self.num_frames else self.fps or of.fps}
        return asked | {"max_frames": of.max_frames, "frame_pixels": of.max_frame_pixels, "max_pixels": limits.max_pixels, "decode": decode}

    def _chosen(self, total: int, limits: Limits) -> tuple[list[int], float]:
        """Return which of single frames are shown, and their rate."""
        of, rate = self.limits or limits, self.fps or 1.0
        asked = None if self.num_frames else of.fps
        return choose_frames(rate, total, self.start, self.end, self.num_frames or of.num_frames, asked, of.max_frames), rate

    def _frames(self, place: Place | None) -> Sequence[Image] | None:
        """Return the frames of a list or a folder, undecoded; nothing for a file."""
        if isinstance(self.source, tuple):
            return self.source
        path = self.path(place)
        if path is None or not path.is_dir():
            return None
        try:
            names = sorted((one.name for one in path.iterdir() if one.name.lower().endswith(SUFFIXES)), key=by_number)
        except OSError as error:
            raise unreadable(str(self), self.root, error, place) from error
        if not names:
            raise ContentError(f"{self} is a folder without pictures", place)
        return [Image(self.source / name, self.root) for name in names]


def by_number(name: str) -> tuple[Any, ...]:
    """Return a key that sorts frame2 before frame10."""
    return tuple(int(one) if one.isdigit() else one for one in _NUMBERS.split(name.lower()))
