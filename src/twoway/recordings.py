"""What lies in time, videos and sounds: read by FFmpeg (PyAV) in a child process with bounds.

A film is never decoded whole: the frames that are asked for are looked up by their time, and where they lie far apart the reader jumps to
the key frame before each. Files are opened as containers of recordings alone: a playlist, which could name other files or addresses,
is no recording. A file that is broken, or that does not end, costs the child, and is an error of its row.
"""

from __future__ import annotations

import base64
import hashlib
import math
import mimetypes
import os
import re
import tempfile
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from .errors import UsageError
from .limits import ReadLimits
from .parts import ContentError, Media, checked_path, describe_value, follow, unreadable
from .sandbox import SANDBOX, SandboxError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from .limits import Limits
    from .parts import Place

_PIECE = 1 << 20
_LONGEST_PATH = 1024
_FRAGMENT = re.compile(r"#t=(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?$")
DEFAULT = ReadLimits()


@dataclass(frozen=True)
class Recording(Media):
    """A recording that is not opened yet: a path, or the bytes of a file; `start` and `end` are seconds of it."""

    what: ClassVar[str]  # in errors
    beginnings: ClassVar[tuple[tuple[int, bytes], ...]]  # of files in memory: where, and what stands there
    options: ClassVar[tuple[str, ...]] = ("start", "end")

    source: Any
    root: Path | None = None
    start: float | None = None
    end: float | None = None
    limits: ReadLimits | None = field(default=None, compare=False)  # what is read of it; default: the usual

    def __str__(self) -> str:
        return f"{self.what} {self.source}" if isinstance(self.source, Path) else f"the embedded {self.what}"

    @classmethod
    def check(cls, value: object, label: str, place: Place | None, root: Path | None) -> Self:
        """See `Part`."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str | Path):
            return cls(checked_path(value, label, cls.what, place), root)
        if isinstance(value, bytearray | memoryview):
            value = bytes(value)
        if isinstance(value, bytes) and not value:
            raise ContentError(f"{label} is empty", place)
        if isinstance(value, bytes):
            return cls(value)
        raise ContentError(f"{label} is {describe_value(value)}, not a path or bytes", place)

    def with_options(self, given: Mapping[str, Any], label: str, place: Place | None) -> Self:
        """See `Part`."""
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
                raise ContentError(f"{name} of {label} is {value!r}, not a number of at least 0", place)
        found = replace(self, **given)
        if found.end is not None and found.end <= (found.start or 0):
            raise ContentError(f"{label} ends at second {found.end:g}, which is not after its start", place)
        return found

    def within(self, limits: ReadLimits) -> Self:
        """See `Part`."""
        return self if self.limits is not None else replace(self, limits=limits)

    @classmethod
    def found_in(cls, value: object, *, paths: bool) -> bool:
        """See `Media`."""
        if isinstance(value, Mapping) and value and set(value) <= {"bytes", "path"}:
            return any(cls.found_in(one, paths=True) for one in value.values())
        if isinstance(value, bytes):
            return any(value[at:].startswith(start) for at, start in cls.beginnings)
        return paths and isinstance(value, str) and len(value) <= _LONGEST_PATH and value.lower().endswith(cls.suffixes)

    @property
    def file(self) -> Path | None:
        """See `Media`."""
        if not isinstance(self.source, Path):
            return None
        return self.source if self.root is None else self.root / self.source

    def path(self, place: Place | None = None) -> Path | None:
        """See `Media`."""
        return follow(self.source, self.root, self.what, place) if isinstance(self.source, Path) else None

    @property
    def address(self) -> str | None:
        """The file with the seconds that are taken of it, as the web writes them (`a.mp4#t=10.0,20.0`); nothing for one in memory."""
        if self.file is None or (self.start is None and self.end is None):
            return None if self.file is None else str(self.file)
        return f"{self.file}#t={self.start or 0.0:.3f}" + ("" if self.end is None else f",{self.end:.3f}")

    @classmethod
    def at_address(cls, address: str) -> Self | None:
        """Return the recording of an address, where the file has the name of one."""
        found = _FRAGMENT.search(address)
        file = address if found is None else address[: found.start()]
        start, end = (None if one is None else float(one) for one in (found.groups() if found else (None, None)))
        return cls(Path(file), start=start, end=end) if file.lower().endswith(cls.suffixes) else None

    @property
    def memory(self) -> int:
        """See `Part`."""
        return len(self.source) if isinstance(self.source, bytes) else 0

    def payload(self, place: Place | None) -> tuple[str, bytes]:
        """See `Part`: a hash of the file, which may be larger than memory, and what is taken of it."""
        return f"{self.key} {self.taken()}", self.digest(place)

    def taken(self) -> str:
        """Say what is taken of the file, for hashes."""
        return f"{self.start} {self.end}"

    def digest(self, place: Place | None) -> bytes:
        """Return a hash of the file."""
        if isinstance(self.source, bytes):
            return hashlib.sha256(self.source).digest()
        path = self.path(place) or Path()
        try:
            said = path.stat()
            return _digest(str(path), said.st_size, said.st_mtime_ns)
        except (OSError, ValueError) as error:
            raise unreadable(str(self), self.root, error, place) from error

    def stored(self, place: Place | None, root: Path | None) -> dict[str, Any]:
        """See `Part`."""
        if (path := self.path(place)) is None:
            return {"bytes": self.source}
        if root is None or not path.is_relative_to(root):
            raise UsageError(f"{path} does not lie in {root}; the data has changed since it was listed")
        return {"path": str(path.relative_to(root))}

    @abstractmethod
    def seconds(self, place: Place | None, limits: Limits) -> float:
        """Return how long the whole of it is."""

    def data_url(self, place: Place | None) -> str:
        """Return the file as a data URL."""
        if isinstance(self.source, bytes):
            data = self.source
        else:
            path = self.path(place) or Path()
            try:
                data = path.read_bytes()
            except (OSError, ValueError) as error:
                raise unreadable(str(self), self.root, error, place) from error
        return f"data:{self.media_type};base64,{base64.b64encode(data).decode()}"

    @property
    def media_type(self) -> str:
        """What the web calls a file of its name."""
        named = mimetypes.guess_type(str(self.file or ""))[0] or ""
        return named if named.startswith(f"{self.modality}/") else f"{self.modality}/{'mp4' if self.modality == 'video' else 'wav'}"

    def read_in_child(self, function: str, given: Mapping[str, Any], place: Place | None, limits: Limits) -> tuple[Any, bytes]:
        """Call a function of this module on the file, in the child process; what goes wrong is an error of the row."""
        of = self.limits or limits
        try:
            with self._on_disk(place) as path:
                asked = {"file": str(path), "start": self.start, "end": self.end, **given}
                return SANDBOX.call(f"{__name__}:{function}", asked, seconds=of.max_media_seconds, memory=of.max_media_memory)
        except SandboxError as error:
            raise ContentError(f"{self} {error}", place) from error

    @contextmanager
    def _on_disk(self, place: Place | None) -> Iterator[Path]:
        """Give the path of its file, which is written for the moment where it is in memory."""
        if isinstance(self.source, bytes):
            with tempfile.NamedTemporaryFile() as file:
                file.write(self.source)
                file.flush()
                yield Path(file.name)
            return
        path = self.path(place) or Path()
        try:
            if not path.stat().st_size:
                raise ContentError(f"{self} is empty (0 bytes)", place)
            if not path.is_file():
                raise ContentError(f"{self} is not a file", place)
        except (OSError, ValueError) as error:
            raise unreadable(str(self), self.root, error, place) from error
        yield path


@lru_cache(1024)
def _digest(path: str, size: int, time: int) -> bytes:
    """Return a hash of a file as it is now; the segments of a film ask for it again and again."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.digest()


