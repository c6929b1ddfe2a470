"""The sound, a content kind: a file, its bytes, or an array with its sampling rate.

It is read at its own rate, of its channels the mean, and brought to the rate that a model's processor asks for. A sound that is longer than
a processor hears is an error of its row, not cut in silence. Silence is a sound.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import math
import re
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw

from .parts import ContentError, describe_value
from .recordings import Recording, resampled

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from .limits import Limits
    from .parts import Place, Size

_SIDE = (320, 80)  # of the picture of a sound
_RATE_SEEN = 8000  # at which sounds are compared
_MILLISECONDS = 1000
_MILLISECONDS_A_TOKEN = 40.0
_DAY = 86_400.0


@dataclass(frozen=True, eq=False)
class Samples:
    """An opened sound: one channel between -1 and 1."""

    values: NDArray[np.float32]
    rate: int


@dataclass(frozen=True)
class Audio(Recording):
    """A sound that is not opened yet."""

    key: ClassVar[str] = "audio"
    modality: ClassVar[str] = "audio"
    what: ClassVar[str] = "sound"
    columns: ClassVar[tuple[str, str]] = ("audio", "audios")
    message_types: ClassVar[tuple[str, ...]] = ("audio", "audio_url", "input_audio")
    marks: ClassVar[re.Pattern[str]] = re.compile(
        r"<\|audio_bos\|><\|AUDIO\|><\|audio_eos\|>|<\|AUDIO\|>|<\|audio_(\d+)\|>|<\|audio\|>|<audio>"
    )
    argument: ClassVar[str] = "audio"
    suffixes: ClassVar[tuple[str, ...]] = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".aiff", ".aif", ".au", ".wma")
    beginnings: ClassVar[tuple[tuple[int, bytes], ...]] = (
        (8, b"WAVE"), (0, b"ID3"), (0, b"fLaC"), (0, b"OggS"), (0, b"\xff\xfb"), (0, b"FORM"), (0, b".snd"),
    )  # fmt: skip
    is_flat: ClassVar[bool] = True

    @classmethod
    def check(cls, value: object, label: str, place: Place | None, root: Path | None) -> Self:
        """See `Part`; an array has its sampling rate beside it."""
        if isinstance(value, Mapping) and "array" in value:
            rate, samples = value.get("sampling_rate"), np.asarray(value["array"], np.float32)
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 1 <= rate <= 1 << 20 or rate != int(rate):
                raise ContentError(f"{label} has the sampling_rate {rate!r}, not a whole number of samples a second", place)
            if samples.ndim == 2:  # channels come first, as in torchcodec
                samples = samples.mean(axis=0, dtype=np.float32)
            if samples.ndim != 1 or not len(samples) or not np.isfinite(samples).all():
                raise ContentError(f"{label} is an array {samples.shape} that is no row of samples", place)
            return cls(Samples(samples, int(rate)))
        if not isinstance(value, cls | str | bytes | bytearray | memoryview) and not hasattr(value, "__fspath__"):
            raise ContentError(f"{label} is {describe_value(value)}, not a path, bytes, or an array with its sampling_rate", place)
        return super().check(value, label, place, root)

    @classmethod
    def found_in(cls, value: object, *, paths: bool) -> bool:
        """See `Media`."""
        if isinstance(value, Mapping) and {"array", "sampling_rate"} <= set(value):
            return True
        return isinstance(value, Audio) or super().found_in(value, paths=paths)

    @classmethod
    def tokens_of_sizes(cls, processor: Any, sizes: Sequence[Size]) -> Sequence[float] | None:
        """See `Media`."""
        rate = int(getattr(getattr(processor, "feature_extractor", None), "sampling_rate", 0))
        try:
            lengths = [round(length * rate / _MILLISECONDS) for _, _, length in sizes]
            return [float(one) for one in processor._get_num_multimodal_tokens(audio_lengths=lengths)["num_audio_tokens"]]
        except (AttributeError, NotImplementedError, KeyError, TypeError, IndexError):
            return None

    @classmethod
    def sample(cls, size: Size) -> Self:
        """See `Media`."""
        return cls(Samples(np.zeros(16 * max(size[2], 100), np.float32), 16_000))

    @classmethod
    def guess_tokens(cls, size: Size) -> float:
        """See `Media`: a token stands for a few hundredths of a second."""
        return size[2] / _MILLISECONDS_A_TOKEN

    @classmethod
    def plain(cls, value: Any) -> Any:
        """See `Media`."""
        return value["array"]

    @classmethod
    def settings(cls, values: Sequence[Any]) -> dict[str, Any]:
        """See `Media`; they are of one rate, the processor's."""
        return {"sampling_rate": values[0]["sampling_rate"]}

    def fitted(self, processor: Any, place: Place | None) -> Self:
        """See `Media`: at the rate that the processor asks for, and no longer than it hears."""
        extractor = getattr(processor, "feature_extractor", None)
        rate, longest = int(getattr(extractor, "sampling_rate", self.source.rate)), _longest(extractor)
        values = resampled(self.source.values, self.source.rate, rate)
        if longest and len(values) > longest:
            long, heard = len(values) / rate, longest / rate
            raise ContentError(f"the sound is {long:,.0f} seconds long, and this model hears {heard:,.0f}; cut it into several rows", place)
        return type(self)(Samples(values, rate))

    @property
    def value(self) -> dict[str, Any]:
        """What sentence-transformers takes for a sound."""
        if not isinstance(self.source, Samples):
            raise TypeError("this sound is not opened")
        return {"array": self.source.values, "sampling_rate": self.source.rate}

    @property
    def memory(self) -> int:
        """See `Part`."""
        return int(self.source.values.nbytes) if isinstance(self.source, Samples) else super().memory

    def digest(self, place: Place | None) -> bytes:
        """See `Recording`."""
        if isinstance(self.source, Samples):
            return hashlib.sha256(f"{self.source.rate}".encode() + self.source.values.tobytes()).digest()
        return super().digest(place)

    def stored(self, place: Place | None, root: Path | None) -> dict[str, Any]:
        """See `Part`; an array is written as WAV."""
        return {"bytes": _wav(self.source)} if isinstance(self.source, Samples) else super().stored(place, root)

    def as_request(self, place: Place | None) -> dict[str, Any]:
        """See `Part`."""
        whole = Audio(_wav(self.source)) if isinstance(self.source, Samples) else self
        head, _, data = whole.data_url(place).partition(",")
        kind = head.partition("/")[2].partition(";")[0]
        return {"type": "input_audio", "input_audio": {"data": data, "format": {"mpeg": "mp3", "x-wav": "wav"}.get(kind, kind)}}

    def describe(self, most: int | None = None) -> str:
        """See `Part`."""
        return f"{len(self.source.values) / self.source.rate:.1f} seconds of sound"

    def opened(self, place: Place | None, limits: Limits) -> Self:
        """See `Media`."""
        if isinstance(self.source, Samples):
            return self._cut(place, limits)
        of = self.limits or limits
        said, data = self.read_in_child("child_sound", {"longest": of.max_sound_seconds, "decode": True}, place, limits)
        return type(self)(Samples(np.frombuffer(data, np.float32), int(said["sampling_rate"])))

    def size(self, place: Place | None, limits: Limits) -> Size:
        """See `Media`: its length in milliseconds."""
        if isinstance(self.source, Samples):
            found = self._cut(place, limits).source
            return 1, 1, math.ceil(len(found.values) * _MILLISECONDS / found.rate)
        of = self.limits or limits
        said, _ = self.read_in_child("child_sound", {"longest": of.max_sound_seconds, "decode": False}, place, limits)
        return 1, 1, max(1, math.ceil(said["samples"] * _MILLISECONDS / said["sampling_rate"]))

    def seconds(self, place: Place | None, limits: Limits) -> float:
        """See `Recording`; a long one may be cut into segments that are within the bound."""
        if isinstance(self.source, Samples):
            return len(self.source.values) / self.source.rate
        whole = replace(self, start=None, end=None)
        said, _ = whole.read_in_child("child_sound", {"longest": _DAY, "decode": False}, place, limits)
        return float(said["samples"] / said["sampling_rate"])

    def preview(self, place: Place | None, limits: Limits) -> PILImage.Image:
        """See `Media`: its loudness from the left to the right."""
        values = np.abs(self.opened(place, limits).source.values)
        width, height = _SIDE
        picture = PILImage.new("RGB", _SIDE, "white")
        draw = ImageDraw.Draw(picture)
        for column, piece in enumerate(np.array_split(values, width)):
            half = round((height - 2) / 2 * min(1.0, float(piece.max(initial=0))))
            draw.line([(column, height // 2 - half), (column, height // 2 + half)], fill="black")
        return picture

    def likeness(self, place: Place | None, limits: Limits) -> PILImage.Image:
        """See `Media`: how loud each pitch is over time."""
        source = self.opened(place, limits).source
        values = resampled(source.values, source.rate, _RATE_SEEN)
        pieces = [np.pad(piece, (0, max(0, 2 * _SIDE[1] - len(piece)))) for piece in np.array_split(values, _SIDE[1])]
        pitches = np.stack([np.abs(np.fft.rfft(piece, 2 * _SIDE[1]))[: _SIDE[1]] for piece in pieces], axis=1)
        levels = np.log1p(pitches) / np.log1p(max(1.0, float(pitches.max())))
        return PILImage.fromarray((255 * levels).astype(np.uint8)).convert("RGB")

    def _cut(self, place: Place | None, limits: Limits) -> Self:
        """Return what lies between start and end, within the bound."""
        rate, of = self.source.rate, self.limits or limits
        last = None if self.end is None else round(self.end * rate)
        values = self.source.values[round((self.start or 0) * rate) : last]
        if not len(values):
            raise ContentError(f"{self} ends before its start (second {self.start:g})", place)
        if len(values) > of.max_sound_seconds * rate:
            long, bound = len(values) / rate, of.max_sound_seconds
            raise ContentError(f"{self} is {long:,.0f} seconds long, and the bound is {bound:,.0f}; cut it into several rows", place)
        return type(self)(Samples(values, rate))


def _longest(extractor: Any) -> int | None:
    """Return the samples that a feature extractor hears: as many as it says, or cuts a longer sound to; nothing where all are heard."""
    if extractor is None or hasattr(extractor, "n_samples"):
        return getattr(extractor, "n_samples", None)
    asked = inspect.signature(type(extractor).__call__).parameters
    cuts, most = (getattr(asked.get(name), "default", None) for name in ("truncation", "max_length"))
    return most if cuts is True and isinstance(most, int) else None


def _wav(samples: Samples) -> bytes:
    """Write samples as WAV of 16 bits."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((1, 2, samples.rate, 0, "NONE", "not compressed"))
        file.writeframes((np.clip(samples.values, -1, 1) * 32767).astype("<i2").tobytes())
    return written.getvalue()
