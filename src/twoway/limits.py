"""How much of a file is read for one row: which frames of a video, how long a sound and how large a picture may be."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from .config import Field, Range, settings
from .errors import UsageError

# Bytes, characters or seconds: more is no bound.
_Bound = Annotated[int, Range(ge=1, le=1 << 40)]


# Which frames of a video are seen decides results, as no other of these does.
SHOWN = ("num_frames", "fps", "max_frames", "max_frame_pixels")


@settings
class ReadLimits:
    """What is read of a file for one row; what is longer is a bad row."""

    max_line_bytes: _Bound = Field(default=32 << 20, description="bytes of a line of JSONL; a longer one is a bad row")
    max_characters: _Bound = Field(default=1 << 20, description="characters of a text; a longer one is a bad row")
    max_page_seconds: _Bound = Field(default=30, description="seconds of processor time to render a page of a PDF")
    max_page_memory: _Bound = Field(default=2 << 30, description="bytes of memory of the process that renders pages")
    num_frames: int = Field(default=8, ge=1, le=4096, description="frames of a video, evenly; a shorter one has all of its own")
    fps: float | None = Field(default=None, gt=0, le=1000, description="frames of a second of video, instead of `num_frames`")
    max_frames: int = Field(default=64, ge=1, le=4096, description="frames of a video, at most, where `fps` or a row asks for more")
    max_frame_pixels: int = Field(default=1 << 20, ge=1024, description="area that larger frames are shrunk to as they are read")
    max_sound_seconds: float = Field(default=600.0, gt=0, le=86_400, description="seconds of a sound; a longer one is a bad row")
    max_media_seconds: _Bound = Field(default=60, description="seconds of processor time to read a video or a sound")
    max_media_memory: _Bound = Field(default=3 << 30, description="bytes of memory of the process that reads videos and sounds")


@settings
class Limits(ReadLimits):
    """What a row may be; decoding a picture holds at most about 13 bytes for each of `max_pixels`."""

    max_pixels: int = 50_000_000
    max_aspect: float = 200.0
    frames: Literal["only", "first"] = "only"

    @classmethod
    def reading(cls, limits: ReadLimits) -> Limits:
        """Return the usual limits with these for what is read."""
        return cls(**{field.name: getattr(limits, field.name) for field in dataclasses.fields(ReadLimits)})


def check_pixels(min_pixels: int | None, max_pixels: int | None) -> None:
    """Refuse bounds that no picture can have; whether a model's processor keeps them is measured by `model.pixels`."""
    for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is at least 1, not {value}")
    if min_pixels is not None and max_pixels is not None and min_pixels > max_pixels:
        raise UsageError(f"min_pixels {min_pixels:,} is above max_pixels {max_pixels:,}; swap them")