def import_av() -> ModuleType:
    """Return PyAV, which is slow to import, with FFmpeg's own talk turned off."""
    import av

    av.logging.set_level(None)
    return av


# What follows runs in the child process.

_CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,wav,w64,mp3,flac,aac,aiff,au,caf,amr"
_FAR = 2.0  # seconds between two frames from which on the reader jumps
_TORN = 1.0  # seconds that may be missing at the end of what a container says
_ESTIMATED = {"mp3", "aac", "amr"}  # formats that do not say how long they are: FFmpeg guesses it from the rate of bits


def child_video(
    file: str,
    start: float | None,
    end: float | None,
    num_frames: int,
    fps: float | None,
    max_frames: int,
    frame_pixels: int,
    max_pixels: int,
    *,
    decode: bool,
) -> tuple[dict[str, Any], bytes]:
    """Return which frames are shown and how large they are, and with `decode` their pixels (frames, height, width, RGB)."""
    with _opened(file, "video") as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if not width or not height:
            raise ContentError("has no pixels: its stream says no size")
        if width * height > max_pixels:
            raise ContentError(f"is too large ({width:,} x {height:,}, the bound is {max_pixels:,} pixels a frame); make it smaller")
        rate, total = _timing(container, stream)
        shown = choose_frames(rate, total, start, end, num_frames, fps, max_frames)
        turned = 0 if decode else _rotation(container, stream)
        target = shrunk(width, height, frame_pixels)
        pixels = list(_frames(container, stream, [number / rate for number in shown], rate, target, total)) if decode else []
        if pixels:
            target, turned = pixels[0].shape[1::-1], 0
        size = target[::-1] if turned % 2 else target
        shown = shown[: len(pixels)] if pixels else shown  # fewer where a container counts frames that it does not have
        said = {"width": size[0], "height": size[1], "fps": rate, "total_num_frames": total, "frames_indices": shown}
        return said, b"".join(one.tobytes() for one in pixels)


def choose_frames(
    rate: float, total: int, start: float | None, end: float | None, num_frames: int, fps: float | None, max_frames: int
) -> list[int]:
    """Choose frames by their number: evenly from the first to the last, as many as are asked for or as `fps` makes, no frame twice."""
    first = math.ceil((start or 0) * rate - 1e-6)
    last = min(total, math.ceil((total if end is None else end * rate) - 1e-6)) - 1
    if first >= total:
        raise ContentError(f"ends at second {total / rate:.1f}, before its start (second {start:g})")
    last = max(first, last)
    there = last - first + 1
    count = num_frames if fps is None else min(max_frames, max(1, round(there / rate * fps)))
    count = min(count, there)
    return [(first + last) // 2] if count == 1 else [round(one) for one in np.linspace(first, last, count).tolist()]


def shrunk(width: int, height: int, most: int) -> tuple[int, int]:
    """Return the size within an area, in the same shape."""
    scale = min(1.0, math.sqrt(most / (width * height)))
    return (width, height) if scale == 1 else (max(1, int(width * scale)), max(1, int(height * scale)))


@contextmanager
def _opened(file: str, kind: str) -> Iterator[tuple[Any, Any]]:
    """Open the first stream of a kind; one thread decodes, so that memory is bounded."""
    av = import_av()
    try:
        options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
        with av.open(f"file:{file}", options=options, metadata_errors="ignore") as container:
            cover = av.stream.Disposition.attached_pic
            stream = next((one for one in getattr(container.streams, kind) if not one.disposition & cover), None)
            if stream is None:
                raise ContentError(f"has no {kind} stream (it has: {', '.join(one.type for one in container.streams) or 'nothing'})")
            stream.thread_type = "NONE"
            if stream.codec_context is None:
                raise ContentError(f"has a {kind} stream of an unknown kind")
            yield container, stream
    except av.error.FFmpegError as error:
        if _is_picture(file):
            raise ContentError(
                "is a still picture (or an animation in a format of pictures); write it as an image, or save it as MP4"
            ) from error
        raise ContentError(f"is broken or in an unknown format ({error.strerror or error})") from error


def _is_picture(file: str) -> bool:
    from PIL import Image as PILImage

    try:
        with PILImage.open(file):
            return True
    except Exception:
        return False


def _timing(container: Any, stream: Any) -> tuple[float, int]:
    """Return frames a second and how many there are; of variable rates the mean, and frames are then looked up by time."""
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1_000_000
    if stream.frames and rate:
        return rate, int(stream.frames)
    if not seconds:
        times = [float(one.pts * one.time_base) for one in container.demux(stream) if one.pts is not None]
        container.seek(0)
        if not times:
            return 1.0, 1
        seconds = max(times) - min(times)
        return (rate, len(times)) if rate else ((len(times) - 1) / seconds if seconds else 1.0, len(times))
    rate = rate or (stream.frames / seconds if stream.frames else 1.0)
    return rate, max(1, round(seconds * rate))


def _rotation(container: Any, stream: Any) -> int:
    """Return the quarter turns of a video; known with its first frame alone."""
    for frame in container.decode(stream):
        turns: int = round(frame.rotation / 90) % 4
        return turns
    return 0


def _frames(
    container: Any, stream: Any, times: Sequence[float], rate: float, size: tuple[int, int], total: int
) -> Iterator[NDArray[np.uint8]]:
    """Decode what is shown at each of these times, which ascend, upright."""
    begins = float((stream.start_time or 0) * stream.time_base)
    if len(times) == stream.frames:  # all that there are, however they lie
        yield from (_upright(frame, size) for _, frame in _decoded(container, stream, begins))
        return
    near = 0.5 / rate
    coming = _decoded(container, stream, begins)
    held: Any = None
    ahead: Any = None  # the first frame behind the time
    at = -1.0
    for time in times:
        if time - at > max(_FAR, 4 / rate) and at >= 0:
            container.seek(math.floor((time + begins) / stream.time_base), stream=stream, backward=True)
            coming, held, ahead = _decoded(container, stream, begins), None, None
        if ahead is not None and ahead[0] <= time + near:
            held, ahead = ahead, None
        while ahead is None and (held is None or held[0] < time - near):
            found = next(coming, None)
            if found is None:
                missing = time - (held[0] if held else 0)
                if missing > max(_TORN, 3 / rate) or held is None:
                    said = f"says that it is {total / rate:.1f} seconds long"
                    raise ContentError(f"{said}, and its frames end at second {time - missing:.1f}: it is torn")
                break
            if found[0] > time + near and held is not None:
                ahead = found
            else:
                held = found
        at = time
        yield _upright(held[1], size)


def _upright(frame: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a frame's pixels at a size, turned as the file says."""
    pixels = frame.to_ndarray(format="rgb24", width=size[0], height=size[1], interpolation="BICUBIC")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _decoded(container: Any, stream: Any, begins: float) -> Iterator[tuple[float, Any]]:
    """Go through frames with their times, from the first on."""
    for frame in container.decode(stream):
        yield (0.0 if frame.time is None else frame.time - begins), frame


def child_sound(file: str, start: float | None, end: float | None, longest: float, *, decode: bool) -> tuple[dict[str, Any], bytes]:
    """Return a sound's rate and how many samples it has, and with `decode` the samples themselves: of all channels the mean, float32."""
    with _opened(file, "audio") as (container, stream):
        rate = int(stream.codec_context.sample_rate or 0)
        if not rate:
            raise ContentError("says no sampling rate")
        seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1_000_000
        if (lost := _lost_of_wave(file) * 8 / (stream.codec_context.bit_rate or math.inf)) > _TORN:
            raise _torn(seconds + lost, seconds)
        last = min(seconds or math.inf, math.inf if end is None else end)
        if seconds and (start or 0) >= seconds:
            raise ContentError(f"ends at second {seconds:.1f}, before its start (second {start:g})")
        if longest < last - (start or 0) < math.inf:
            raise ContentError(f"is {last - (start or 0):,.0f} seconds long, and the bound is {longest:,.0f}; cut it into several rows")
        if not decode and seconds:
            return {"sampling_rate": rate, "samples": round((last - (start or 0)) * rate)}, b""
        samples = np.concatenate([*_samples(container, stream, rate, start or 0, end, longest), np.zeros(0, np.float32)])
        if not len(samples):
            raise ContentError("holds no samples")
        ends = (start or 0) + len(samples) / rate
        if last < math.inf and last - ends > _TORN and not _ESTIMATED & set(container.format.name.split(",")):
            raise _torn(seconds, ends)
        return {"sampling_rate": rate, "samples": len(samples)}, samples.tobytes() if decode else b""


def _torn(seconds: float, ends: float) -> ContentError:
    return ContentError(f"says that it is {seconds:.1f} seconds long, and its samples end at second {ends:.1f}: it is torn")


def _lost_of_wave(file: str) -> int:
    """Return the bytes that a WAV lacks of what it says: FFmpeg takes the rest for the whole. One that was streamed says nothing."""
    with open(file, "rb") as opened:
        head = opened.read(12)
    says = int.from_bytes(head[4:8], "little")
    known = head[:4] == b"RIFF" and head[8:] == b"WAVE" and 0 < says < 0xFFFFFFFF
    return max(0, says + 8 - os.path.getsize(file)) if known else 0


def _samples(container: Any, stream: Any, rate: int, start: float, end: float | None, longest: float) -> Iterator[NDArray[np.float32]]:
    """Decode samples between two times, the mean of their channels."""
    av = import_av()
    plain, first, taken = av.AudioResampler(format="fltp", rate=rate), round(start * rate), 0
    last = first + round(longest * rate) + 1 if end is None else round(end * rate)
    if start > _FAR:
        container.seek(math.floor((start + float((stream.start_time or 0) * stream.time_base)) / stream.time_base), stream=stream)
    begins, at = float((stream.start_time or 0) * stream.time_base), -1
    for frame in container.decode(stream):
        for one in plain.resample(frame):
            values = one.to_ndarray().astype(np.float32)
            at = at if at >= 0 else round(((frame.time or 0.0) - begins) * rate)
            own = values[:, max(0, first - at) : max(0, last - at)].mean(axis=0, dtype=np.float32)
            at += values.shape[1]
            taken += len(own)
            if taken > longest * rate:
                raise ContentError(f"is longer than {longest:,.0f} seconds, the bound; cut it into several rows")
            yield own
        if at >= last:
            return


def resampled(samples: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """Return samples at another rate."""
    if rate == wanted:
        return samples
    av = import_av()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate = rate
    converter = av.AudioResampler(format="fltp", layout="mono", rate=wanted)
    made = [one.to_ndarray()[0] for given in (frame, None) for one in converter.resample(given)]
    return np.concatenate(made).astype(np.float32)
